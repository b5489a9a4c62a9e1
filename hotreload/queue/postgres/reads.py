"""What is read beside the writer, never through it: pages of jobs, one job whole, documents, look-ups by key and id."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, TypeVar

import psycopg

from hotreload.queue.contract import Document, Duplicate, JobEvent, JobView
from hotreload.queue.job import JobState, from_json
from hotreload.queue.postgres.connection import Connection, as_error, connect, place, rolled_back, run
from hotreload.queue.postgres.statements import number, numbers

R = TypeVar("R")

NAMED: Final = 1_000
"""Dead jobs told by name."""
CLOSE_WITHIN_S: Final = 1.0
_SHOWN: Final = (
    "id, queue, state, priority, run_at_ms, lease_seq, attempts, max_attempts, interruptions, crashes, suspect, "
    "version, enqueued_at_ms, ended_at_ms, dedupe_key, reason"
)
_TEXTS: Final = 16
_JOB: Final = f"SELECT {_SHOWN}, payload, cursor, result, traceback FROM hotreload_jobs WHERE id = %s"
_STEPS: Final = "SELECT name, result FROM hotreload_steps WHERE job = %s"
_HISTORY: Final = "SELECT at_ms, event, reason FROM hotreload_history WHERE job = %s ORDER BY number"
_DOCUMENTS: Final = "SELECT kind, id, at_ms, body FROM hotreload_documents WHERE kind = %s ORDER BY seq DESC LIMIT %s"
_ACTIVE: Final = """
SELECT dedupe_key, id, state FROM hotreload_jobs
WHERE queue = %s AND state IN ('ready', 'scheduled', 'running') AND dedupe_key = ANY(%s)
"""
_ENDED: Final = """
SELECT DISTINCT ON (dedupe_key) dedupe_key, id, state FROM hotreload_jobs
WHERE queue = %s AND (state = 'dead' OR state = 'done' AND ended_at_ms >= %s) AND dedupe_key = ANY(%s)
ORDER BY dedupe_key, id DESC
"""
_IN_RANGES: Final = "FROM hotreload_jobs JOIN unnest(%s::bigint[], %s::bigint[]) AS part (low, high)"
_STATES: Final = f"SELECT state, count(*) {_IN_RANGES} ON id BETWEEN low AND high GROUP BY state"
_DEAD: Final = f"""
SELECT coalesce(dedupe_key, id::text), coalesce(reason, '') {_IN_RANGES} ON id BETWEEN low AND high
WHERE state = 'dead' LIMIT %s
"""
_QUEUES: Final = "SELECT queue, count(*) FROM hotreload_jobs WHERE id = ANY(%s) GROUP BY queue"


class Reader:
    """A connection for reading, opened when first asked; calls from several threads take turns."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._turn = threading.Lock()
        self._connection: Connection | None = None

    def read(self, query: Callable[[Connection], R]) -> R:
        """Run a query on one view of the database and return its result.

        StoreUnavailable where it cannot be read, ValueError for SQL that does not only read. A connection that was
        lost since the last call is opened again.
        """
        with self._turn:
            if self._connection is not None:
                with suppress(psycopg.OperationalError):
                    return self._read(self._connection, query)
                self._drop()
            try:
                self._connection = connect(self.dsn)
                return self._read(self._connection, query)
            except psycopg.Error as error:
                self._drop()
                raise as_error(error, place(self.dsn)) from error

    @staticmethod
    def _read(connection: Connection, query: Callable[[Connection], R]) -> R:
        run(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            return query(connection)
        except psycopg.errors.ReadOnlySqlTransaction as error:
            raise ValueError(f"not for a function that reads the store: {error}") from error
        finally:
            rolled_back(connection)

    def close(self) -> None:
        """Close, and end what is read meanwhile; the next read opens it again."""
        connection = self._connection
        if connection is not None and self._turn.locked():
            with suppress(psycopg.Error):
                connection.cancel_safe(timeout=CLOSE_WITHIN_S)
        if self._turn.acquire(timeout=CLOSE_WITHIN_S):
            self._drop()
            self._turn.release()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def page(self, queue: str | None, state: JobState | None, limit: int, before: str | None) -> Sequence[JobView]:
        """Return up to `limit` jobs, newest first, those before the id `before`."""
        wanted: list[tuple[str, Any]] = [
            ("queue = %s", queue),
            ("state = %s", state and state.value),
            ("id < %s", None if before is None else number(before)),
        ]
        asked = [(clause, value) for clause, value in wanted if value is not None]
        where = f" WHERE {' AND '.join(clause for clause, _ in asked)}" if asked else ""
        sql = f"SELECT {_SHOWN} FROM hotreload_jobs{where} ORDER BY id DESC LIMIT %s"
        bindings = [*(value for _, value in asked), limit]
        return [_view(row) for row in self.read(lambda connection: run(connection, sql, bindings).fetchall())]

    def job(self, job_id: str) -> JobView | None:
        """Return one job with everything, the results of steps in its cursor; None where there is none of that id."""
        asked = (number(job_id),)

        def found(connection: Connection) -> JobView | None:
            row = run(connection, _JOB, asked).fetchone()
            if row is None:
                return None
            steps = {name: from_json(result) for name, result in run(connection, _STEPS, asked)}
            history = [JobEvent(*event) for event in run(connection, _HISTORY, asked)]
            return replace(_view(row, steps), history=history)

        return self.read(found)

    def documents(self, kind: str, newest: int) -> Sequence[Document]:
        """Return up to `newest` documents of a kind, the one put last first."""
        rows = self.read(lambda connection: run(connection, _DOCUMENTS, (kind, newest)).fetchall())
        return [Document(*row[:3], body=from_json(row[3])) for row in rows]

    def duplicates(self, queue: str, keys: Sequence[str], since_ms: int) -> Mapping[str, Duplicate]:
        """Return the keys that have an active or dead job, or one that was done at `since_ms` or later."""
        asked = list(keys)

        def found(connection: Connection) -> Mapping[str, Duplicate]:
            ended = run(connection, _ENDED, (queue, since_ms, asked)).fetchall()
            active = run(connection, _ACTIVE, (queue, asked)).fetchall()
            return {key: Duplicate(str(job_id), JobState(state)) for key, job_id, state in [*ended, *active]}

        return self.read(found)

    def pending(self, ranges: Sequence[tuple[int, int]]) -> tuple[int, int, Mapping[str, str]]:
        """Return of the jobs in these ranges of ids: how many are unfinished, how many there are, the dead and why."""
        low, high = [low for low, _ in ranges], [high for _, high in ranges]

        def found(connection: Connection) -> tuple[int, int, Mapping[str, str]]:
            states: dict[str, int] = dict(run(connection, _STATES, (low, high)).fetchall())
            dead = dict(run(connection, _DEAD, (low, high, NAMED)).fetchall()) if states.get("dead") else {}
            unfinished = sum(states.get(state, 0) for state in ("ready", "scheduled", "running"))
            return unfinished, sum(states.values()), dead

        return self.read(found)

    def queues_of(self, ids: Sequence[str]) -> Mapping[str, int]:
        """Return how many of these jobs each queue has."""
        return dict(self.read(lambda connection: run(connection, _QUEUES, (numbers(ids),)).fetchall()))


def _view(row: Sequence[Any], steps: Mapping[str, Any] | None = None) -> JobView:
    shown = list(row)
    shown[0], shown[2] = str(shown[0]), JobState(shown[2])
    for place_of in range(_TEXTS, len(shown) - 1):
        shown[place_of] = from_json(shown[place_of])
    if steps:
        cursor = shown[_TEXTS + 1]
        shown[_TEXTS + 1] = {**(cursor if isinstance(cursor, dict) else {}), "steps": steps}
    return JobView(*shown)
