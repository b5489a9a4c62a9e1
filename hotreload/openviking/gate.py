"""Count the model calls of one event loop, within a limit that may change while they run."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType


class Gate:
    """Admit at most `limit` holders of one event loop, first come first served; `limit` may change meanwhile."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0
        self._waiters: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Callers that are not admitted yet."""
        return len(self._waiters)

    def admit(self) -> None:
        """Let waiters in while there is room; on the gate's own loop, after the limit grew."""
        while self._waiters and self.running < self.limit:
            waiter = self._waiters.popleft()
            if not waiter.done():
                self.running += 1
                waiter.set_result(None)

    async def __aenter__(self) -> None:
        if self.running < self.limit and not self._waiters:
            self.running += 1
            return
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._leave()  # admitted and cancelled in the same turn: pass the place on
            elif waiter in self._waiters:
                self._waiters.remove(waiter)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        self.running -= 1
        self.admit()


class Open:
    """A semaphore that never waits: stands where the gate further in does the counting."""

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_: object) -> None:
        return None


OPEN = Open()
