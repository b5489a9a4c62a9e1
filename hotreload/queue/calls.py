"""What callers ask of an engine's writer thread: how it waits, and how the outcome goes back to a loop or a thread.

callers ──inbox──→ urgent lane ─┐
                   normal lane ─┴→ groups, for the writer to make a transaction of each
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Final, Generic, TypeVar, cast

from hotreload.errors import StoreUnavailable

GROUP_MOST: Final = 1_000

A = TypeVar("A")
R = TypeVar("R")

Verb = Callable[[Any, Sequence[A]], Sequence[R | BaseException]]
"""Does many calls at once over the writer's connection and returns their results in order; all or none."""


class Call(Generic[A, R]):
    """One caller's request and, once done, its outcome."""

    __slots__ = ("abandoned", "arg", "error", "future", "loop", "posted", "result", "verb")

    def __init__(self, verb: Verb[A, R], arg: A) -> None:
        self.verb = verb
        self.arg = arg
        self.result: R | None = None
        self.error: BaseException | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.future: asyncio.Future[R] | None = None
        self.abandoned: Callable[[R], None] | None = None
        self.posted = False
        """True where it is to be done again until the store took it."""

    def give_back(self) -> None:
        """Have undone what was done for the caller, who is told that it failed."""
        if self.abandoned is not None:
            self.abandoned(cast("R", self.result))

    def unwanted(self) -> bool:
        """True where the caller was cancelled before its turn."""
        return self.future is not None and self.future.cancelled()

    def resolve(self) -> None:
        """Hand the outcome to the caller; in its loop's thread."""
        future = self.future
        assert future is not None
        if not future.done():
            if self.error is None:
                future.set_result(cast("R", self.result))
            else:
                future.set_exception(self.error)
        elif self.error is None:
            self.give_back()


class SyncCall(Call[A, R]):
    """A request of a thread that waits without an event loop."""

    __slots__ = ("settled",)

    def __init__(self, verb: Verb[A, R], arg: A) -> None:
        super().__init__(verb, arg)
        self.settled = threading.Event()

    def resolve(self) -> None:
        """Wake the waiting thread."""
        self.settled.set()


AnyCall = Call[Any, Any]


def deliver(calls: Iterable[AnyCall]) -> None:
    """Wake the callers: threads one by one, each event loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[AnyCall]] = {}
    for call in calls:
        if call.loop is None:
            call.resolve()
        else:
            by_loop.setdefault(call.loop, []).append(call)
    for loop, waiting in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, waiting)
        except RuntimeError:  # the loop is closed: its callers are gone
            continue


def _resolve(calls: Sequence[AnyCall]) -> None:
    for call in calls:
        call.resolve()


class Inbox:
    """What waits for the writer of a store, and its thread. Any thread may ask, until `close`.

    `collect`, `group`, `idle`, `done` and `posted` are the writer's. `where` names the store in errors.
    """

    def __init__(self, where: str) -> None:
        self._where = where
        self._inbox: SimpleQueue[tuple[AnyCall | None, bool]] = SimpleQueue()
        self._urgent: deque[AnyCall] = deque()
        self._normal: deque[AnyCall] = deque()
        self._gate = threading.Lock()
        self._thread: threading.Thread | None = None
        self.closing = False
        """True once further calls are refused."""
        self.posted: list[AnyCall] = []
        """Goes before all others: what is claimed again must not be what is given back."""

    def start(self, main: Callable[[], None]) -> None:
        """Start the writer's thread, which ends once all is `done`."""
        self._thread = threading.Thread(target=main, name="hotreload-store", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float) -> bool:
        """Refuse further calls, do those that wait, end the thread; False where that took over `timeout_s`.

        A second call only waits.
        """
        with self._gate:
            self.closing = True
            self.wake()
        assert self._thread is not None
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def ask(self, verb: Verb[A, R], arg: A, *, abandoned: Callable[[R], None] | None = None) -> asyncio.Future[R]:
        """Do `verb` with `arg` in the next group; awaited, its result once that is durable.

        Cancelled before its turn, nothing happens; cancelled later, it happens and `abandoned` is called with the
        result. StoreUnavailable where the store could not be written or is closed.
        """
        call = Call(verb, arg)
        call.loop = loop = asyncio.get_running_loop()
        call.future = future = loop.create_future()
        call.abandoned = abandoned
        self._put(call)
        return future

    def ask_sync(self, verb: Verb[A, R], arg: A, *, timeout_s: float, urgent: bool = False) -> R:
        """As `ask`, from any thread but the writer's; no event loop needed. `urgent` goes before all that waits.

        TimeoutError after `timeout_s` seconds: it may happen yet.
        """
        call = SyncCall(verb, arg)
        self._put(call, urgent=urgent)
        if not call.settled.wait(timeout_s):
            raise TimeoutError(f"{self._where} did not answer within {timeout_s:g} s")
        if call.error is not None:
            raise call.error
        return cast("R", call.result)

    def post(self, verb: Verb[A, R], arg: A) -> None:
        """Do `verb` in a next group, or in a later one until the store can be written; no caller waits for it."""
        call = SyncCall(verb, arg)
        call.posted = True
        if threading.current_thread() is self._thread:
            self.posted.append(call)
        else:
            self._put(call)

    def wake(self) -> None:
        """Have the writer look what there is to do."""
        self._inbox.put((None, False))

    def _put(self, call: AnyCall, *, urgent: bool = False) -> None:
        with self._gate:
            if self.closing:
                raise StoreUnavailable(f"{self._where}: the store is closed")
            self._inbox.put((call, urgent))

    @property
    def waiting(self) -> int:
        """How many calls came since `collect`."""
        return self._inbox.qsize()

    @property
    def idle(self) -> bool:
        """True where no call waits."""
        return not (self._urgent or self._normal or self._inbox.qsize())

    @property
    def done(self) -> bool:
        """True once it is closed and no call waits."""
        return self.closing and self.idle

    def collect(self, wait_s: float | None) -> None:
        """Move what came into its lane; wait for it so long (None: until something comes) where nothing did."""
        try:
            if wait_s != 0:
                self._file(*self._inbox.get(timeout=wait_s))
        except Empty:
            return
        for _ in range(self._inbox.qsize()):
            self._file(*self._inbox.get())

    def _file(self, call: AnyCall | None, urgent: bool) -> None:
        if call is not None:
            (self._urgent if urgent else self._normal).append(call)

    def group(self) -> list[AnyCall]:
        """Take the calls that go together next; those whose callers are gone are dropped."""
        lane = self._urgent or self._normal
        calls = [lane.popleft() for _ in range(min(len(lane), GROUP_MOST))]
        return [call for call in calls if not call.unwanted()]
