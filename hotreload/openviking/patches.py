"""Replace and wrap the names of OpenViking that have no public seam. Call each before its service starts, once.

Which functions these are, and in which releases they are what they are taken for, `seams` says.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from contextlib import suppress
from importlib import import_module
from typing import Any

from hotreload.openviking.gate import OPEN, Gate
from hotreload.openviking.limits import SEMANTIC, QueueWorkers
from hotreload.openviking.queue_worker import bound_to_delivery, parked

log = logging.getLogger(__name__)
PARKING: tuple[tuple[str, str, str], ...] = (
    ("openviking.service.task_tracker", "TaskTracker", "wait_for_task_work"),
    ("openviking.service.task_tracker", "TaskTracker", "wait_for_work"),
    ("openviking.service.task_tracker", "TaskTracker", "wait_for_descendants"),
    ("openviking.telemetry.request_wait_tracker", "RequestWaitTracker", "wait_for_embeddings"),
)
"""What a delivery calls to wait for its children."""


def attach_limits(workers: QueueWorkers) -> None:
    """Put our workers and gates where OpenViking's are."""
    from openviking.storage.queuefs import semantic_executor, semantic_processor
    from openviking.storage.queuefs.queue_manager import QueueManager

    executor: Any = semantic_executor
    queue_manager: Any = QueueManager
    _replace_workers(workers, queue_manager)
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


def attach_locks() -> None:
    """Let the queues, each on an event loop of its own, share the lock of the cache of secrets to take out."""
    try:
        from openviking.privacy.sanitizer import PrivacySanitizer
    except ImportError:  # 0.5.0 has none
        return
    sanitizer: Any = PrivacySanitizer
    stock_init = sanitizer.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        stock_init(self, *args, **kwargs)
        self._cache_lock = Gate(1)  # an asyncio.Lock belongs to the loop that waited for it first

    sanitizer.__init__ = init


def attach_damaged_tasks() -> None:
    """Begin the record of a task again that cannot be read: a kill while it is written leaves it empty.

    Stock does not start any more while a message belongs to it, and without a record it refuses the message. The new
    one counts as begun before this process: where no message belongs to it, recovery ends it.
    """
    from openviking.service import task_store

    module: Any = task_store
    store: Any = task_store.PersistentTaskStore
    stock, attached_at = getattr(store, "_load_task", None), time.time()
    if stock is None:  # 0.5.0 keeps no record of a task
        return

    async def load(self: Any, task_id: str, account_id: str | None, user_id: str | None) -> Any:
        try:
            return await stock(self, task_id, account_id, user_id)
        except ValueError as error:
            log.warning("openviking.task_damaged task=%s, its record is begun again: %s", task_id, error)
        record = module.TaskRecord(task_id, "unknown", module.TaskStatus.RUNNING, created_at=attached_at)
        record.account_id, record.user_id = account_id, user_id
        await self._write_task(record)
        return await stock(self, task_id, account_id, user_id)

    store._load_task = load


def attach_deliveries() -> None:
    """Have each node of a tree worked on as part of the message it belongs to: the messages of a loop share workers."""
    from openviking.storage.queuefs import semantic_executor

    executor: Any = semantic_executor.SemanticTreeExecutor
    stock_init = executor.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        stock_init(self, *args, **kwargs)
        self._run_work = bound_to_delivery(self._run_work)

    executor.__init__ = init


def attach_parking() -> None:
    """Tell deliveries that work from those that only wait for children."""
    for module, owner, name in PARKING:
        with suppress(ImportError, AttributeError):  # which of them a release has, `seams` knows
            found: Any = getattr(import_module(module), owner)
            setattr(found, name, _parking(getattr(found, name)))


def _parking(stock: Any) -> Any:
    async def wait(self: Any, *args: Any, **kwargs: Any) -> Any:
        with parked("the work it has started"):
            return await stock(self, *args, **kwargs)

    return wait
