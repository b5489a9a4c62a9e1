"""Stop OpenViking's queue workers in the order that ends them: intake, grace, messages, nodes, threads.

Stock sets a stop event and joins its threads; a message whose model call hangs waits for node workers nothing
cancels, so the join fails. Here each message is cancelled on its own loop, its node workers after it, and what
was not acknowledged stays in the store, which gives it out again when it is opened next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from hotreload.lifecycle import Flushed, Remaining
from hotreload.openviking.limits import QueueWorkers
from hotreload.openviking.patches import cancel_nodes_on
from hotreload.openviking.queue_worker import Delivery, QueueWorker

LAST = "Embedding"
"""The queue that goes on while others work: it takes what they hand on."""


class QueueDrain:
    """The queue workers as one part of a drain. Meets `Drainable`."""

    def __init__(self, workers: QueueWorkers) -> None:
        self.name = "workers"
        self._workers = workers
        self._quiesced = False

    def quiesce(self) -> None:
        """Begin no further message, but for the queue that running ones hand their last step to."""
        self._quiesced = True
        self._workers.quiesce(spared=LAST)
        self._stop_last_if_alone()

    def remaining(self) -> Sequence[Remaining]:
        """Return what is claimed and not settled; `waiting` is what only waits: for child work, or for an endpoint."""
        self._stop_last_if_alone()
        return [
            Remaining(_id(worker, delivery), worker.name, bool(delivery.waits))
            for worker in self._workers.workers()
            for delivery in worker.deliveries()
        ]

    async def idle(self) -> None:
        """Return when no claimed message does work."""
        loop = asyncio.get_running_loop()
        turned = asyncio.Event()
        with self._workers.listening(lambda: _call(loop, turned.set)):
            while any(not left.waiting for left in self.remaining()):
                await turned.wait()
                turned.clear()

    async def interrupt(self) -> None:
        """Cancel every claimed message on its own loop, then the node workers; return when all of them ended.

        A handler that swallows its cancellation keeps this waiting; its thread is a daemon and its message is in
        the store either way.
        """
        self._stop()
        ends = [end for worker in self._workers.workers() if (end := _interrupt(worker)) is not None]
        await asyncio.gather(*(asyncio.wrap_future(end) for end in ends))

    def flush(self) -> Flushed:
        """Fence what still runs; there is nothing to write, an unacknowledged message is still in the store."""
        self._stop()
        for worker in self._workers.workers():
            worker.fence()
        running = {_id(worker, d) for worker in self._workers.workers() for d in worker.deliveries()}
        cut = {f"{worker.name}/{message}" for worker in self._workers.workers() for message in worker.cut}
        ended = [f"{worker.name}/{message}" for worker in self._workers.workers() for message in worker.ended]
        return Flushed(finished=ended, requeued=sorted(cut | running), abandoned=sorted(running))

    def release(self) -> None:
        """Let the worker threads end, so that closing the service finds none of them alive."""
        for worker in self._workers.workers():
            worker.release()

    def _stop_last_if_alone(self) -> None:
        """Stop the last queue once nothing else works: what it has not begun is as safe in the store."""
        if self._quiesced and not any(worker.busy for worker in self._workers.workers() if worker.name != LAST):
            self._stop()

    def _stop(self) -> None:
        for worker in self._workers.workers():
            worker.stop_claiming()


def _id(worker: QueueWorker, delivery: Delivery) -> str:
    return f"{worker.name}/{delivery.message_id}"


def _interrupt(worker: QueueWorker) -> Future[None] | None:
    loop = worker.loop
    if loop is None or loop.is_closed():
        return None
    step = worker.interrupt(lambda: cancel_nodes_on(loop))
    try:
        return asyncio.run_coroutine_threadsafe(step, loop)
    except RuntimeError:  # the loop closed meanwhile: its worker has ended
        step.close()
        return None


def _call(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)
