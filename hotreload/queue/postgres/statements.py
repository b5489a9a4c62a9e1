"""How the statements of the engine on PostgreSQL are run: their texts, bindings and rows."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, Final

from hotreload.queue.job import JobState
from hotreload.queue.postgres.pipeline import Answer, Connection
from hotreload.queue.verbs import Raw, Token, load

TEXTS: Final = load("hotreload.queue.postgres")
IDS: Final = 100
"""The step of the sequence of ids: each of its values stands for so many."""
IDS_FOR_S: Final = 1.0
"""Ids are kept no longer, so that over all nodes those of newer jobs are higher, but for the last moment."""
_PRIORITY, _RUN_AT, _KEY = 10, 13, 8


class PostgresStatements:
    """Meets `Statements` for the jobs of one node."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._ids: list[int] = []
        self._ids_until = 0.0

    def rows(self, connection: Connection, name: str, *given: Any) -> list[Any]:
        return connection.ask(TEXTS[name], given).rows

    def run(self, connection: Connection, name: str, *given: Any) -> int:
        return connection.ask(TEXTS[name], given).changed

    def each(self, connection: Connection, name: str, rows: Sequence[tuple[Any, ...]]) -> int:
        return connection.ask(*spread(name, rows)).changed

    def held(self, connection: Connection, name: str, rows: Sequence[tuple[Any, ...]]) -> frozenset[Token]:
        if not rows:
            return frozenset()
        return frozenset((str(job_id), token) for job_id, token in connection.ask(*spread(name, rows)).rows)

    def reserve(self, connection: Connection, count: int) -> Iterable[int]:
        """As `Statements.reserve`; ids for a next call like this one come with what is sent next."""
        if time.monotonic() > self._ids_until:
            self._ids = []
        if len(self._ids) < count:
            self._keep_ids(connection.ask(*_ids(count - len(self._ids))))
        given, self._ids = self._ids[:count], self._ids[count:]
        if len(self._ids) < count:
            connection.later(*_ids(count), then=self._keep_ids)
        return given

    def _keep_ids(self, answer: Answer) -> None:
        self._ids += [first + place for (first,) in answer.rows for place in range(IDS)]
        self._ids_until = time.monotonic() + IDS_FOR_S

    def insert(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> frozenset[int]:
        """As `Statements.insert`; jobs without keys go with the next trip, nothing keeps them out."""
        if any(row[_KEY] is not None for row in rows):
            return frozenset(job_id for (job_id,) in connection.ask(*spread("insert", rows)).rows)
        connection.later(*spread("insert_keyless", rows))
        return frozenset([row[0] for row in rows])

    def take(self, connection: Connection, queue: str, suspect: int, limit: int, most_bytes: int) -> list[Raw]:
        text = TEXTS["take"].format(which="id = %s" if suspect else "queue = %s")
        return _page(connection.ask(text, (suspect or queue, limit, self._node, most_bytes)))

    def take_behind(self, connection: Connection, queue: str, limit: int, most_bytes: int) -> Callable[[], list[Raw]]:
        answers: list[Answer] = []
        text = TEXTS["take"].format(which="queue = %s")
        connection.behind(text, (queue, limit, self._node, most_bytes), then=answers.append)
        return lambda: _page(answers[0])

    def requeue(self, connection: Connection, queues: Sequence[str]) -> list[tuple[int, str, bool]]:
        return self.rows(connection, "requeue", list(queues), self._node)

    def left_running(self, connection: Connection) -> list[Raw]:
        return self.rows(connection, "left_running", self._node)

    def checkpoint(self, connection: Connection, rows: Sequence[tuple[int, int, str, int]]) -> frozenset[Token]:
        """As `Statements.checkpoint`; a long cursor is out of the row by itself (TOAST)."""
        return self.held(connection, "checkpoint", rows)

    def finished_since(self, connection: Connection, since_ms: int) -> list[tuple[int]]:
        return self.rows(connection, "finished_since", since_ms, self._node)

    def remove(self, connection: Connection, ids: Sequence[int]) -> None:
        if ids:
            self.run(connection, "remove", list(ids))

    def count(self, connection: Connection, sums: Mapping[str, Sequence[int]]) -> list[Any]:
        """As `Statements.count`; in the order of names, so that two nodes never wait for each other."""
        return connection.ask(*counting(sums)).rows

    def page(
        self, connection: Connection, queue: str | None, state: JobState | None, limit: int, before: int | None
    ) -> list[Any]:
        wanted = {"queue = %s": queue, "state = %s": state and state.value, "id < %s": before}
        asked = {clause: value for clause, value in wanted.items() if value is not None}
        where = f"WHERE {' AND '.join(asked)}" if asked else ""
        return connection.ask(TEXTS["page"].format(where=where), [*asked.values(), limit]).rows

    def in_ranges(self, connection: Connection, name: str, ranges: Sequence[tuple[int, int]], *given: Any) -> list[Any]:
        return self.rows(connection, name, [low for low, _ in ranges], [high for _, high in ranges], *given)


def _page(answer: Answer) -> list[Raw]:
    return sorted(map(list, answer.rows), key=lambda raw: (raw[_PRIORITY], raw[_RUN_AT], raw[0]))


def counting(sums: Mapping[str, Sequence[int]]) -> tuple[str, list[Any]]:
    """Return the statement `count` and its bindings: the last of a transaction, it goes with the COMMIT."""
    return spread("count", [(queue, *by) for queue, by in sums.items()])


def _ids(count: int) -> tuple[str, list[int]]:
    """Return the statement that reserves at least so many ids, and its binding."""
    return TEXTS["reserve"], [-(-count // IDS)]


_VALUE, _ARRAY, _LINES = "%s::{}", "%s::{}[]", "string_to_array(%s::{}, E'\\n')"
"""How a column of bindings is bound: as one value for all rows, as an array, as a text with a line for each row."""
_UNNEST: Final = re.compile(r"unnest\(((?:%s::\w+\[\](?:,\s+)?)+)\)")


def spread(name: str, rows: Sequence[tuple[Any, ...]]) -> tuple[str, list[Any]]:
    """Return a statement over rows of bindings, which its text has as the `unnest` of all columns, and its bindings.

    The server takes as long to read the arrays as to write the rows, so those are arrays that differ: jobs that are
    enqueued or end together have most of their columns in common.
    """
    forms: list[str] = []
    values: list[Any] = []
    arrays: list[Any] = []
    for column in zip(*rows, strict=True):
        if len(rows) == 1 or (forms and column.count(column[0]) == len(rows)):  # the first one says how many rows
            forms.append(_VALUE)
            values.append(column[0])
            continue
        lines = "\n".join(column) if isinstance(column[0], str) and None not in column else ""
        forms.append(_LINES if lines.count("\n") == len(rows) - 1 else _ARRAY)
        arrays.append(lines if forms[-1] is _LINES else list(column))
    return _spread_text(name, tuple(forms)), [*values, *arrays]


@cache
def _spread_text(name: str, forms: tuple[str, ...]) -> str:
    found = _UNNEST.search(TEXTS[name])
    assert found is not None
    columns: list[str] = []
    arrays: dict[str, str] = {}
    for place, (form, kind) in enumerate(zip(forms, re.findall(r"::(\w+)", found[1]), strict=True)):
        name_of, bound = f"c{place}", form.format(kind)
        if form is _VALUE:
            columns.append(f"{bound} AS {name_of}")
        else:
            columns.append(name_of)
            arrays[name_of] = bound
    source = f"SELECT {', '.join(columns)}"
    if arrays:
        source += f" FROM unnest({', '.join(arrays.values())}) AS given ({', '.join(arrays)})"
    return TEXTS[name].replace(found[0], f"({source})")
