"""Resize the queue workers and the model-call gates of a running OpenViking.

Stock reads every limit once, when a worker starts. Here the workers are ours (`QueueWorker`) and every model
call of the semantic queues passes one `Gate`, whichever loop it is made on, so that one synchronous `set_limits`
changes them all: growing wakes waiters at once, shrinking cancels nothing and admits nothing above the new limit.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from weakref import WeakSet

from hotreload.host.status import PoolFigures
from hotreload.openviking.fields import POOLS, Pool
from hotreload.openviking.gate import Gate
from hotreload.openviking.queue_worker import QueueWorker

SEMANTIC = "semantic"
GATED = frozenset({"Semantic", "Reindex"})
"""Queues whose handlers make the model calls that `vlm.max_concurrent` bounds, each on a loop of its own."""


class QueueWorkers:
    """All queue workers of this process and the gate of their model calls. Methods may be called from any thread."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        """Begin with the limit of every pool, as configured; they win over what OpenViking hands to a worker."""
        self._limits = {**{pool.name: pool.default for pool in POOLS}, **limits}
        self._workers: dict[str, QueueWorker] = {}
        self._gate = Gate(self._limits[SEMANTIC])
        self._gated: WeakSet[asyncio.AbstractEventLoop] = WeakSet()
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], None]] = []
        self._quiesced = False
        self.ended: Callable[[str, str], None] = lambda _queue, _outcome: None
        """Called on a worker's thread with the queue and the outcome of each delivery."""
        self.acknowledged: Callable[[str], None] = lambda _message: None
        """Called on a worker's thread with the id of each message that will not come again."""
        self.withheld: Callable[[str], str | None] = lambda _queue: None
        """Asked, on a worker's thread, why no message of a queue should be begun; None where it may be."""
        self.resized: Callable[[asyncio.AbstractEventLoop, int], None] | None = None
        """Called on each semantic loop with its new limit, to tell OpenViking's own scheduler there."""

    @contextmanager
    def listening(self, changed: Callable[[], None]) -> Generator[None]:
        """Call `changed`, on the worker's thread, whenever a delivery ends or parks inside this block."""
        self._listeners.append(changed)
        try:
            yield
        finally:
            self._listeners.remove(changed)

    def changed(self) -> None:
        """Tell the listeners that a delivery ended or parked."""
        for listener in tuple(self._listeners):
            listener()

    def adopt(self, name: str, limit: int, *, paced: bool) -> QueueWorker:
        """Make the worker of a queue whose thread starts; `limit` counts for a queue of no pool only."""
        pool = _pool_of(name)
        with self._lock:
            if pool is not None:
                limit = self._limits[pool.name]
            worker = self._workers[name] = QueueWorker(name, limit, self._changed_by(name), paced=paced)
            worker.acknowledged = self.acknowledged
            worker.withheld = lambda: self.withheld(name)
            worker.waited = self.changed
            worker.claiming = not self._quiesced
        return worker

    def nudge(self) -> None:
        """Have every worker look whether it may begin messages."""
        for worker in self.workers():
            worker.nudge()

    def quiesce(self, spared: str) -> None:
        """Let no worker but the spared one claim; OpenViking starts another thread where it misses one."""
        with self._lock:
            self._quiesced = True
            for worker in self._workers.values():
                if worker.name != spared:
                    worker.stop_claiming()

    def _changed_by(self, name: str) -> Callable[[str], None]:
        def ended(outcome: str) -> None:
            self.ended(name, outcome)
            self.changed()

        return ended

    def guard(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        """Put the gate before the model calls made on a semantic queue's loop."""
        if name in GATED:
            with self._lock:
                self._gated.add(loop)

    def gate(self) -> Gate | None:
        """Return the gate, or None where the running loop makes model calls that are not bounded."""
        return self._gate if asyncio.get_running_loop() in self._gated else None

    def workers(self) -> tuple[QueueWorker, ...]:
        """Return the workers in the order their queues started."""
        with self._lock:
            return tuple(self._workers.values())

    def limit(self, pool: str) -> int:
        """Return the limit of a pool."""
        return self._limits[pool]

    def set_limits(self, limits: Mapping[str, int]) -> None:
        """Commit new limits, by pool name, in one step; each must be at least 1."""
        if low := {name: limit for name, limit in limits.items() if limit < 1}:
            raise ValueError(f"limits below 1: {low}")
        with self._lock:
            self._limits.update(limits)
            for name, worker in self._workers.items():
                pool = _pool_of(name)
                if pool is not None and pool.name in limits:
                    worker.resize(limits[pool.name])
            if SEMANTIC in limits:
                self._gate.resize(limits[SEMANTIC])
                self._tell_schedulers(limits[SEMANTIC])

    def _tell_schedulers(self, limit: int) -> None:
        for loop in tuple(self._gated):
            if self.resized is not None and not loop.is_closed():
                loop.call_soon_threadsafe(self.resized, loop, limit)

    def pools(self) -> tuple[PoolFigures, ...]:
        """Return the figures of every pool whose worker has started.

        `waiting` counts what is not admitted: model calls at the gate, and messages in the queue as last seen.
        """
        return tuple(self._figures(pool) for pool in POOLS if pool.queue in self._workers)

    def _figures(self, pool: Pool) -> PoolFigures:
        worker = self._workers[pool.queue]
        running, waiting = worker.active, worker.backlog
        if pool.name == SEMANTIC:
            running = self._gate.running
            waiting += self._gate.waiting
        limit = self._limits[pool.name]
        bound = self.withheld(pool.queue) or (pool.path if waiting and running >= limit else None)
        if bound is None and pool.name == SEMANTIC and running < limit and not waiting:
            bound = self._fed_by()
        return PoolFigures(pool.name, limit, running, waiting, bound)

    def _fed_by(self) -> str | None:
        """Name add_resource where its jobs are all taken: each holds its slot until its children are done."""
        feeder = next(pool for pool in POOLS if pool.name == "add_resource")
        worker = self._workers.get(feeder.queue)
        full = worker is not None and worker.active >= worker.limit and worker.backlog > 0
        return feeder.path if full else None


def _pool_of(queue: str) -> Pool | None:
    return next((pool for pool in POOLS if queue == pool.queue or queue in pool.also), None)
