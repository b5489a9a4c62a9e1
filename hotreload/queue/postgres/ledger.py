"""The depths of the queues: kept by the transactions that move jobs, shown from a copy in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

from psycopg.sql import quote

from hotreload.queue.notify import Standing
from hotreload.queue.postgres.connection import Connection, run

Column = Literal["ready", "scheduled", "running", "done", "dead", "suspects"]
COLUMNS: Final[tuple[Column, ...]] = ("ready", "scheduled", "running", "done", "dead", "suspects")

_STANDING: Final = f"""
name, {", ".join(COLUMNS)}, paused,
(SELECT min(run_at_ms) FROM hotreload_jobs WHERE queue = name AND state = 'scheduled')
"""
# In the order of names, so that two nodes never wait for each other.
_ADD: Final = f"""
INSERT INTO hotreload_queues AS now (name, {", ".join(COLUMNS)})
SELECT * FROM unnest({{}}::text[], {", ".join(["{}::bigint[]"] * len(COLUMNS))}) AS new (name) ORDER BY name
ON CONFLICT (name) DO UPDATE SET {", ".join(f"{column} = now.{column} + excluded.{column}" for column in COLUMNS)}
RETURNING {_STANDING}
"""
_READ: Final = f"SELECT {_STANDING} FROM hotreload_queues"


class Ledger:
    """Collects what the calls of one group move, writes it with them, shows it once it is durable.

    `add`, `mark`, `undo`, `write` belong to the writer's thread and its open transaction; what `standings` returns is
    replaced whole after each commit, so any thread may read.
    """

    def __init__(self, committed: Callable[[Mapping[str, Standing], Mapping[str, Standing]], None]) -> None:
        self._standings: dict[str, Standing] = {}
        self._moves: list[tuple[str, Column, int]] = []
        self._written: dict[str, Standing] = {}
        self.woken: set[str] = set()
        """The queues in which a claim may find more once the open transaction is committed; set by `write`."""
        self._heard = committed

    def standings(self) -> Mapping[str, Standing]:
        """Return every queue as of the last commit, those of other nodes as of the last look."""
        return self._standings

    def total(self, column: Column, queue: str | None = None) -> int:
        """Return the sum over all queues, or of one, the open transaction included; writer's thread only."""
        moved = sum(by for name, into, by in self._moves if into == column and queue in (None, name))
        standings = (one for one in self._standings.values() if queue in (None, one.name))
        return moved + sum(getattr(standing, column) for standing in standings)

    def add(self, queue: str, column: Column, by: int) -> None:
        """Note that `by` jobs came to (or left) `column`; by 0 only has the queue read again at the commit."""
        self._moves.append((queue, column, by))

    def mark(self) -> int:
        """Return the place to which `undo` goes back."""
        return len(self._moves)

    def undo(self, mark: int) -> None:
        """Forget what was noted since `mark`: the caller's savepoint was rolled back."""
        del self._moves[mark:]

    def write(self, connection: Connection) -> None:
        """Write what was noted, as the last thing before the commit: the rows of the queues are locked from here on."""
        if sql := self.sql():
            self.wrote(run(connection, sql).fetchall())

    def sql(self) -> str:
        """Return the statement that `write` runs, "" where nothing was noted; `wrote` is to have its rows."""
        sums: dict[str, dict[Column, int]] = {}
        for queue, column, by in self._moves:
            sums.setdefault(queue, dict.fromkeys(COLUMNS, 0))[column] += by
        self.woken = {queue for queue, column, by in self._moves if column in ("ready", "scheduled") and by >= 0}
        if any(by["running"] < 0 for by in sums.values()):  # a suspect may have waited for the end of any run
            self.woken |= {one.name for one in self._standings.values() if one.suspects and one.ready}
        if not sums:
            return ""
        columns = [list(sums), *([by[column] for by in sums.values()] for column in COLUMNS)]
        return _ADD.format(*map(quote, columns))

    def wrote(self, rows: Sequence[Any]) -> None:
        """Take the queues as they are once the open transaction is committed."""
        self._written = {found.name: found for found in map(_standing, rows)}

    def committed(self) -> None:
        """Show what was written."""
        before, written = self._standings, self._written
        self._standings = {**before, **written}
        self.dropped()
        self._heard(before, written)

    def dropped(self) -> None:
        """Forget the open transaction: it was rolled back."""
        self._moves, self._written, self.woken = [], {}, set()

    def hint(self, queue: str) -> bool:
        """Take it that another process made a job of `queue` ready, until the next write or `refresh` says the truth.

        False where that says nothing: the queue is not known here, or paused.
        """
        known = self._standings.get(queue)
        if known is None or known.paused:
            return False
        now = replace(known, ready=max(1, known.ready))
        self._standings = {**self._standings, queue: now}
        self._heard({}, {queue: now})
        return True

    def refresh(self, connection: Connection) -> None:
        """Take over what the database says, and tell of every queue with something to claim.

        Not only of what is more than before: what others had locked a moment ago may be free again.
        """
        self.dropped()
        self._standings = {found.name: found for found in map(_standing, run(connection, _READ))}
        self._heard({}, self._standings)


def _standing(row: Any) -> Standing:
    name, *counts, paused, due = row
    return Standing(name, *counts, paused=paused, next_due_ms=due)
