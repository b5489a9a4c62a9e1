"""The part of the store that a drain uses: from any thread, the event loop may be blocked."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from hotreload.queue.contract import Requeued
from hotreload.queue.exchange import Exchanges, Flush
from hotreload.queue.job import JobRow, Verdict
from hotreload.queue.tending import Tending
from hotreload.queue.upkeep import StoreUpkeep
from hotreload.queue.verbs import Settlement
from hotreload.queue.writer import Writer


class Drained(ABC):
    """What `SqliteQueue` has for the end of a process."""

    _writer: Writer
    _tending: Tending
    _upkeep: StoreUpkeep
    _exchanges: Exchanges
    _draining = False
    _marked = False

    @abstractmethod
    def _settlement(self, row: JobRow, verdict: Verdict) -> Settlement: ...

    def refuse_new(self) -> None:
        """Refuse `enqueue` from now on, with QueueDraining; put off upkeep, so that a flush waits for nothing."""
        self._draining = True
        self._upkeep.suspended = True

    def mark_draining(self, timeout_s: float = 1.0) -> None:
        """Record on the disk that a drain began: a kill from now on interrupts jobs, it does not crash them.

        Goes before all that waits. The mark ends with `close`, or at the next `open`. TimeoutError after `timeout_s`.
        """
        self._marked = True
        self._writer.run_sync(self._tending.mark_draining, None, timeout_s=timeout_s, urgent=True)

    def requeue_running(
        self, queues: Sequence[str], timeout_s: float, *, ended: Sequence[tuple[JobRow, Verdict]] = ()
    ) -> Requeued:
        """As `Queue.requeue_running`; after all that waits already, so that no verdict or checkpoint is overtaken."""
        call = Flush([self._settlement(*one) for one in ended], tuple(queues))
        return self._writer.run_sync(self._exchanges.flush, call, timeout_s=timeout_s)
