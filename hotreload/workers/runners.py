"""How a handler is called: a coroutine in the event loop, a plain function in a thread or in a child process."""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from types import FunctionType
from typing import Any, Final, Protocol, cast

from anyio import CapacityLimiter, from_thread, to_thread

from hotreload.errors import LeaseLost
from hotreload.workers.failures import StopHere
from hotreload.workers.isolation import end_forked
from hotreload.workers.job import Job, SyncJob, Within
from hotreload.workers.limits import MAX_LIMIT
from hotreload.workers.processes import Processes
from hotreload.workers.progress import Progress

Handler = Callable[..., Any]
WRAPPERS_MOST: Final = 100


class Runner(Protocol):
    """How a handler is run; `close` ends what it keeps between jobs."""

    def __call__(self, job: Job[Any, Any], settings: Any, **handed: Any) -> Awaitable[Any]:
        """Run it for one job."""
        ...

    async def trim(self, most: int) -> None:
        """End what is kept for more than `most` jobs at once."""
        ...

    async def close(self) -> None:
        """End what is kept."""
        ...


class Coroutines:
    """Runs a handler that returns an awaitable."""

    def __init__(self, handler: Callable[..., Any]) -> None:
        self._handler = handler

    def __call__(self, job: Job[Any, Any], settings: Any, **handed: Any) -> Awaitable[Any]:
        """Call the handler; what it returns is to be awaited."""
        return self._handler(job, settings, **handed)

    async def trim(self, most: int) -> None:
        """Nothing is kept between jobs."""

    async def close(self) -> None:
        """Nothing is kept between jobs."""


class Threads:
    """Runs one worker's handler; there are as many threads as jobs, the pool's limit is theirs."""

    def __init__(self, handler: Callable[..., Any]) -> None:
        self._handler = handler
        self._limiter = CapacityLimiter(MAX_LIMIT)

    async def __call__(self, job: Job[Any, Any], settings: Any, **handed: Any) -> Any:
        """Run the handler; cancelled, it waits for the thread, which stops at its next checkpoint or never.

        What the thread raises comes back as a value: not every exception can be put into a future.
        """

        def run() -> tuple[Any, BaseException | None]:
            job.thread = threading.get_ident()
            sync = SyncJob[Any, Any](job.id, job.attempt, job.payload, job.progress, ThreadDesk(job))
            owner = os.getpid()
            try:
                return self._handler(sync, settings, **handed), None
            except BaseException as error:  # noqa: BLE001 - raised again in the loop
                return None, error
            finally:
                end_forked(owner)

        result, error = await to_thread.run_sync(run, limiter=self._limiter)
        if error is not None:
            raise error
        return result

    async def trim(self, most: int) -> None:
        """Nothing is kept between jobs."""

    async def close(self) -> None:
        """Nothing is kept between jobs."""


class ThreadDesk:
    """Answers the thread of one job."""

    def __init__(self, job: Job[Any, Any]) -> None:
        self._job = job

    def keep(self, progress: Progress, within: Within | None) -> None:
        """Make progress durable, then end the job where it was interrupted."""

        def kept(_before: Progress) -> Progress:
            return progress

        from_thread.run(self._job.keep, kept, within)
        if self._job.stopping:
            raise StopHere

    def keep_step(self, name: str, result: Any) -> None:
        """Make the result of one step durable, then end the job where it was interrupted."""
        from_thread.run(self._job.keep_step, name, result)
        if self._job.stopping:
            raise StopHere

    def ask(self, verb: str, *args: Any, **options: Any) -> Any:
        """Ask the job; what must wait does so in the loop. LeaseLost where the job is over."""
        if self._job.over:
            raise LeaseLost(self._job.id, self._job.lease_seq)
        if verb == "interrupted":
            return self._job.interrupted
        asked = getattr(self._job, verb)
        if inspect.iscoroutinefunction(asked):
            return from_thread.run(partial(asked, *args, **options))
        return asked(*args, **options)


def runner(handler: Handler, *, process: bool = False) -> Runner:
    """Return how `handler` is run.

    In the loop where it, or what it wraps, is a coroutine function; else in a thread or with `process` in a child.
    """
    if is_async(handler):
        return Coroutines(handler)
    return Processes(handler) if process else Threads(handler)


def is_async(handler: Handler) -> bool:
    """Say whether a call of `handler` returns an awaitable, as far as can be told without calling it.

    Looks through partials, bound methods, objects with `__call__`, and decorators that keep `__wrapped__`.
    """
    seen: Any = handler
    for _ in range(WRAPPERS_MOST):
        if isinstance(seen, FunctionType) and inspect.iscoroutinefunction(seen):
            return True
        seen = _inside(seen)
        if seen is None:
            break
    return False


def _inside(handler: Any) -> Any:
    """Return what a callable calls, None for a function that wraps nothing."""
    if isinstance(handler, partial):
        return cast("Any", handler).func
    if inspect.ismethod(handler):
        return handler.__func__
    if hasattr(handler, "__wrapped__"):
        return handler.__wrapped__
    return None if isinstance(handler, (FunctionType, type)) else cast("Any", type(handler)).__call__
