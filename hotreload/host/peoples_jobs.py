"""The queue as people meet it, over HTTP and the command line: jobs as JSON objects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from hotreload.clock import iso
from hotreload.queue.job import JobState
from hotreload.queue.people import JobView
from hotreload.queue.sqlite import SqliteQueue

PAGE: Final = 1_000


class PeoplesJobs:
    """Meets `admin.control.Jobs` over one store; `queues` are those that have a worker."""

    def __init__(
        self, store: SqliteQueue, enqueue: Callable[..., Awaitable[str | None]], queues: Sequence[str]
    ) -> None:
        self._store = store
        self._enqueue = enqueue
        self._queues = queues

    async def page(
        self, queue: str | None, state: JobState | None, limit: int, before: str | None
    ) -> Sequence[dict[str, Any]]:
        """Return a page of jobs, without payload, progress, result and traceback."""
        return [_short(job) for job in await self._store.jobs(queue=queue, state=state, limit=limit, before=before)]

    async def job(self, job_id: str) -> dict[str, Any] | None:
        """Return one job whole."""
        job = await self._store.job(job_id)
        if job is None:
            return None
        more = {"payload": job.payload, "progress": job.cursor, "result": job.result, "traceback": job.traceback}
        return {**_short(job), **more}

    async def add(self, queue: str, payload: Any, *, key: str | None, priority: int, delay_s: float) -> str | None:
        """Add a job of a queue that has a worker."""
        return await self._enqueue(queue, payload, key=key, priority=priority, delay_s=delay_s)

    async def retry(self, ids: Sequence[str]) -> list[str]:
        """Make dead jobs ready."""
        return await self._store.retry(ids)

    async def discard(self, ids: Sequence[str]) -> list[str]:
        """Remove jobs that do not run."""
        return await self._store.discard(ids)

    async def dead(self, queue: str) -> list[str]:
        """Return the dead jobs of a queue."""
        found: list[str] = []
        while True:
            before = found[-1] if found else None
            page = await self._store.jobs(queue=queue, state=JobState.DEAD, limit=PAGE, before=before)
            found += [job.id for job in page]
            if len(page) < PAGE:
                return found

    async def pause(self, queue: str, *, paused: bool) -> bool:
        """Pause a queue or end its pause."""
        if queue not in self._queues and queue not in {depth.name for depth in self._store.depths()}:
            return False
        await (self._store.pause(queue) if paused else self._store.resume(queue))
        return True


def _short(job: JobView) -> dict[str, Any]:
    return {
        "id": job.id,
        "queue": job.queue,
        "state": job.state.value,
        "key": job.dedupe_key,
        "priority": job.priority,
        "attempts": job.attempts,
        "max_attempts": job.max_attempts,
        "interruptions": job.interruptions,
        "crashes": job.crashes,
        "suspect": job.suspect,
        "version": job.version,
        "enqueued_at": iso(job.enqueued_at_ms),
        "run_at": iso(job.run_at_ms),
        "ended_at": None if job.ended_at_ms is None else iso(job.ended_at_ms),
        "reason": job.reason,
    }
