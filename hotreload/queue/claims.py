"""How jobs are taken, and given back where nobody received them; in the writer's thread and transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import apsw

from hotreload.queue.alone import Alone, May
from hotreload.queue.job import JobState
from hotreload.queue.ledger import Ledger
from hotreload.queue.rows import AS_JSON, CLAIMED, Raw, token_of
from hotreload.queue.sql import one, run

PROMOTED_MOST: Final = 10_000

PROMOTE: Final = """
UPDATE hotreload_jobs SET state = 'ready' WHERE id IN (
    SELECT id FROM hotreload_jobs WHERE queue = ? AND state = 'scheduled' AND run_at_ms <= ? ORDER BY run_at_ms LIMIT ?)
"""
NEXT: Final = f"""
{AS_JSON} FROM (
    SELECT {CLAIMED} FROM hotreload_jobs
    WHERE queue = ? AND state = 'ready' ORDER BY priority, run_at_ms, id LIMIT ?)
"""
NEXT_SUSPECT: Final = f"""
{AS_JSON} FROM (
    SELECT {CLAIMED} FROM hotreload_jobs
    WHERE queue = ? AND state = 'ready' AND suspect = 1 ORDER BY priority, run_at_ms, id LIMIT 1)
"""
TAKE: Final = """
UPDATE hotreload_jobs SET state = 'running', lease_seq = lease_seq + 1 WHERE id IN (SELECT value FROM json_each(?))
"""
UNCLAIM: Final = """
UPDATE hotreload_jobs SET state = 'ready' WHERE state = 'running' AND id = ? AND lease_seq = ?
"""


class Claim(NamedTuple):
    """One claim; `limit` ≥ 1."""

    queue: str
    limit: int


class Claims:
    """The verbs over one ledger, one clock and one rule for suspects."""

    def __init__(self, ledger: Ledger, now_ms: Callable[[], int], alone: Alone) -> None:
        self._ledger = ledger
        self._now_ms = now_ms
        self._alone = alone
        self.closed = False
        """True once nothing may be claimed any more; set from any thread, what the writer does next keeps to it."""

    def claim(self, connection: apsw.Connection, calls: Sequence[Claim]) -> Sequence[list[Raw]]:
        """Take jobs for each call in turn; what is returned is for `leased`."""
        return [self._claim(connection, call.queue, call.limit) for call in calls]

    def _claim(self, connection: apsw.Connection, queue: str, limit: int) -> list[Raw]:
        standing = self._ledger.standings().get(queue)
        if self.closed or standing is None or standing.paused:
            return []
        now_ms = self._now_ms()
        if standing.next_due_ms is not None and standing.next_due_ms <= now_ms:
            run(connection, PROMOTE, (queue, now_ms, PROMOTED_MOST))
            self._ledger.add(queue, "scheduled", -connection.changes())
            self._ledger.add(queue, "ready", connection.changes())
        found = self._pick(connection, queue, limit)
        if not found:
            return []
        run(connection, TAKE, (str([raw[0] for raw in found]),))
        self._ledger.add(queue, "ready", -len(found))
        self._ledger.add(queue, "running", len(found))
        return found

    def _pick(self, connection: apsw.Connection, queue: str, limit: int) -> list[Raw]:
        may = May.OTHERS
        if self._ledger.total("suspects"):
            may = self._alone.may(queue, **_suspects(connection, queue), running=self._ledger.total("running"))
        if may is May.NOTHING:
            return []
        alone = may is May.SUSPECT
        text = one(connection, NEXT_SUSPECT, (queue,)) if alone else one(connection, NEXT, (queue, limit))
        return json.loads(text)

    def unclaim(self, connection: apsw.Connection, calls: Sequence[Sequence[Raw]]) -> Sequence[None]:
        """Put back what `claim` returned to nobody, as if it had not been claimed."""
        for raw in (raw for taken in calls for raw in taken):
            run(connection, UNCLAIM, (raw[0], token_of(raw)))
            self._ledger.add(raw[1], "running", -connection.changes())
            self._ledger.add(raw[1], "ready", connection.changes())
        return [None] * len(calls)


def _suspects(connection: apsw.Connection, queue: str) -> dict[str, bool]:
    rows = run(connection, "SELECT state, queue = ? FROM hotreload_jobs WHERE suspect = 1", (queue,)).fetchall()
    return {
        "suspect_runs": any(state == JobState.RUNNING for state, _ in rows),
        "suspect_here": any(state == JobState.READY and here for state, here in rows),
    }
