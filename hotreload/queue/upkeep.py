"""What the writer does while nobody waits: the WAL is folded into the file, old results are removed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Final

import apsw

from hotreload.queue.ledger import Ledger
from hotreload.queue.recover import LAST_ID, PUT_FACT
from hotreload.queue.sql import atomically, one, run

QUIET_S: Final = 0.5
LOOK_EVERY_S: Final = 30.0
WAL_MOST_PAGES: Final = 16_384
PRUNED_AT_ONCE: Final = 2_000

_OLD: Final = """
SELECT json_group_array(json_array(id, queue)) FROM (
    SELECT id, queue FROM hotreload_jobs WHERE state = 'done' AND ended_at_ms <= ? ORDER BY ended_at_ms LIMIT ?)
"""


class StoreUpkeep:
    """Decides when; does a little at a time, so that a caller who comes meanwhile waits for milliseconds.

    After `QUIET_S` without a caller all of the WAL is folded in. Under load that never pauses it is folded only
    once it exceeds `WAL_MOST_PAGES`, and results are removed once they exceed `keep_done_most`. In a drain
    (`suspended`) nothing is done: folding a WAL can take 0.3 s.
    """

    def __init__(
        self,
        ledger: Ledger,
        *,
        now_ms: Callable[[], int],
        monotonic: Callable[[], float],
        keep_done_s: float,
        keep_done_most: int,
        blocked: Callable[[], bool],
        unblock: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._now_ms = now_ms
        self._monotonic = monotonic
        self._keep_done_s = keep_done_s
        self._keep_done_most = keep_done_most
        self._blocked = blocked
        self._unblock = unblock
        self._wal_pages = 0
        self._busy_at = monotonic()
        self._looked_at = monotonic()
        self._more = False
        self.suspended = False

    def wrote(self, pages: int) -> None:
        """Note a commit; the WAL has so many pages now."""
        self._wal_pages = pages
        self._busy_at = self._monotonic()

    def due(self, *, idle: bool) -> bool:
        """Say whether `run` has something to do now."""
        if self.suspended:
            return False
        if not idle:
            return self._wal_pages > WAL_MOST_PAGES or self._too_many()
        if self._quiet_s() < QUIET_S:
            return False
        return self._wal_pages > 0 or self._more or self._blocked() or self._look_due()

    def wait_s(self) -> float | None:
        """Return how long the writer may wait for a caller before it asks again."""
        if self.suspended:
            return None
        if self._wal_pages or self._more or self._blocked():
            return max(0.0, QUIET_S - self._quiet_s()) + 0.001
        return LOOK_EVERY_S if self._done_jobs() else None

    def run(self, connection: apsw.Connection) -> None:
        """Wake claims that wait for a suspect nobody came for, remove some old results, fold the WAL in."""
        self._looked_at = self._busy_at = self._monotonic()
        if self._blocked():
            self._unblock()
        self._prune(connection)
        if not self._more:
            self.fold(connection)

    def fold(self, connection: apsw.Connection) -> None:
        """Fold the WAL into the file as far as nobody reads from it."""
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        self._wal_pages = 0

    def _quiet_s(self) -> float:
        return self._monotonic() - self._busy_at

    def _look_due(self) -> bool:
        return self._done_jobs() > 0 and self._monotonic() - self._looked_at >= LOOK_EVERY_S

    def _done_jobs(self) -> int:
        return sum(standing.done for standing in self._ledger.standings().values())

    def _too_many(self) -> bool:
        return self._done_jobs() > self._keep_done_most + PRUNED_AT_ONCE

    def _prune(self, connection: apsw.Connection) -> None:
        """Remove results past their time, and the oldest beyond the most, up to `PRUNED_AT_ONCE`.

        The newest id removed is kept, so that no id is ever given twice.
        """
        before_ms = self._now_ms() - int(self._keep_done_s * 1000)
        over = self._done_jobs() - self._keep_done_most
        found = json.loads(one(connection, _OLD, (before_ms, PRUNED_AT_ONCE)))
        if len(found) < min(over, PRUNED_AT_ONCE):
            found = json.loads(one(connection, _OLD, (1 << 62, min(over, PRUNED_AT_ONCE))))
        self._more = len(found) == PRUNED_AT_ONCE
        if not found:
            return
        ids = [job_id for job_id, _ in found]
        with atomically(connection):
            run(connection, "DELETE FROM hotreload_jobs WHERE id IN (SELECT value FROM json_each(?))", (str(ids),))
            highest = max(
                [*ids, one(connection, "SELECT max(value) FROM hotreload_facts WHERE name = ?", (LAST_ID,)) or 0]
            )
            run(connection, PUT_FACT, (LAST_ID, highest))
            for queue, count in Counter(queue for _, queue in found).items():
                self._ledger.add(queue, "done", -count)
            self._ledger.write(connection)
        self._ledger.committed()
