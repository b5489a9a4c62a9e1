"""The jobs of one running service, as its own code, the admin application and the command line use them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

import anyio

from hotreload.clock import iso
from hotreload.errors import JobCancelled, JobFailed
from hotreload.queue.contract import JobView
from hotreload.queue.engines import Store
from hotreload.queue.job import Enqueued, JobRow, JobState, Verdict
from hotreload.workers.job import enqueue, enqueue_many, kind_of
from hotreload.workers.kind import Kind
from hotreload.workers.pool import Pool

T = TypeVar("T")
PAGE: Final = 1_000
LOOK_S: Final = 1.0
"""How often a wait for a job's end looks by itself, for ends that no pool of this process tells of."""
ENDED: Final = (JobState.DONE, JobState.DEAD, JobState.CANCELLED)


class ServiceJobs:
    """Meets `admin.control.Jobs` over one store; belongs to the loop's thread."""

    def __init__(self, store: Store, kinds: Mapping[str, Kind], pools: Iterable[Pool]) -> None:
        self._store = store
        self._kinds = kinds
        self._pools = {pool.queue_name: pool for pool in pools}
        self._waited_for: WeakValueDictionary[str, anyio.Event] = WeakValueDictionary()

    @property
    def payload_most(self) -> int:
        """How many bytes a payload may have as JSON."""
        return self._store.payload_most()

    # --- adding -----------------------------------------------------------------------------------------------------

    async def enqueue(self, queue: str, payload: Any, **options: Any) -> Enqueued:
        """Add one job; see `Service.enqueue`."""
        return await enqueue(self._store, self._kinds, queue, payload, **options)

    async def enqueue_many(self, queue: str, payloads: Iterable[Any], **options: Any) -> list[Enqueued]:
        """Add jobs; see `Service.enqueue_many`."""
        return await enqueue_many(self._store, self._kinds, queue, payloads, **options)

    async def add(self, queue: str, jobs: Sequence[Mapping[str, Any]], **options: Any) -> list[dict[str, Any]]:
        """Add jobs of JSON, all or none: each a `payload` and maybe a `key`."""
        kind = kind_of(self._kinds, queue)
        new = [kind.new(job.get("payload"), key=job.get("key"), from_json=True, **options) for job in jobs]
        added = await self._store.enqueue(new) if new else None
        return [{"id": job.id, "existing": job.existing} for job in (added.jobs if added else ())]

    # --- the store ----------------------------------------------------------------------------------------------------

    async def read(self, query: Callable[[Any], T]) -> T:
        """Run a query that only reads beside the jobs; see `Service.read`."""
        return await self._store.read(query)

    async def backup(self, file: str | PathLike[str]) -> int:
        """Write a consistent copy of the store; see `Service.backup`."""
        return await self._store.backup(file)

    # --- their end --------------------------------------------------------------------------------------------------

    def settled(self, row: JobRow, _state: JobState, _verdict: Verdict) -> None:
        """Wake what waits for this job."""
        self._wake(row.id)

    def _wake(self, job_id: str) -> None:
        event = self._waited_for.pop(job_id, None)
        if event is not None:
            event.set()

    async def result(self, job_id: str) -> Any:
        """Wait for a job's end and return its result; see `Service.result`."""
        seen = False
        while True:
            event = self._waited_for.setdefault(job_id, anyio.Event())
            view = await self._store.job(job_id)
            if view is None:
                raise (JobCancelled(job_id) if seen else LookupError(f"no job {job_id!r}; ended ones are kept a while"))
            if view.state in ENDED:
                return _result(view)
            seen = True
            with anyio.move_on_after(LOOK_S):
                await event.wait()

    async def job(self, job_id: str, *, within_s: float = 0.0) -> dict[str, Any] | None:
        """Return one job whole, once it has ended or `within_s` have passed."""
        with anyio.move_on_after(within_s):
            await self._end(job_id)
        view = await self._store.job(job_id)
        return None if view is None else self._whole(view)

    async def _end(self, job_id: str) -> None:
        """Return once a job has ended, or is not there."""
        try:
            await self.result(job_id)
        except (JobFailed, JobCancelled, LookupError):
            return

    async def cancel(self, ids: Sequence[str]) -> list[str]:
        """Cancel jobs; see `Service.cancel`."""
        done = await self._store.cancel(ids)
        for job_id, queue in done.running.items():
            if queue in self._pools:
                self._pools[queue].cancel(job_id)
        return self._gone([*done.removed, *done.running])

    async def discard(self, ids: Sequence[str]) -> list[str]:
        """Remove jobs that do not run."""
        return self._gone(await self._store.discard(ids))

    def _gone(self, ids: list[str]) -> list[str]:
        for job_id in ids:
            self._wake(job_id)
        return ids

    # --- for people -------------------------------------------------------------------------------------------------

    async def page(
        self, queue: str | None, state: JobState | None, limit: int, before: str | None
    ) -> Sequence[dict[str, Any]]:
        """Return a page of jobs, without payload, progress, result and traceback."""
        found = await self._store.jobs(queue=queue, state=state, limit=limit, before=before)
        return [self._short(job) for job in found]

    async def retry(self, ids: Sequence[str]) -> list[str]:
        """Make dead jobs ready."""
        return await self._store.retry(ids)

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
        """Pause a queue or end its pause; False where there is no such queue."""
        if queue not in self._kinds and queue not in {depth.name for depth in self._store.depths()}:
            return False
        await (self._store.pause(queue) if paused else self._store.resume(queue))
        return True

    def _whole(self, job: JobView) -> dict[str, Any]:
        more = {"payload": job.payload, "progress": job.cursor, "result": job.result, "traceback": job.traceback}
        history = [{"at": iso(one.at_ms), "event": one.event, "reason": one.reason} for one in job.history]
        return {**self._short(job), **more, "history": history}

    def _short(self, job: JobView) -> dict[str, Any]:
        pool = self._pools.get(job.queue)
        policy = pool.execution.policy if pool else None
        return {
            "id": job.id,
            "queue": job.queue,
            "state": job.state.value,
            "key": job.dedupe_key,
            "priority": job.priority,
            "attempts": job.attempts,
            "max_attempts": policy.max_attempts if policy else job.max_attempts,
            "interruptions": job.interruptions,
            "crashes": job.crashes,
            "suspect": job.suspect,
            "version": job.version,
            "enqueued_at": iso(job.enqueued_at_ms),
            "run_at": iso(job.run_at_ms),
            "ended_at": None if job.ended_at_ms is None else iso(job.ended_at_ms),
            "reason": job.reason,
        }


def _result(job: JobView) -> Any:
    if job.state is JobState.DEAD:
        raise JobFailed(job.id, job.reason)
    if job.state is JobState.CANCELLED:
        raise JobCancelled(job.id)
    return job.result
