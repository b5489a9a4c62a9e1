"""The work of one process of our own services: its pools, what their jobs share, and the queue as people meet it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup

from hotreload.config.store import SnapshotStore
from hotreload.errors import ConfigInvalid, Problem, reason_of
from hotreload.host.status import PoolFigures
from hotreload.host.work import Ended, Keep, Work
from hotreload.queue.contract import QueueDepth
from hotreload.queue.engines import Store
from hotreload.queue.job import JobRow, JobState, Verdict
from hotreload.recovery.coordinator import Search
from hotreload.reload.apply import Reloadable
from hotreload.service.jobs import ServiceJobs
from hotreload.workers.deaths import DeadJob, Deaths
from hotreload.workers.fleet import FleetLimits
from hotreload.workers.flushing import flush
from hotreload.workers.kind import Kind
from hotreload.workers.limits import SharedLimit
from hotreload.workers.pool import Pool
from hotreload.workers.resources import Resource

WORKERS: Final = "workers"
"""The document that keeps the version of each queue's payloads, for who adds jobs while the service is down."""


class ServiceWork(Work):
    """Pools over one store, or with `store` None a service without jobs."""

    def __init__(
        self,
        *,
        version: str,
        store: Store | None,
        kinds: Mapping[str, Kind],
        pools: Sequence[Pool],
        shared: Sequence[SharedLimit],
        divides: Sequence[FleetLimits],
        resources: Sequence[Resource],
        reloadables: Sequence[Reloadable],
        snapshots: SnapshotStore[Any],
        deaths: Deaths,
        search: Search | None,
        schema: Mapping[str, Any],
    ) -> None:
        self.version = version
        self.reloadables = reloadables
        self.drainables = pools
        self.search = search
        self._jobs = None if store is None else ServiceJobs(store, kinds, pools)
        self.jobs = self._jobs
        self._store = store
        self._kinds = kinds
        self._pools = pools
        self._shared = shared
        self._divides = divides
        self._resources = resources
        self._snapshots = snapshots
        self._deaths = deaths
        self._schema = dict(schema)

    async def start(self, tasks: TaskGroup, ended: Ended) -> None:
        """Build the shared resources, then let the pools claim.

        ConfigInvalid, or OSError where the system refuses, with the name of a resource that cannot be built.
        """
        if self._store is not None:
            self._store.on_ready(self._waker())
        for resource in self._resources:
            await self._build(resource)
        for pool in self._pools:
            pool.on_ended(ended)
            pool.on_settled(self._settled)
            tasks.start_soon(pool.run, name=pool.name)
        tasks.start_soon(self._deaths.run, name="on_dead")
        for one in self._divides:
            tasks.start_soon(one.run, name="limits over all nodes")
        if self._store is not None:
            await self._tell_parked(self._store)
            versions = {queue: kind.version for queue, kind in self._kinds.items()}
            await self._store.put_document(WORKERS, "declared", versions)

    async def _tell_parked(self, store: Store) -> None:
        """Tell of the jobs that were parked when the store was opened: they crashed the process once too often."""
        for job_id in store.recovered.parked:
            job = await store.job(job_id)
            if job is not None:
                told = DeadJob(job.id, job.queue, job.payload, job.dedupe_key, job.attempts, job.reason or "")
                self._deaths.tell(told)

    def _settled(self, row: JobRow, state: JobState, verdict: Verdict) -> None:
        if self._jobs is not None:
            self._jobs.settled(row, state, verdict)
        if state is JobState.DEAD:
            self._deaths.heard(row, verdict)

    def _waker(self) -> Any:
        wake = asyncio.get_running_loop().call_soon_threadsafe
        pools = {pool.queue_name: pool for pool in self._pools}

        def ready(queue: str) -> None:
            if queue in pools:
                wake(pools[queue].wake)

        return ready

    async def _build(self, resource: Resource) -> None:
        try:
            await resource.start(self._snapshots.current.settings)
        except OSError as error:
            raise OSError(error.errno, f"{resource.name} cannot be built: {reason_of(error)}") from error
        except Exception as error:
            reason = f"{resource.name} cannot be built: {type(error).__name__}: {reason_of(error)}"
            raise ConfigInvalid([Problem("", reason)]) from error

    def flush(self, timeout_s: float, keep: Keep) -> None:
        """Put back what the pools have and keep the report, in one transaction; from any thread."""
        flush(self._store, [pool.give_up() for pool in self._pools], timeout_s, keep)

    async def close(self, within_s: float) -> None:
        """Run the cleanup of every resource to its end, all at once."""
        async with anyio.create_task_group() as closing:
            for resource in self._resources:
                closing.start_soon(resource.close, within_s)

    def started_jobs(self) -> ServiceJobs:
        """Return the jobs of this process; ValueError where the service has no worker."""
        if self._jobs is None:
            raise ValueError("this service declares no worker, so it has no queue")
        return self._jobs

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of `ov.conf`."""
        return self._schema

    def generations(self) -> list[int]:
        """Return the generation each running job reads."""
        return [generation for pool in self._pools for generation in pool.generations()]

    def queues(self) -> list[QueueDepth]:
        """Return the queues, those without a worker included."""
        return [] if self._store is None else self._store.depths()

    def more(self) -> dict[str, Any]:
        """Return the limits and rates that pools share, `permits` being this process' part of one over the fleet."""
        return {"limits": [_shared(one) for one in self._shared]}

    def limits(self) -> list[PoolFigures]:
        """Return the shared limits."""
        return [PoolFigures(one.name, one.value, one.running, 0, None) for one in self._shared]

    def pools(self) -> list[PoolFigures]:
        """Return the pools with what waits for them."""
        depths = {depth.name: depth for depth in self.queues()}
        return [_figures(pool, depths.get(pool.queue_name)) for pool in self._pools]


def _shared(limit: SharedLimit) -> dict[str, Any]:
    across = "process" if limit.part is None else "fleet"
    permits = None if limit.part is None else limit.part.permits
    return {"name": limit.name, "limit": limit.value, "running": limit.running, "across": across, "permits": permits}


def _figures(pool: Pool, depth: QueueDepth | None) -> PoolFigures:
    waiting = depth.ready if depth else 0
    paused = depth is not None and depth.paused
    return PoolFigures(
        name=pool.name,
        limit=pool.limit.value,
        running=pool.running,
        waiting=waiting,
        bound_by=("paused" if paused else pool.bound_by) if waiting else None,
    )
