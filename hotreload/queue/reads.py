"""What is read beside the writer, never through it: pages of jobs, one job whole, documents, look-ups by key and id."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Protocol, TypeVar

from hotreload.queue.contract import Document, Duplicate, JobEvent, JobView
from hotreload.queue.job import JobState, from_json
from hotreload.queue.verbs import Statements, number, numbers

R = TypeVar("R")

NAMED: Final = 1_000
"""Dead jobs told by name."""
_TEXTS: Final = 16
"""Where the JSON texts of a row begin."""


class Reader(Protocol):
    """A connection for reading, opened when first asked; calls from several threads take turns."""

    def read(self, query: Callable[[Any], R]) -> R:
        """Run a query on one view of the store and return its result; StoreUnavailable where it cannot be read."""
        ...

    def close(self) -> None:
        """Close, and end what is read meanwhile; the next read opens it again."""
        ...


class Reads:
    """The look-ups, each on one view of the store; from any thread."""

    def __init__(self, sql: Statements, reader: Reader) -> None:
        self._sql = sql
        self._reader = reader

    def _rows(self, name: str, *given: Any) -> list[Any]:
        return self._reader.read(lambda connection: self._sql.rows(connection, name, *given))

    def page(self, queue: str | None, state: JobState | None, limit: int, before: str | None) -> Sequence[JobView]:
        """Return up to `limit` jobs, newest first, those before the id `before`."""
        below = None if before is None else number(before)
        found = self._reader.read(lambda connection: self._sql.page(connection, queue, state, limit, below))
        return [_view(row) for row in found]

    def job(self, job_id: str) -> JobView | None:
        """Return one job with everything, the results of steps in its cursor; None where there is none of that id."""
        asked = number(job_id)

        def found(connection: Any) -> JobView | None:
            rows = self._sql.rows(connection, "job", asked)
            if not rows:
                return None
            steps = {name: from_json(result) for _, name, result in self._sql.rows(connection, "steps", [asked])}
            history = [JobEvent(*event) for event in self._sql.rows(connection, "history", asked)]
            return replace(_view(rows[0], steps), history=history)

        return self._reader.read(found)

    def documents(self, kind: str, newest: int) -> Sequence[Document]:
        """Return up to `newest` documents of a kind, the one put last first."""
        return [Document(*row[:3], body=from_json(row[3])) for row in self._rows("documents", kind, newest)]

    def duplicates(self, queue: str, keys: Sequence[str], since_ms: int) -> Mapping[str, Duplicate]:
        """Return the keys that have an active or dead job, or one that was done at `since_ms` or later."""
        asked = list(keys)

        def found(connection: Any) -> Mapping[str, Duplicate]:
            ended = self._sql.rows(connection, "held_of", queue, since_ms, asked)
            active = self._sql.rows(connection, "active_of", queue, asked)
            return {key: Duplicate(str(job_id), JobState(state)) for key, job_id, state in [*ended, *active]}

        return self._reader.read(found)

    def pending(self, ranges: Sequence[tuple[int, int]]) -> tuple[int, int, Mapping[str, str]]:
        """Return of the jobs in these ranges of ids: how many are unfinished, how many there are, the dead and why."""

        def found(connection: Any) -> tuple[int, int, Mapping[str, str]]:
            states: dict[str, int] = dict(self._sql.in_ranges(connection, "states_in", ranges))
            dead = dict(self._sql.in_ranges(connection, "dead_in", ranges, NAMED)) if states.get("dead") else {}
            unfinished = sum(states.get(state, 0) for state in ("ready", "scheduled", "running"))
            return unfinished, sum(states.values()), dead

        return self._reader.read(found)

    def queues_of(self, ids: Sequence[str]) -> Mapping[str, int]:
        """Return how many of these jobs each queue has."""
        return dict(self._rows("queues_of", numbers(ids)))


def _view(row: Sequence[Any], steps: Mapping[str, Any] | None = None) -> JobView:
    shown = list(row)
    shown[0], shown[2], shown[10] = str(shown[0]), JobState(shown[2]), bool(shown[10])
    for place in range(_TEXTS, len(shown) - 1):
        shown[place] = from_json(shown[place])
    if steps:
        cursor = shown[_TEXTS + 1]
        shown[_TEXTS + 1] = {**(cursor if isinstance(cursor, dict) else {}), "steps": steps}
    return JobView(*shown)
