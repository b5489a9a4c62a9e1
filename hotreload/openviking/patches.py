"""Replace and wrap the names of OpenViking that have no public seam. Call each before its service starts, once.

Which functions these are, and in which releases they are what they are taken for, `seams` says.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

from hotreload.openviking.gate import OPEN
from hotreload.openviking.limits import SEMANTIC, QueueWorkers
from hotreload.openviking.progress import Progress, attach
from hotreload.openviking.queue_worker import bound_to_delivery, delivery_id, parked

PARKING: tuple[tuple[str, str, str], ...] = (
    ("openviking.service.task_tracker", "TaskTracker", "wait_for_task_work"),
    ("openviking.service.task_tracker", "TaskTracker", "wait_for_work"),
    ("openviking.service.task_tracker", "TaskTracker", "wait_for_descendants"),
    ("openviking.telemetry.request_wait_tracker", "RequestWaitTracker", "wait_for_embeddings"),
)
"""What a delivery calls to wait for its children."""


def attach_limits(workers: QueueWorkers) -> None:
    """Put our workers and gates where OpenViking's are."""
    from openviking.config.vlm import AccountVLMProvider
    from openviking.storage.queuefs import semantic_executor, semantic_processor
    from openviking.storage.queuefs.queue_manager import QueueManager

    executor: Any = semantic_executor
    queue_manager: Any = QueueManager
    provider: Any = AccountVLMProvider
    _replace_workers(workers, queue_manager)
    _gate_calls(workers, provider)
    semantic: Any = semantic_processor.SemanticProcessor
    semantic.max_concurrent_llm = _follows(workers)
    executor.SemanticTreeScheduler._ensure_workers = _start_nodes
    executor.SemanticTreeExecutor._node_concurrency = _follows(workers)
    executor.SemanticTreeExecutor._llm_sem = property(lambda _self: OPEN, lambda _self, _value: None)


def _follows(workers: QueueWorkers) -> property:
    """Return an attribute that always is the semantic limit, whatever a constructor stores in it."""
    return property(lambda _self: workers.limit(SEMANTIC), lambda _self, _value: None)


def _scheduler(loop: asyncio.AbstractEventLoop) -> Any:
    from openviking.storage.queuefs import semantic_executor

    executor: Any = semantic_executor
    return executor._node_schedulers.get(loop)


def cancel_nodes_on(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel the node workers that the messages of one loop share; on that loop, messages first."""
    for task in tuple(getattr(_scheduler(loop), "_workers", ())):
        task.cancel()


def _start_nodes(scheduler: Any) -> None:
    """Give every queued node a worker, as far as the limit goes beside those that are busy.

    Stock leaves the busy ones out of its sum, so that nodes wait beside free places: twelve small documents at a
    limit of 12 made eight calls at a time. A worker that finds nothing ends by itself.
    """
    free = scheduler._max_workers - sum(not task.done() for task in scheduler._workers)
    start = asyncio.get_running_loop().create_task
    for task in [start(scheduler._worker()) for _ in range(min(free, scheduler._queue.qsize()))]:
        scheduler._workers.add(task)
        task.add_done_callback(scheduler._workers.discard)


def _resized(loop: asyncio.AbstractEventLoop, limit: int) -> None:
    scheduler = _scheduler(loop)
    if scheduler is not None:
        scheduler.configure(limit)


def _replace_workers(workers: QueueWorkers, queue_manager: Any) -> None:
    stock_loop = queue_manager._queue_worker_loop
    paced = {queue_manager.SESSION_COMMIT, queue_manager.EXTERNAL_TASK}

    def worker_loop(self: Any, queue: Any, stop_event: threading.Event, max_concurrent: int = 1) -> None:
        workers.adopt(queue.name, max(1, max_concurrent), paced=queue.name in paced)
        stock_loop(self, queue, stop_event, max(2, max_concurrent))  # 2: one takes the other, serial path

    async def serve(self: Any, queue: Any, stop_event: threading.Event, max_concurrent: int) -> None:
        del max_concurrent
        loop = asyncio.get_running_loop()
        workers.guard(queue.name, loop)
        worker = next(w for w in workers.workers() if w.name == queue.name)
        poll_s = self._REQUEUE_POLL_INTERVAL if queue.name in paced else self._poll_interval

        await worker.run(queue, stop_event, poll_s, lambda: cancel_nodes_on(loop))

    workers.resized = _resized
    queue_manager._queue_worker_loop = worker_loop
    queue_manager._worker_async_concurrent = serve


def _gate_calls(workers: QueueWorkers, provider: Any) -> None:
    stock_invoke = provider._invoke

    async def invoke(self: Any, handle: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        gate = workers.gate()
        if gate is None:
            return await stock_invoke(self, handle, method, *args, **kwargs)
        async with gate:
            return await stock_invoke(self, handle, method, *args, **kwargs)

    provider._invoke = invoke


def attach_progress(workers: QueueWorkers, progress: Progress) -> None:
    """Have finished model calls remembered until their message is acknowledged; after `attach_limits`."""
    from openviking.config.vlm import AccountVLMProvider
    from openviking.storage.queuefs import semantic_executor

    executor: Any = semantic_executor.SemanticTreeExecutor
    stock_init = executor.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        stock_init(self, *args, **kwargs)
        self._run_work = bound_to_delivery(self._run_work)  # node workers are shared by the messages of a loop

    executor.__init__ = init
    attach(progress, delivery_id, AccountVLMProvider)
    workers.acknowledged = progress.acknowledged


def attach_parking(workers: QueueWorkers) -> None:
    """Tell deliveries that work from those that only wait for children."""
    for module, owner, name in PARKING:
        with suppress(ImportError, AttributeError):  # which of them a release has, `seams` knows
            found: Any = getattr(import_module(module), owner)
            setattr(found, name, _parking(getattr(found, name), workers.changed))


def _parking(stock: Any, changed: Callable[[], None]) -> Any:
    async def wait(self: Any, *args: Any, **kwargs: Any) -> Any:
        with parked():
            changed()
            return await stock(self, *args, **kwargs)

    return wait
