"""Count the model calls of a process, on whichever event loops they run, within a limit that may change."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType


@dataclass(eq=False, slots=True)
class _Waiter:
    """One caller that is not admitted yet, or just was; `admitted` changes under the gate's lock."""

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[None]
    admitted: bool = False


class Gate:
    """Admit at most `limit` holders at a time, first come first served over all event loops.

    Every method may be called from any thread. A waiter that is cancelled as it is admitted passes its place on,
    and so does one whose loop has closed.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running = 0
        self._waiters: deque[_Waiter] = deque()
        self._lock = threading.Lock()

    @property
    def limit(self) -> int:
        """How many may hold a place."""
        return self._limit

    @property
    def running(self) -> int:
        """Holders of a place; above the limit only while a smaller one waits for them to leave."""
        return self._running

    @property
    def waiting(self) -> int:
        """Callers that are not admitted yet."""
        return len(self._waiters)

    def resize(self, limit: int) -> None:
        """Take a new limit: growing admits waiters at once, shrinking admits none above it and cuts none."""
        with self._lock:
            self._limit = limit
        self._admit()

    def _admit(self) -> None:
        """Let waiters in while there is room, each woken on its own loop."""
        while (waiter := self._next()) is not None:
            try:
                waiter.loop.call_soon_threadsafe(_wake, waiter.future)
            except RuntimeError:  # its loop has closed and takes no place
                with self._lock:
                    self._running -= 1

    def _next(self) -> _Waiter | None:
        with self._lock:
            if not self._waiters or self._running >= self._limit:
                return None
            waiter = self._waiters.popleft()
            waiter.admitted = True
            self._running += 1
            return waiter

    def _enter(self) -> _Waiter | None:
        """Take a free place, or a place in the row."""
        with self._lock:
            if self._running < self._limit and not self._waiters:
                self._running += 1
                return None
            loop = asyncio.get_running_loop()
            self._waiters.append(waiter := _Waiter(loop, loop.create_future()))
            return waiter

    async def __aenter__(self) -> None:
        waiter = self._enter()
        if waiter is None:
            return
        try:
            await waiter.future
        except asyncio.CancelledError:
            self._give_up(waiter)
            raise

    def _give_up(self, waiter: _Waiter) -> None:
        with self._lock:
            if waiter.admitted:
                self._running -= 1
            else:
                with suppress(ValueError):
                    self._waiters.remove(waiter)
        self._admit()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        with self._lock:
            self._running -= 1
        self._admit()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Open:
    """A semaphore that never waits: stands where the gate further in does the counting."""

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_: object) -> None:
        return None


OPEN = Open()
