"""Measurements through the whole worker pool; run by `tests.bench.queue`."""

from __future__ import annotations

import asyncio
import resource
import statistics
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from hotreload.config.settings import HotreloadSettings
from hotreload.config.store import Snapshot
from hotreload.drain.stages import rare_collections
from hotreload.queue.job import NewJob
from hotreload.queue.sqlite import SqliteQueue
from hotreload.workers.execution import Execution
from hotreload.workers.job import Job, Surroundings
from hotreload.workers.kind import Kind
from hotreload.workers.limits import Limit
from hotreload.workers.pool import Pool
from hotreload.workers.runners import runner

Measure = Callable[[SqliteQueue], Awaitable[float]]


@asynccontextmanager
async def pool_of(queue: SqliteQueue, handler: Any, limit: int) -> AsyncGenerator[Pool]:
    """Serve the queue `a`."""
    snapshot: Snapshot[Any] = Snapshot(None, HotreloadSettings(), 1, "", {}, {}, {})
    around = Surroundings(queue, Kind("a"), newest=lambda: snapshot)
    pool = Pool(name="a", queue=queue, execution=Execution(runner(handler), around), limit=Limit(limit))
    loop = asyncio.get_running_loop()
    queue.on_ready(lambda _queue: None if loop.is_closed() else loop.call_soon_threadsafe(pool.wake) and None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(pool.run)
        yield pool
        tasks.cancel_scope.cancel()


def noop_jobs(limit: int, count: int = 10_000) -> Measure:
    """Measure no-op jobs through a pool; jobs/s."""

    async def run(queue: SqliteQueue) -> float:
        left, ended = count, anyio.Event()

        async def noop(_job: Job[Any], _settings: Any) -> None:
            nonlocal left
            left -= 1
            if not left:
                ended.set()

        await queue.enqueue([NewJob("a", {"n": 1})] * count)
        began = time.perf_counter()
        async with pool_of(queue, noop, limit):
            await ended.wait()
            return count / (time.perf_counter() - began)

    return run


async def idle_dispatch(queue: SqliteQueue) -> float:
    """Measure from an enqueue to the first line of its job, nothing else to do; median, ms."""
    begun = anyio.Event()

    async def tells(_job: Job[Any], _settings: Any) -> None:
        times.append((time.perf_counter() - began) * 1_000)
        begun.set()

    times: list[float] = []
    async with pool_of(queue, tells, 4) as pool:
        for _ in range(100):
            begun, began = anyio.Event(), time.perf_counter()
            await queue.enqueue([NewJob("a", {"n": 1})])
            await begun.wait()
            await pool.idle()
    return statistics.median(times)


async def _with_sleepers(queue: SqliteQueue, count: int, then: Callable[[Pool], Awaitable[float]]) -> float:
    async def sleeps(_job: Job[Any], _settings: Any) -> None:
        begun()
        await anyio.sleep_forever()

    begun, all_begun = countdown(count)
    await queue.enqueue([NewJob("a", {"n": 1})] * count)
    async with pool_of(queue, sleeps, count) as pool:
        await all_begun.wait()
        return await then(pool)


def countdown(count: int) -> tuple[Callable[[], None], anyio.Event]:
    """Return what is to be called `count` times, and the event that is set then."""
    left, over = count, anyio.Event()

    def call() -> None:
        nonlocal left
        left -= 1
        if not left:
            over.set()

    return call, over


async def keep_and_cancel(queue: SqliteQueue) -> float:
    """Measure a drain of 10,000 running jobs: each keeps its progress, is cancelled, is back in the queue; ms."""
    count, go = 10_000, anyio.Event()
    begun, all_begun = countdown(count)
    kept, all_kept = countdown(count)

    async def keeps(job: Job[Any], _settings: Any) -> None:
        begun()
        await go.wait()
        await job.checkpoint({"at": 5})
        kept()
        await anyio.sleep_forever()

    await queue.enqueue([NewJob("a", {"n": 1})] * count)
    async with pool_of(queue, keeps, count) as pool:
        await all_begun.wait()
        began = time.perf_counter()
        with rare_collections():  # as the drain of a service does it
            pool.quiesce()
            go.set()
            await all_kept.wait()
            await pool.interrupt()
            flushed = await anyio.to_thread.run_sync(pool.flush, 30.0)
        took_ms = (time.perf_counter() - began) * 1_000
    assert len(flushed.checkpointed) == count
    return took_ms


async def cancel(queue: SqliteQueue) -> float:
    """Measure the same with the progress on the disk already, as a drain finds it; ms."""

    async def drain(pool: Pool) -> float:
        began = time.perf_counter()
        with rare_collections():
            pool.quiesce()
            await pool.interrupt()
            await anyio.to_thread.run_sync(pool.flush, 30.0)
        return (time.perf_counter() - began) * 1_000

    return await _with_sleepers(queue, 10_000, drain)


async def memory_running(queue: SqliteQueue) -> float:
    """Measure what a running, sleeping job takes; KB."""
    before = _kilobytes()

    async def grown(_pool: Pool) -> float:
        return (_kilobytes() - before) / 10_000

    return await _with_sleepers(queue, 10_000, grown)


async def memory_waiting(queue: SqliteQueue) -> float:
    """Measure what a job that waits in the queue takes of this process; KB."""
    before = _kilobytes()
    for _ in range(100):
        await queue.enqueue([NewJob("a", {"n": 1})] * 1_000)
    return max(0.0, (_kilobytes() - before) / 100_000)


def _kilobytes() -> float:
    """Return the resident memory of now, not the most there was."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1024


POOL_10, POOL_100 = (f"no-op jobs through the pool, limit {limit}, jobs/s" for limit in (10, 100))
DISPATCH = "idle dispatch, median, ms"
KEEP = "10,000 running: checkpoint + cancel + requeue, ms"
CANCEL = "10,000 running: cancel + requeue, ms"
MEASURES: dict[str, Measure] = {
    POOL_10: noop_jobs(10),
    POOL_100: noop_jobs(100),
    DISPATCH: idle_dispatch,
    KEEP: keep_and_cancel,
    CANCEL: cancel,
}
APART: dict[str, Measure] = {
    "memory of a running job, KB": memory_running,
    "memory of a waiting job, KB": memory_waiting,
}
"""Measured in processes of their own: others leave memory behind that these would take."""


async def _measured(name: str, path: Path) -> float:
    queue = SqliteQueue.open(path)
    try:
        return await APART[name](queue)
    finally:
        queue.close()


if __name__ == "__main__":
    print(anyio.run(_measured, sys.argv[1], Path(sys.argv[2])))
