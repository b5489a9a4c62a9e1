"""The work of one process of our own services: its pools, what their jobs share, and the queue as people meet it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from anyio.abc import TaskGroup

from hotreload.config.store import SnapshotStore
from hotreload.errors import ConfigInvalid, Problem, reason_of
from hotreload.host.documents import PoolFigures
from hotreload.host.parts import Ended
from hotreload.lifecycle import Flushed
from hotreload.queue.contract import QueueDepth
from hotreload.queue.documents import Put
from hotreload.queue.sqlite import SqliteQueue
from hotreload.workers.flushing import flush
from hotreload.workers.job import enqueue
from hotreload.workers.kind import Kind
from hotreload.workers.pool import Pool
from hotreload.workers.resources import Resource


@dataclass(slots=True)
class Work:
    """Brought to life by the host, in its task group."""

    store: SqliteQueue
    kinds: Mapping[str, Kind]
    pools: list[Pool]
    resources: list[Resource]
    snapshots: SnapshotStore[Any]

    async def start(self, tasks: TaskGroup, ended: Ended) -> None:
        """Build the shared resources, then let the pools claim; raises as `_build` where one cannot be built."""
        wake = asyncio.get_running_loop().call_soon_threadsafe
        pools = {pool.queue_name: pool for pool in self.pools}

        def ready(queue: str) -> None:
            if queue in pools:
                wake(pools[queue].wake)

        self.store.on_ready(ready)
        for resource in self.resources:
            await self._build(resource, tasks)
        for pool in self.pools:
            pool.on_ended(ended)
            tasks.start_soon(pool.run, name=pool.name)

    async def _build(self, resource: Resource, tasks: TaskGroup) -> None:
        """Build a resource; ConfigInvalid that names it where its factory fails, OSError where the system does."""
        try:
            await resource.start(tasks, self.snapshots.current.settings)
        except OSError as error:
            raise OSError(error.errno, f"{resource.name} cannot be built: {reason_of(error)}") from error
        except Exception as error:
            reason = f"{resource.name} cannot be built: {type(error).__name__}: {reason_of(error)}"
            raise ConfigInvalid([Problem("", reason)]) from error

    def flush(self, timeout_s: float, report: Callable[[Flushed], Put]) -> None:
        """Put back what the pools have in hand and keep the report, in one transaction; from any thread."""
        flush(self.store, [pool.give_up() for pool in self.pools], timeout_s, report)

    async def enqueue(self, queue: str, payload: Any, **options: Any) -> str | None:
        """Add one job of a known kind; see `hotreload.workers.job.enqueue`."""
        return await enqueue(self.store, self.kinds, queue, payload, **options)

    def generations(self) -> list[int]:
        """Return the generation each running job reads."""
        return [generation for pool in self.pools for generation in pool.generations()]

    def pool_figures(self) -> list[PoolFigures]:
        """Return the pools with what waits for them."""
        depths = {depth.name: depth for depth in self.store.depths()}
        return [_figures(pool, depths.get(pool.queue_name)) for pool in self.pools]


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
