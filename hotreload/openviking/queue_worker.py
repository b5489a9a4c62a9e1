"""Claim and deliver the messages of one QueueFS queue within a limit that may change.

OpenViking gives each queue a thread with an event loop of its own. One `QueueWorker` runs there; its limit and
its intake are set from any thread. A message is claimed by taking it off the queue and acknowledged after its
handler ended well. One whose handler failed, or was cancelled by something of its own, stays claimed in the store,
as in stock; here it is delivered again after a delay that doubles, else it waited for the next start.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from hotreload.openviking.messages import about

log = logging.getLogger(__name__)

STOP_GRACE_S = 5.0
"""Seconds a stop that no drain came before leaves what runs; the stock value."""
OUTCOMES = {"failed": "failed", "requeued": "requeued"}
AGAIN_FIRST_S = 1.0
AGAIN_MOST_S = 3600.0
_BACKLOG_S = 1.0
_CANCEL_S = 0.05
_READS_MOST = 4


@dataclass(eq=False, slots=True)
class Delivery:
    """One claimed message, from claim to acknowledgement."""

    message: Mapping[str, Any]
    waits: list[str] = field(default_factory=list[str])
    """What each of its tasks waits for, of those that only wait; while it is not empty the drain's grace is not
    for this delivery.
    """
    held_at: float | None = None
    """Since when its model calls are held, by the monotonic clock; None while they are answered."""
    began_s: float = field(default_factory=time.time)
    settling: bool = False
    """The handler ended; what is left is the acknowledgement, which must not be cut."""
    outcome: str = "interrupted"
    """How it ended: `done`, `failed`, `interrupted`, `requeued`."""
    task: asyncio.Task[None] | None = None
    failures: int = 0
    """How many deliveries of the message failed before this one."""
    changed: Callable[[], None] = lambda: None
    """Called when it begins to wait."""

    @property
    def message_id(self) -> str:
        """The id of the message in its queue."""
        return str(self.message.get("id", ""))

    @property
    def about(self) -> str:
        """The file or folder that is worked on where this is asked, else the URI the message is about."""
        return _subject.get() or about(self.message)

    @contextmanager
    def waiting(self, why: str) -> Generator[None]:
        """Mark it as one that only waits, inside the block."""
        self.waits.append(why)
        self.changed()
        try:
            yield
        finally:
            self.waits.remove(why)


_current: ContextVar[Delivery | None] = ContextVar("openviking_delivery", default=None)
_subject: ContextVar[str | None] = ContextVar("openviking_subject", default=None)


def current_delivery() -> Delivery | None:
    """Return the delivery this runs in, None outside of any."""
    return _current.get()


def bound_to_delivery(run: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
    """Return `run`, which does a node's work, as part of the delivery that is current now, from any caller."""
    delivery = _current.get()

    async def bound(work: Any) -> Any:
        of_delivery = _current.set(delivery)
        of_node = _subject.set(getattr(work, "file_path", None) or getattr(work, "dir_uri", None))
        try:
            return await run(work)
        finally:
            _subject.reset(of_node)
            _current.reset(of_delivery)

    return bound


def parked(why: str) -> AbstractContextManager[None]:
    """Mark the delivery this runs in as one that only waits; outside of any it does nothing."""
    delivery = _current.get()
    return nullcontext() if delivery is None else delivery.waiting(why)


@dataclass(frozen=True, slots=True)
class Again:
    """A message that is claimed and whose delivery failed, and when it is delivered again, by the loop's clock."""

    message: Mapping[str, Any]
    failures: int
    due: float


class QueueWorker:
    """The worker of one queue. `ended` is called, on its thread, with the outcome of each delivery."""

    def __init__(
        self,
        name: str,
        limit: int,
        ended: Callable[[str], None],
        *,
        paced: bool = False,
        again_s: float = AGAIN_FIRST_S,
    ) -> None:
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
        self.withheld: Callable[[], str | None] = lambda: None
        """Why no message should be begun now; None where it may be. A caller that changes it calls `nudge`."""
        self.waited: Callable[[], None] = lambda: None
        """Called, on its thread, when a delivery begins to wait."""
        self._tell = ended
        self._paced = paced
        self._again_s = again_s
        self._closing = False
        self._fenced = False
        self.ended: list[str] = []
        self.cut: list[str] = []
        self._sample_due = 0.0
        self._active: set[Delivery] = set()
        self._claimed: deque[Any] = deque()
        """Taken off the queue and not begun: a worker that stops leaves them to the store, for the next start."""
        self._failed: list[Again] = []
        self._wake = asyncio.Event()

    @property
    def active(self) -> int:
        """Claimed messages that are not settled yet."""
        return len(self._active)

    @property
    def busy(self) -> int:
        """Claimed messages that do work, leaving out those that only wait."""
        return sum(not delivery.waits for delivery in self.deliveries())

    def resize(self, limit: int) -> None:
        """Take a new limit from any thread; nothing is claimed above it from now on, nothing is cancelled."""
        self.limit = limit
        self.nudge()

    def stop_claiming(self) -> None:
        """Begin no further message, from any thread; one that is just being taken off the queue stays in the store."""
        self.claiming = False

    def fence(self) -> None:
        """Acknowledge nothing more: what still runs is redone after the restart, whatever it does from now on."""
        self._fenced = True

    def deliveries(self) -> tuple[Delivery, ...]:
        """Return what is claimed and not settled."""
        return tuple(self._active)

    def failed(self) -> tuple[Again, ...]:
        """Return the messages that are delivered again later."""
        return tuple(self._failed)

    def again(self, ids: Collection[str]) -> list[str]:
        """Deliver now what would be delivered again later, of these messages; return their ids. From any thread."""
        chosen = [each for each in self.failed() if str(each.message.get("id")) in ids]
        for each in chosen:
            with suppress(ValueError):  # its time has come meanwhile
                self._failed[self._failed.index(each)] = replace(each, due=0.0)
        self.nudge()
        return [str(each.message.get("id")) for each in chosen]

    def forget(self, message: Mapping[str, Any]) -> bool:
        """Deliver a message not again; False where it is not one that would be. From any thread."""
        found = next((each for each in self.failed() if each.message is message), None)
        try:
            self._failed.remove(found)  # pyright: ignore[reportArgumentType] - None is not in it
        except ValueError:
            return False
        return True

    def release(self) -> None:
        """Let `run` return once nothing is active; for the end of a drain, from any thread."""
        self.claiming = False
        self._closing = True
        self.nudge()

    def nudge(self) -> None:
        """Have it look at once whether it may begin messages, from any thread."""
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
        """Begin messages as far as the limit goes. Each read of the queue is a round trip: as long as there are more
        messages, several are read at once.
        """
        reads = 1
        while self._may_begin() and queue.has_dequeue_handler():
            if (again := self._due()) is not None:
                self._deliver(queue, again.message, again.failures)
            elif self._claimed:
                self._deliver(queue, self._claimed.popleft())
            else:
                wanted = min(reads, self.limit - len(self._active))
                found = await asyncio.gather(*(queue.dequeue_raw() for _ in range(wanted)))
                self._claimed.extend(message for message in found if message is not None)
                if not self._claimed:
                    self.backlog = 0
                    return
                reads = 1 if self._paced else min(2 * reads, _READS_MOST)

    def _due(self) -> Again | None:
        """Take a message whose delivery failed, if it is time for another."""
        now = asyncio.get_running_loop().time()
        again = next((each for each in self._failed if each.due <= now), None)
        if again is not None:
            try:
                self._failed.remove(again)
            except ValueError:  # forgotten, or moved, by another thread just now
                return None
        return again

    def _may_begin(self) -> bool:
        return self.claiming and len(self._active) < self.limit and self.withheld() is None

    async def _sample(self, queue: Any) -> None:
        loop = asyncio.get_running_loop()
        if not self._may_begin() and loop.time() >= self._sample_due:
            self._sample_due = loop.time() + _BACKLOG_S
            self.backlog = int(await queue.size())

    def _deliver(self, queue: Any, message: Any, failures: int = 0) -> None:
        delivery = Delivery(message, failures=failures, changed=self.waited)
        self._active.add(delivery)
        delivery.task = asyncio.get_running_loop().create_task(self._one(queue, message, delivery))
        delivery.task.add_done_callback(lambda _task: self._ended(delivery))

    def _ended(self, delivery: Delivery) -> None:
        self._active.discard(delivery)
        if delivery.outcome in ("failed", "interrupted") and not delivery.settling and self.claiming:
            delay_s = min(self._again_s * 2.0 ** min(delivery.failures, 30), AGAIN_MOST_S)
            log.warning("queue.delivery_again queue=%s message=%s in %.0f s", self.name, delivery.message_id, delay_s)
            due = asyncio.get_running_loop().time() + delay_s
            self._failed.append(Again(delivery.message, delivery.failures + 1, due))
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
