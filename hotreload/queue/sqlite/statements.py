"""How the statements of the engine on SQLite are run: their texts, bindings and rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final

import apsw

from hotreload.queue.job import JobState
from hotreload.queue.ledger import COLUMNS, Ledger
from hotreload.queue.sqlite.connection import Binding, one, run
from hotreload.queue.verbs import Raw, Token, load

SIZES: Final = (1, 4, 16, 32, 64, 128, 256)
APART_CHARS: Final = 4_096
"""Longer payloads and cursors are rows of their own, as a job that moves writes its whole row again."""
LAST_ID: Final = "last_id"
TEXTS: Final = load("hotreload.queue.sqlite")
_AS_JSON: Final = frozenset(name for name, text in TEXTS.items() if text.startswith("SELECT json_group_array("))
_PAYLOAD, _CURSOR, _SIZE = 2, 3, -1


class SqliteStatements:
    """Meets `Statements` on connections of apsw; one for each open store, as ids are given here."""

    def __init__(self) -> None:
        self.next_id = 1

    def rows(self, connection: apsw.Connection, name: str, *given: Any) -> list[Any]:
        found = run(connection, TEXTS[name], _bound(given))
        return json.loads(found.get) if name in _AS_JSON else found.fetchall()

    def run(self, connection: apsw.Connection, name: str, *given: Any) -> int:
        run(connection, TEXTS[name], _bound(given))
        return connection.changes()

    def each(self, connection: apsw.Connection, name: str, rows: Sequence[tuple[Any, ...]]) -> int:
        changed = 0
        for size, bindings in _padded(rows):
            run(connection, _filled(name, len(rows[0]), size), bindings)
            changed += connection.changes()
        return changed

    def held(self, connection: apsw.Connection, name: str, rows: Sequence[tuple[Any, ...]]) -> frozenset[Token]:
        """As `Statements.held`; no other writer can come between the look and the write."""
        lost: set[tuple[int, int]] = set()
        for size, bindings in _padded([row[:2] for row in rows]):
            lost.update(
                (job_id, token) for job_id, token in json.loads(one(connection, _filled("fenced", 2, size), bindings))
            )
        holding = [row for row in rows if row[:2] not in lost] if lost else rows
        self.each(connection, name, holding)
        return frozenset((str(row[0]), row[1]) for row in holding)

    def checkpoint(self, connection: apsw.Connection, rows: Sequence[tuple[int, int, str, int]]) -> frozenset[Token]:
        """As `Statements.checkpoint`; a long cursor is a row of its own."""
        long = {(str(row[0]), row[1]): row for row in rows if len(row[2]) > APART_CHARS}
        inline = [(*row[:2], "", row[3]) if len(row[2]) > APART_CHARS else row for row in rows] if long else rows
        held = self.held(connection, "checkpoint", inline)
        for job_id, _, cursor, _ in (long[token] for token in long.keys() & held):
            if self.run(connection, "keep_cursor", job_id, cursor):
                self.run(connection, "progressed", job_id)
        return held

    def reserve(self, connection: apsw.Connection, count: int) -> range:
        first, self.next_id = self.next_id, self.next_id + count
        return range(first, self.next_id)

    def seen(self, connection: apsw.Connection) -> None:
        """Give no id that a job in the file has, or had before it was removed; with a new connection."""
        highest = one(connection, "SELECT coalesce(max(id), 0) FROM hotreload_jobs")
        self.next_id = max(self.next_id, highest + 1, (fact(connection, LAST_ID) or 0) + 1)

    def insert(self, connection: apsw.Connection, rows: Sequence[tuple[Any, ...]]) -> Collection[int]:
        """As `Statements.insert`; a long payload is a row of its own."""
        long = {row[0]: row[-1] for row in rows if len(row[-1]) > APART_CHARS}
        inline = [(*row[:-1], "") if row[0] in long else row for row in rows] if long else rows
        if self.each(connection, "insert", inline) == len(rows):
            there = frozenset[int](row[0] for row in rows)
        else:
            there = frozenset[int](self.rows(connection, "inserted", rows[0][0], rows[-1][0]))
        self.each(connection, "insert_payloads", [one for one in long.items() if one[0] in there])
        return there

    def take(self, connection: apsw.Connection, queue: str, suspect: int, limit: int, most_bytes: int) -> list[Raw]:
        text = one(connection, _next(suspect > 0), (suspect or queue, limit))
        page: list[Raw] = []
        for raw in json.loads(text):
            most_bytes -= raw[_SIZE]
            if page and most_bytes < 0:
                break
            if raw[_PAYLOAD] is None:
                [(raw[_PAYLOAD], raw[_CURSOR])] = self.rows(connection, "large", raw[0])
            page.append(raw)
        if page:
            self.run(connection, "take", [raw[0] for raw in page])
        return page

    def take_behind(
        self, connection: apsw.Connection, queue: str, limit: int, most_bytes: int
    ) -> Callable[[], list[Raw]]:
        return lambda: self.take(connection, queue, 0, limit, most_bytes)

    def requeue(self, connection: apsw.Connection, queues: Sequence[str]) -> list[tuple[int, str, bool]]:
        found = self.rows(connection, "running_in", list(queues))
        self.run(connection, "requeue", list(queues))
        return found

    def left_running(self, connection: apsw.Connection) -> list[Raw]:
        return self.rows(connection, "left_running")

    def finished_since(self, connection: apsw.Connection, since_ms: int) -> list[tuple[int]]:
        return self.rows(connection, "finished_since", since_ms)

    def remove(self, connection: apsw.Connection, ids: Sequence[int]) -> None:
        """As `Statements.remove`; it is kept in mind up to which id they were given."""
        if ids:
            put_fact(connection, LAST_ID, max([*ids, fact(connection, LAST_ID) or 0]))
            self.run(connection, "remove", list(ids))

    def count(self, connection: apsw.Connection, sums: Mapping[str, Sequence[int]]) -> list[Any]:
        return [row for queue, by in sums.items() for row in self.rows(connection, "count", queue, *by)]

    def page(
        self, connection: apsw.Connection, queue: str | None, state: JobState | None, limit: int, before: int | None
    ) -> list[Any]:
        wanted = {"queue = ?": queue, "state = ?": state, "id < ?": before}
        clauses = [clause for clause, value in wanted.items() if value is not None]
        index = ""
        if state is JobState.DEAD or state is JobState.RUNNING:
            # a partial index is for a query that says its condition
            index, clauses = f"INDEXED BY hotreload_jobs_{state.value} ", [*clauses, f"state = '{state.value}'"]
        where = index + (f"WHERE {' AND '.join(clauses)}" if clauses else "")
        bindings = [*(value for value in wanted.values() if value is not None), limit]
        return run(connection, TEXTS["page"].format(where=where), bindings).fetchall()

    def in_ranges(
        self, connection: apsw.Connection, name: str, ranges: Sequence[tuple[int, int]], *given: Any
    ) -> list[Any]:
        return self.rows(connection, name, list(ranges), *given)

    def agrees(self, connection: apsw.Connection, ledger: Ledger) -> bool:
        """Say whether a copy of the database is sound and has in it what was committed last."""
        there = ledger.read(connection)
        counted = {(queue, state): count for queue, state, count in self.rows(connection, "counted")}
        kept = {
            (name, column): count
            for name, standing in there.items()
            for column in COLUMNS[:-1]
            if (count := getattr(standing, column))
        }
        sound = one(connection, "PRAGMA integrity_check") == "ok"
        return there == ledger.standings() and kept == counted and sound


def fact(connection: apsw.Connection, name: str) -> int | None:
    """Return a number kept under `name`, None where there is none."""
    return one(connection, TEXTS["fact"], (name,))


def put_fact(connection: apsw.Connection, name: str, value: int) -> None:
    """Keep a number under `name`."""
    run(connection, TEXTS["put_fact"], (name, value))


def _bound(given: Sequence[Any]) -> Sequence[Binding]:
    return [json.dumps(value) if isinstance(value, list) else value for value in given]


def _padded(rows: Sequence[tuple[Binding, ...]]) -> Iterator[tuple[int, list[Binding]]]:
    """Cut `rows` into pieces of a few sizes, so that few statements serve all; yield (size, bindings).

    The last piece is filled with NULL rows, which every statement leaves out by its first column.
    """
    most = SIZES[-1]
    for start in range(0, len(rows), most):
        piece = rows[start : start + most]
        size = next(size for size in SIZES if size >= len(piece))
        bindings = [value for row in piece for value in row]
        bindings.extend([None] * ((size - len(piece)) * len(piece[0])))
        yield size, bindings


@cache
def _filled(name: str, width: int, size: int) -> str:
    """Return the statement with `{values}` replaced by `VALUES (?, …), …` for `size` rows of `width` columns."""
    row = f"({', '.join('?' * width)})"
    return TEXTS[name].format(values=f"VALUES {', '.join([row] * size)}")


@cache
def _next(suspect: bool) -> str:
    return TEXTS["next"].format(which="id = ?" if suspect else "queue = ?")
