"""Claim and deliver the messages of one QueueFS queue within a limit that may change.

OpenViking gives each queue a thread with an event loop of its own. One `QueueWorker` runs there; its limit and
its intake are set from any thread. A message is claimed by taking it off the queue and acknowledged after its
handler ended well; one that was not acknowledged is delivered again when the store is opened next.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

log = logging.getLogger(__name__)

STOP_GRACE_S = 5.0
"""Seconds a stop that no drain came before leaves what runs; the stock value."""
OUTCOMES = {"failed": "failed", "requeued": "requeued"}
_BACKLOG_S = 1.0
_CANCEL_S = 0.05


@dataclass(eq=False, slots=True)
class Delivery:
    """One claimed message, from claim to acknowledgement."""

    message_id: str
    parked: int = 0
    """How many of its tasks only wait for child work; above 0 it makes no progress of its own."""
    settling: bool = False
    """The handler ended; what is left is the acknowledgement, which must not be cut."""
    outcome: str = "interrupted"
    """How it ended: `done`, `failed`, `interrupted`, `requeued`."""
    task: asyncio.Task[None] | None = None


_current: ContextVar[Delivery | None] = ContextVar("openviking_delivery", default=None)


def delivery_id() -> str | None:
    """Return the id of the message whose delivery this runs in, None outside of any."""
    delivery = _current.get()
    return delivery.message_id if delivery else None


def bound_to_delivery(run: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Return `run` as part of the delivery that is current now, whichever task it is called in."""
    delivery = _current.get()

    async def bound(*args: Any, **kwargs: Any) -> Any:
        token = _current.set(delivery)
        try:
            return await run(*args, **kwargs)
        finally:
            _current.reset(token)

    return bound


@contextmanager
def parked() -> Generator[None]:
    """Mark the delivery this runs in as one that only waits for its children."""
    delivery = _current.get()
    if delivery is None:
        yield
        return
    delivery.parked += 1
    try:
        yield
    finally:
        delivery.parked -= 1


class QueueWorker:
    """The worker of one queue. `ended` is called, on its thread, with the outcome of each delivery."""

    def __init__(self, name: str, limit: int, ended: Callable[[str], None], *, paced: bool = False) -> None:
        """Prepare a worker that is not running yet. `ended` has what ended well after
        claiming stopped, `cut` what was cancelled.

        Paced queues hold messages that put themselves back: only the clock refills them, never a finished
        delivery, or they would turn in a busy circle.
        """
        self.name = name
        self.limit = limit
        self.backlog = 0
        self.claiming = True
        self.loop: asyncio.AbstractEventLoop | None = None
        self.acknowledged: Callable[[str], None] = lambda _message: None
        """Called, on its thread, with each message that was acknowledged and will not come again."""
        self._tell = ended
        self._paced = paced
        self._closing = False
        self._fenced = False
        self.ended: list[str] = []
        self.cut: list[str] = []
        self._sample_due = 0.0
        self._active: set[Delivery] = set()
        self._wake = asyncio.Event()

    @property
    def active(self) -> int:
        """Claimed messages that are not settled yet."""
        return len(self._active)

    @property
    def busy(self) -> int:
        """Claimed messages that do work, leaving out those that only wait for children."""
        return sum(not delivery.parked for delivery in self.deliveries())

    def resize(self, limit: int) -> None:
        """Take a new limit from any thread; nothing is claimed above it from now on, nothing is cancelled."""
        self.limit = limit
        self._nudge()

    def stop_claiming(self) -> None:
        """Begin no further message, from any thread; one that is just being taken off the queue stays in the store."""
        self.claiming = False

    def fence(self) -> None:
        """Acknowledge nothing more: what still runs is redone after the restart, whatever it does from now on."""
        self._fenced = True

    def deliveries(self) -> tuple[Delivery, ...]:
        """Return what is claimed and not settled."""
        return tuple(self._active)

    def release(self) -> None:
        """Let `run` return once nothing is active; for the end of a drain, from any thread."""
        self.claiming = False
        self._closing = True
        self._nudge()

    def _nudge(self) -> None:
        loop = self.loop
        if loop is not None and not loop.is_closed():
            with suppress(RuntimeError):  # closed between the look and the call
                loop.call_soon_threadsafe(self._wake.set)

    async def run(self, queue: Any, stop: threading.Event, poll_s: float, cancel_nodes: Callable[[], None]) -> None:
        """Serve the queue until `stop` is set or the worker is released, then leave nothing running."""
        self.loop = asyncio.get_running_loop()
        try:
            while not stop.is_set() and not self._closing:
                self._wake.clear()
                await self._fill(queue)
                await self._sample(queue)
                await self._pause(poll_s)
            self.claiming = False
            if self._active and not self._closing:
                await asyncio.wait(self._tasks(), timeout=STOP_GRACE_S)
            await self.interrupt(cancel_nodes)
        finally:
            self.loop = None

    async def _pause(self, poll_s: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), poll_s)

    async def _fill(self, queue: Any) -> None:
        while self.claiming and len(self._active) < self.limit and queue.has_dequeue_handler():
            message: Any = await queue.dequeue_raw()
            if message is None:
                self.backlog = 0
                return
            if not self.claiming:
                return  # never begun and not acknowledged: the store gives it out again when it is opened next
            self._deliver(queue, message)

    async def _sample(self, queue: Any) -> None:
        loop = asyncio.get_running_loop()
        if len(self._active) >= self.limit and loop.time() >= self._sample_due:
            self._sample_due = loop.time() + _BACKLOG_S
            self.backlog = int(await queue.size())

    def _deliver(self, queue: Any, message: Any) -> None:
        delivery = Delivery(str(message.get("id", "")))
        self._active.add(delivery)
        delivery.task = asyncio.get_running_loop().create_task(self._one(queue, message, delivery))
        delivery.task.add_done_callback(lambda _task: self._ended(delivery))

    def _ended(self, delivery: Delivery) -> None:
        self._active.discard(delivery)
        self._tell(delivery.outcome)

    async def _one(self, queue: Any, message: Any, delivery: Delivery) -> None:
        _current.set(delivery)
        try:
            result: Any = await queue.process_dequeued(message)
            if self._fenced:
                return
            delivery.settling = True
            await queue.ack(delivery.message_id, message)
        except Exception as error:  # noqa: BLE001 - a handler's own failure; its message stays for the next start
            log.error("queue.delivery_failed queue=%s message=%s error=%r", self.name, delivery.message_id, error)
            delivery.outcome = "failed"
            return
        delivery.outcome = OUTCOMES.get(result.outcome, "done")
        if delivery.outcome != "requeued":
            self.acknowledged(delivery.message_id)
        if not self.claiming:
            self.ended.append(delivery.message_id)
        elif not self._paced and delivery.outcome != "requeued":
            self._wake.set()

    def _tasks(self) -> set[asyncio.Task[None]]:
        return {d.task for d in self._active if d.task is not None}

    async def interrupt(self, cancel_nodes: Callable[[], None]) -> None:
        """Cancel what is active, on this loop, and return when all of it has ended.

        The messages are cancelled first and the shared node workers after: a message waits for its nodes, and
        the nodes end only when their own worker is cancelled.
        """
        self.claiming = False
        for delivery in self.deliveries():
            if delivery.task is not None and not delivery.settling and delivery.task.cancel():
                self.cut.append(delivery.message_id)
        await asyncio.sleep(0)
        while self._active:
            cancel_nodes()
            await asyncio.wait(self._tasks(), timeout=_CANCEL_S)
