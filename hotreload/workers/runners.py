"""Tasks that do one job after the other: starting a task for each costs more than a small job."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Final

import anyio
from anyio.abc import TaskGroup

from hotreload.workers.hand import Running

IDLE_MOST: Final = 128


class Runners:
    """The runners of one pool, busy and idle. One whose context variables a job changed is not used again."""

    def __init__(self, name: str, run: Callable[[Running], Awaitable[None]]) -> None:
        self._name = name
        self._run = run
        self._idle: deque[asyncio.Future[Running | None]] = deque()
        self._closed = False

    def begin(self, entry: Running, work: TaskGroup) -> None:
        """Have a job done, by an idle runner or a new one in `work`."""
        while self._idle:
            waiting = self._idle.pop()
            if not waiting.done():  # else its runner was cancelled
                waiting.set_result(entry)
                return
        work.start_soon(self._do, entry, name=f"runner {self._name}")

    def close(self) -> None:
        """End the idle ones."""
        self._closed = True
        while self._idle:
            waiting = self._idle.pop()
            if not waiting.done():
                waiting.set_result(None)

    async def _do(self, entry: Running | None) -> None:
        context, task = copy_context(), asyncio.current_task()
        with anyio.CancelScope() as scope:
            while entry is not None:
                entry.scope, entry.task = scope, task
                await self._run(entry)
                if entry.stopping:
                    return
                if task is not None and task.cancelling() and anyio.current_effective_deadline() != -math.inf:
                    await _forget_cancel(task)
                again = copy_context() == context and len(self._idle) < IDLE_MOST and not self._closed
                entry = await self._next() if again else None

    async def _next(self) -> Running | None:
        waiting: asyncio.Future[Running | None] = asyncio.get_running_loop().create_future()
        self._idle.append(waiting)
        return await waiting


async def _forget_cancel(task: asyncio.Task[object]) -> None:
    """Forget that a job cancelled the task it ran in: it is this runner's, and would end the whole pool with it."""
    while task.cancelling():
        task.uncancel()
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)  # where it was not delivered yet
