"""Plain functions as handlers: each runs in a worker thread, its job answered by the event loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
from anyio import from_thread, to_thread

from hotreload.workers.job import Job, StopHere, SyncJob, Within
from hotreload.workers.limits import MAX_LIMIT
from hotreload.workers.progress import Progress


class ThreadDesk:
    """Answers the thread of one job."""

    def __init__(self, job: Job[Any]) -> None:
        self._job = job

    def keep(self, progress: Progress, within: Within | None) -> None:
        """Make progress durable, then end the job where it was interrupted."""

        def kept(_before: Progress) -> Progress:
            return progress

        from_thread.run(self._job.keep, kept, within)
        if self._job.stopping:
            raise StopHere

    def ask(self, verb: str, *args: Any, **options: Any) -> Any:
        """Ask the job; what must wait does so in the loop."""
        if verb == "interrupted":
            return self._job.interrupted
        if verb == "enqueue":
            return from_thread.run(partial(self._job.enqueue, *args, **options))
        return getattr(self._job, verb)(*args)


class Threads:
    """Runs one worker's handler; there are as many threads as jobs, the pool's limit is theirs."""

    def __init__(self, handler: Callable[..., Any]) -> None:
        self._handler = handler
        self._limiter = anyio.CapacityLimiter(MAX_LIMIT)

    async def __call__(self, job: Job[Any], settings: Any, **handed: Any) -> Any:
        """Run the handler; cancelled, it waits for the thread, which stops at its next checkpoint or never."""

        def run() -> Any:
            job.thread = threading.get_ident()
            sync = SyncJob(job.id, job.attempt, job.payload, job.progress, ThreadDesk(job))
            return self._handler(sync, settings, **handed)

        return await to_thread.run_sync(run, limiter=self._limiter)

    async def trim(self, most: int) -> None:
        """Nothing is kept between jobs."""

    async def close(self) -> None:
        """Nothing is kept between jobs."""
