"""The part of the store that a drain uses: from any thread, the event loop may be blocked."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import apsw

from hotreload.queue.claims import Claims
from hotreload.queue.contract import PutBack, Requeued
from hotreload.queue.documents import Put
from hotreload.queue.exchange import Exchanges, Flush
from hotreload.queue.job import JobRow, JobState, Verdict
from hotreload.queue.lock import StoreLock
from hotreload.queue.marking import DrainMark, unmark
from hotreload.queue.people import number
from hotreload.queue.sql import one
from hotreload.queue.tending import Tending
from hotreload.queue.upkeep import StoreUpkeep
from hotreload.queue.verbs import Settlement
from hotreload.queue.writer import Writer

_STATES: Final = """
SELECT json_group_array(json_array(id, state)) FROM hotreload_jobs WHERE id IN (SELECT value FROM json_each(?))
"""


class LastFlush(NamedTuple):
    """Claims to end, queues to put back, jobs whose state is asked for, and who makes the report of it."""

    flush: Flush
    asked: Sequence[str]
    report: Callable[[PutBack], Put] | None


class Drained(ABC):
    """What `SqliteQueue` has for the end of a process."""

    _writer: Writer
    _tending: Tending
    _upkeep: StoreUpkeep
    _exchanges: Exchanges
    _claims: Claims
    _lock: StoreLock
    _draining = False
    _marked = False

    @abstractmethod
    def _settlement(self, row: JobRow, verdict: Verdict) -> Settlement: ...

    @property
    def owner(self) -> str:
        """What tells this owner of the store from those before and after it (see `DrainMark`)."""
        return self._lock.text

    def refuse_new(self) -> None:
        """Refuse `enqueue` from now on, with QueueDraining, and give nothing to claims; a second call changes nothing.

        Upkeep is put off, so that a flush waits for nothing.
        """
        self._draining = True
        self._claims.closed = True
        self._upkeep.suspended = True

    def mark_draining(self, timeout_s: float = 1.0, drain: DrainMark | None = None) -> None:
        """Record on the disk that a drain began: a kill from now on interrupts jobs, it does not crash them.

        Goes before all that waits. The mark ends with `flush` or `close`, or at the next `open`. TimeoutError after
        `timeout_s`.
        """
        self._marked = True
        call = drain or DrainMark()
        self._writer.run_sync(self._tending.mark_draining, call, timeout_s=timeout_s, urgent=True)

    def requeue_running(
        self, queues: Sequence[str], timeout_s: float, *, ended: Sequence[tuple[JobRow, Verdict]] = ()
    ) -> Requeued:
        """As `Queue.requeue_running`; after all that waits already, so that no verdict or checkpoint is overtaken."""
        call = Flush([self._settlement(*one) for one in ended], tuple(queues))
        return self._writer.run_sync(self._exchanges.flush, call, timeout_s=timeout_s)

    def flush(
        self,
        queues: Sequence[str],
        timeout_s: float,
        report: Callable[[PutBack], Put] | None = None,
        *,
        ended: Sequence[tuple[JobRow, Verdict]] = (),
        asked: Sequence[str] = (),
    ) -> PutBack:
        """As `Queue.flush`; `report` is called in the writer's thread. Ends the mark of the drain.

        Where it raises the mark stays for the next `open`.
        """
        self.refuse_new()
        self._marked = False
        flush = Flush([self._settlement(*one) for one in ended], tuple(queues))
        return self._writer.run_sync(self._last_flush, LastFlush(flush, asked, report), timeout_s=timeout_s)

    def _last_flush(self, connection: apsw.Connection, calls: Sequence[LastFlush]) -> Sequence[PutBack]:
        return [self._put_back(connection, call) for call in calls]

    def _put_back(self, connection: apsw.Connection, call: LastFlush) -> PutBack:
        [requeued] = self._exchanges.flush(connection, [call.flush])
        found = json.loads(one(connection, _STATES, (json.dumps([number(job_id) for job_id in call.asked]),)))
        back = PutBack(requeued, {str(job_id): JobState(state) for job_id, state in found})
        unmark(connection)
        if call.report is not None:
            self._tending.put(connection, [call.report(back)])
        return back
