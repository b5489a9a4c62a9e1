"""The depths of the queues: kept by the transactions that move jobs, shown from a copy in memory, told to listeners."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from hotreload.queue.contract import QueueDepth

if TYPE_CHECKING:
    from hotreload.queue.verbs import Statements

log = logging.getLogger(__name__)

Column = Literal["ready", "scheduled", "running", "done", "dead", "suspects"]
COLUMNS: Final[tuple[Column, ...]] = ("ready", "scheduled", "running", "done", "dead", "suspects")


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

    def depth(self) -> QueueDepth:
        """Return the part that is shown."""
        return QueueDepth(self.name, self.ready, self.scheduled, self.running, self.dead, self.paused)


class Ledger:
    """Collects what the calls of one group move, writes it with them, shows it once it is durable.

    `add`, `mark`, `undo`, `write` belong to the writer's thread and its open transaction; what `standings` returns is
    replaced whole after each commit, so any thread may read. `listeners` are called after a commit with the name of
    each queue that has more to claim, or something sooner.
    """

    def __init__(self, sql: Statements) -> None:
        self._sql = sql
        self._standings: Mapping[str, Standing] = {}
        self._moves: list[tuple[str, Column, int]] = []
        self._written: dict[str, Standing] = {}
        self.woken: set[str] = set()
        """The queues in which a claim may find more once the open transaction is committed; set by `sums`."""
        self.listeners: list[Callable[[str], None]] = []

    def standings(self) -> Mapping[str, Standing]:
        """Return every queue as of the last commit, those of other nodes as of the last look."""
        return self._standings

    def standing(self, queue: str) -> Standing:
        """Return one of them; one of a queue that is not known has no jobs."""
        return self._standings.get(queue) or Standing(queue)

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

    def write(self, connection: Any) -> None:
        """Write what was noted, as the last thing before the commit: the rows of the queues are locked from here on."""
        if sums := self.sums():
            self.wrote(self._sql.count(connection, sums))

    def sums(self) -> Mapping[str, Sequence[int]]:
        """Return what is to be added to the counters of each queue; `wrote` is to have their rows then."""
        sums: dict[str, dict[Column, int]] = {}
        for queue, column, by in self._moves:
            sums.setdefault(queue, dict.fromkeys(COLUMNS, 0))[column] += by
        self.woken = {queue for queue, column, by in self._moves if column in ("ready", "scheduled") and by >= 0}
        if any(by["running"] < 0 for by in sums.values()):  # a suspect may have waited for the end of any run
            self.woken |= {one.name for one in self._standings.values() if one.suspects and one.ready}
        return {queue: list(by.values()) for queue, by in sums.items()}

    def wrote(self, rows: Sequence[Any]) -> None:
        """Take the queues as they are once the open transaction is committed."""
        self._written = {found.name: found for found in map(_standing, rows)}

    def committed(self) -> None:
        """Show what was written, and tell the listeners."""
        before, written = self._standings, self._written
        self._standings = {**before, **written}
        self.dropped()
        self._tell(before, written)

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
        self._tell({}, {queue: now})
        return True

    def refresh(self, connection: Any) -> None:
        """Take over what the database says, and tell of every queue with something to claim.

        Not only of what is more than before: what others had locked a moment ago may be free again.
        """
        self.dropped()
        self._standings = self.read(connection)
        self._tell({}, self._standings)

    def read(self, connection: Any) -> Mapping[str, Standing]:
        """Return what the database says."""
        return {found.name: found for found in map(_standing, self._sql.rows(connection, "standings"))}

    def _tell(self, before: Mapping[str, Standing], written: Mapping[str, Standing]) -> None:
        """Tell what a commit changed; `written` holds the queues it touched.

        A suspect may wait for another one in another queue, so the end of any run wakes every queue that has suspects.
        """
        woken = {name for name, now in written.items() if _better(before.get(name, Standing(name)), now)}
        if any(now.running < before[name].running for name, now in written.items() if name in before):
            woken |= {name for name, now in {**before, **written}.items() if now.suspects and now.ready}
        for name in sorted(woken):
            for listener in self.listeners:
                try:
                    listener(name)
                except Exception:
                    log.exception("queue.listener_failed queue=%s", name)


def _better(was: Standing, now: Standing) -> bool:
    """Say whether a caller that found nothing to claim, or waits for the next job that is due, should look again."""
    if now.paused:
        return False
    sooner = now.next_due_ms is not None and (was.next_due_ms is None or now.next_due_ms < was.next_due_ms)
    return was.paused or now.ready > was.ready or sooner


def _standing(row: Sequence[Any]) -> Standing:
    name, *counts, paused, due = row
    return Standing(name, *counts, paused=bool(paused), next_due_ms=due)
