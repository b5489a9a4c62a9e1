"""The depths of the queues: kept by the transactions that move jobs, shown from a copy in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast

import apsw

from hotreload.queue.contract import QueueDepth
from hotreload.queue.sql import run

Column = Literal["ready", "scheduled", "running", "done", "dead", "suspects"]
COLUMNS: Final[tuple[Column, ...]] = ("ready", "scheduled", "running", "done", "dead", "suspects")

_STANDING: Final = f"""
name, {", ".join(COLUMNS)}, paused,
(SELECT min(run_at_ms) FROM hotreload_jobs WHERE queue = name AND state = 'scheduled')
"""
_ADD: Final = f"""
INSERT INTO hotreload_queues (name, {", ".join(COLUMNS)}) VALUES (?, {", ".join("?" * len(COLUMNS))})
ON CONFLICT (name) DO UPDATE SET {", ".join(f"{column} = {column} + excluded.{column}" for column in COLUMNS)}
RETURNING {_STANDING}
"""
_READ: Final = f"SELECT {_STANDING} FROM hotreload_queues"


@dataclass(frozen=True, slots=True)
class Standing:
    """One queue as of the last commit; `suspects` are unfinished, `next_due_ms` is that of the scheduled."""

    name: str
    ready: int = 0
    scheduled: int = 0
    running: int = 0
    done: int = 0
    dead: int = 0
    suspects: int = 0
    paused: bool = False
    next_due_ms: int | None = None

    @property
    def claimable(self) -> bool:
        """True where a claim would find a job without waiting."""
        return self.ready > 0 and not self.paused

    def depth(self) -> QueueDepth:
        """Return the part that is shown."""
        return QueueDepth(self.name, self.ready, self.scheduled, self.running, self.dead, self.paused)


class Ledger:
    """Collects what the calls of one group move, writes it with them, shows it once it is durable.

    `add`, `mark`, `undo`, `write` belong to the writer's thread and the transaction in hand; what the public
    readers return is replaced whole after each commit, so any thread may read.
    """

    def __init__(self, committed: Callable[[Mapping[str, Standing], Mapping[str, Standing]], None]) -> None:
        self._standings: dict[str, Standing] = {}
        self._moves: list[tuple[str, Column, int]] = []
        self._written: dict[str, Standing] = {}
        self._heard = committed

    def standings(self) -> Mapping[str, Standing]:
        """Return every queue as of the last commit."""
        return self._standings

    def total(self, column: Column) -> int:
        """Return the sum over all queues, the moves of the transaction in hand included; writer's thread only."""
        moved = sum(by for _, name, by in self._moves if name == column)
        return moved + sum(getattr(standing, column) for standing in self._standings.values())

    def add(self, queue: str, column: Column, by: int) -> None:
        """Note that `by` jobs came to (or left) `column`; by 0 only has the queue read anew at the commit."""
        self._moves.append((queue, column, by))

    def mark(self) -> int:
        """Return the place to which `undo` goes back."""
        return len(self._moves)

    def undo(self, mark: int) -> None:
        """Forget what was noted since `mark`: the caller's savepoint was rolled back."""
        del self._moves[mark:]

    def write(self, connection: apsw.Connection) -> None:
        """Write what was noted, as the last thing before the commit."""
        sums: dict[str, dict[Column, int]] = {}
        for queue, column, by in self._moves:
            sums.setdefault(queue, dict.fromkeys(COLUMNS, 0))[column] += by
        for queue, by_column in sums.items():
            (row,) = run(connection, _ADD, (queue, *by_column.values())).fetchall()
            self._written[queue] = _standing(row)

    def committed(self) -> None:
        """Show what was written."""
        before, written = self._standings, self._written
        self._standings = {**before, **written}
        self._moves, self._written = [], {}
        self._heard(before, written)

    def dropped(self) -> None:
        """Forget the transaction in hand: it was rolled back."""
        self._moves, self._written = [], {}

    def load(self, connection: apsw.Connection) -> None:
        """Take over what the file says; with a new connection."""
        self._standings = {found.name: found for found in map(_standing, run(connection, _READ))}
        self.dropped()


def _standing(row: object) -> Standing:
    name, *counts, paused, due = cast("tuple[str, int, int, int, int, int, int, int, int | None]", row)
    return Standing(name, *counts, paused=bool(paused), next_due_ms=due)
