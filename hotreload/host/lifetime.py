"""The life of one host, entered once and left once, whatever happens to the code around it.

    make ──→ guard ──→ open ──→ (serving) ──→ drain ──→ edges ──→ work ──→ resources ──→ records ──→ store ──→ guard
                                                        └──────────── one exit stack, in a task of its own ────────┘

The task is ours: a cancelled caller, a sibling that fails and an error in the body only ask it to end. What cancels
it all the same (an event loop that is closed cancels every task) interrupts no step of the teardown.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, TypeVar

import anyio

from hotreload.errors import ConfigError, ControlSocketUnsafe, StoreOwned, StoreUnavailable
from hotreload.host.exit import hold_to_the_end
from hotreload.host.host import Host

log = logging.getLogger(__name__)
T = TypeVar("T")
CANNOT_START: Final = (ConfigError, ControlSocketUnsafe, StoreOwned, StoreUnavailable, OSError)
"""What keeps a host from starting and is not a defect; the same later on is one."""
STUCK_S = 0.1
"""How long the host's other tasks may take to stop where a job is known not to."""


class Lifetime:
    """`async with Lifetime(make) as host:` starts what `make` returns and ends it; for one use.

    Entering returns once it serves, or raises why it cannot. Leaving asks for a drain, or joins the one that runs, and
    returns inside its deadline: everything is durable then, what shares were built is closed, and nothing is held but
    tasks of code that does not stop, which are named in the log. Left by a cancellation or an error, running jobs get
    no grace. A defect of the host itself is raised when it is left; its running jobs count as crashed.

    In a process of our own the deadline is enforced beyond that, up to its end: see `hotreload.host.exit`.
    """

    def __init__(self, make: Callable[[], Coroutine[Any, Any, Host]]) -> None:
        self._make = make
        self._host: Host | None = None
        self._asked: tuple[str, bool] | None = None
        self._opened = anyio.Event()
        self._life: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Host:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError("a service runs in an event loop of asyncio: with anyio, backend='asyncio'") from None
        self._life = asyncio.create_task(self._live(), name="hotreload host")
        try:
            await _first(self._life, self._opened.wait())
        except BaseException:
            self._end("cancelled while it started", at_once=True)
            await to_the_end(self._life)
            _failure(self._life)
            raise
        failure = _failure(self._life) if self._life.done() else None
        if isinstance(failure, CANNOT_START):  # not a defect: where it was noticed says nothing
            raise failure.with_traceback(None) from None
        if failure is not None:
            raise failure
        assert self._host is not None
        return self._host

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._life is not None
        reason = "the server closes" if error is None else f"left by {kind.__name__ if kind else 'an error'}"
        self._end(reason, at_once=error is not None)
        cancelled = await to_the_end(self._life)
        failure = _failure(self._life)
        if cancelled is not None:
            raise cancelled
        if failure is not None and error is None:
            raise failure

    def _end(self, reason: str, *, at_once: bool) -> None:
        self._asked = reason, at_once
        if self._host is not None:
            self._host.leave(reason, at_once=at_once)

    async def _live(self) -> None:
        self._host = host = await _whole(self._make)
        try:
            async with AsyncExitStack() as stack:
                for close in (host.close_store, host.records.close, host.close_work):
                    stack.push_async_callback(_whole, close)
                host.guard()
                if self._asked is not None:  # while it was made
                    host.leave(self._asked[0], at_once=True)
                running = asyncio.create_task(host.run(self._opened), name="hotreload work")
                stack.push_async_callback(_whole, lambda: _stop(running, host))
                await self._drained(host)
        finally:
            last = not host.guest and (self._opened.is_set() or host.drain.report is not None)
            host.release(last=last)
            if last:
                hold_to_the_end(host.drain)
        if host.guest and host.default_signal is not None and host.closing is not None:
            signal.raise_signal(host.default_signal)

    async def _drained(self, host: Host) -> None:
        """Wait until a drain has ended, or the host has failed."""
        try:
            await _first(host.broken.wait(), host.drain.requested())
            if not host.drain.failed:
                host.drain.request("cancelled", at_once=True)
                await host.drain.run()
        except asyncio.CancelledError:
            host.drain.request("cancelled", at_once=True)
        if not host.drain.failed:
            await _whole(host.drain.flush_rest)
        host.over.set()
        await _whole(host.close_edges)


async def _stop(running: asyncio.Task[None], host: Host) -> None:
    """End the host's tasks inside the deadline; raises what failed among them. What does not stop is left and named."""
    before = asyncio.all_tasks()
    report = host.drain.report
    running.cancel()
    if not running.done():  # jobs that were abandoned keep it open for sure
        await asyncio.wait({running}, timeout=STUCK_S if report and report.abandoned else host.drain.left_s)
    if not running.done():
        left = sorted(task.get_name() for task in before & asyncio.all_tasks() if task.cancelling())
        log.error("host.left_behind tasks=%s (they do not stop when they are cancelled)", left)
    elif not running.cancelled():
        running.result()


async def to_the_end(task: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait for a task to its end, however often the caller is cancelled; returns the last cancellation."""
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                cancelled = error
    return cancelled


async def _whole(step: Callable[[], Awaitable[T]]) -> T:
    """Take a step of the teardown in a task of its own: a cancellation of this one does not reach it."""
    taken = asyncio.ensure_future(step())
    await to_the_end(taken)
    return taken.result()


async def _first(*ways: Awaitable[Any]) -> None:
    """Return when one of them has ended; those of them that are not tasks are cancelled then."""
    tasks = [asyncio.ensure_future(way) for way in ways]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting = [task for task in tasks if task not in ways]
        for task in waiting:
            task.cancel()
        if (cancelled := await to_the_end(asyncio.gather(*waiting, return_exceptions=True))) is not None:
            raise cancelled


def _failure(life: asyncio.Task[None]) -> BaseException | None:
    """Return what the life of a host ended with, so that it counts as seen."""
    return None if life.cancelled() else life.exception()
