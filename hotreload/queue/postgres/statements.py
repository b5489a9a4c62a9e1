"""How the statements of the engine on PostgreSQL are run: their texts, bindings and rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from psycopg.sql import quote

from hotreload.queue.job import JobState
from hotreload.queue.ledger import COLUMNS
from hotreload.queue.postgres.connection import Connection, run
from hotreload.queue.verbs import Raw, Token, load

TEXTS: Final = load("hotreload.queue.postgres")
_PRIORITY, _RUN_AT = 10, 13


class PostgresStatements:
    """Meets `Statements` for the jobs of one node."""

    def __init__(self, node: str) -> None:
        self._node = node

    def rows(self, connection: Connection, name: str, *given: Any) -> list[Any]:
        return run(connection, TEXTS[name], given).fetchall()

    def run(self, connection: Connection, name: str, *given: Any) -> int:
        return run(connection, TEXTS[name], given).rowcount

    def each(self, connection: Connection, name: str, rows: Sequence[tuple[Any, ...]]) -> int:
        return run(connection, TEXTS[name], _columns(rows)).rowcount

    def held(self, connection: Connection, name: str, rows: Sequence[tuple[Any, ...]]) -> frozenset[Token]:
        if not rows:
            return frozenset()
        return frozenset((str(job_id), token) for job_id, token in self.rows(connection, name, *_columns(rows)))

    def reserve(self, connection: Connection, count: int) -> Iterable[int]:
        return [job_id for (job_id,) in self.rows(connection, "reserve", count)]

    def insert(self, connection: Connection, rows: Sequence[tuple[Any, ...]]) -> frozenset[int]:
        return frozenset(job_id for (job_id,) in self.rows(connection, "insert", *_columns(rows)))

    def take(self, connection: Connection, queue: str, suspect: int, limit: int, most_bytes: int) -> list[Raw]:
        text = TEXTS["take"].format(which="id = %s" if suspect else "queue = %s")
        page = run(connection, text, (suspect or queue, limit, self._node, most_bytes)).fetchall()
        return sorted(map(list, page), key=lambda raw: (raw[_PRIORITY], raw[_RUN_AT], raw[0]))

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
        return run(connection, counting(sums)).fetchall()

    def page(
        self, connection: Connection, queue: str | None, state: JobState | None, limit: int, before: int | None
    ) -> list[Any]:
        wanted = {"queue = %s": queue, "state = %s": state and state.value, "id < %s": before}
        asked = {clause: value for clause, value in wanted.items() if value is not None}
        where = f"WHERE {' AND '.join(asked)}" if asked else ""
        return run(connection, TEXTS["page"].format(where=where), [*asked.values(), limit]).fetchall()

    def in_ranges(self, connection: Connection, name: str, ranges: Sequence[tuple[int, int]], *given: Any) -> list[Any]:
        return self.rows(connection, name, [low for low, _ in ranges], [high for _, high in ranges], *given)


def counting(sums: Mapping[str, Sequence[int]]) -> str:
    """Return the statement `count` with its values in it: the last of a transaction, it goes with the COMMIT."""
    columns = ([by[place] for by in sums.values()] for place in range(len(COLUMNS)))
    return TEXTS["count"] % (quote(list(sums)), *map(quote, columns))


def _columns(rows: Sequence[tuple[Any, ...]]) -> list[str]:
    """Turn rows into one array a column, as `unnest` takes them; their texts take a third of the driver's time."""
    return ["{" + ",".join([_element(value) for value in column]) + "}" for column in zip(*rows, strict=True)]


def _element(value: str | int | None) -> str:
    """Return a value as an element of an array's text."""
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)
