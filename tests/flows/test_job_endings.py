"""However the code of a job ends: the service's doing uses no attempt, its own does, and none ends a pool."""

from __future__ import annotations

import asyncio
import errno
import select
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from hotreload import Job, QueueDraining, StoreUnavailable, SyncJob
from hotreload.queue.job import JobState, NewJob
from hotreload.workers.failures import AGAIN_S

from .test_pool_jobs import Shop, shop

pytestmark = pytest.mark.anyio


async def in_a_group(run: Callable[[], Awaitable[object]]) -> None:
    """Run beside a task that waits for ever."""

    async def call() -> None:
        await run()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(anyio.sleep_forever)
        tasks.start_soon(call)


async def drained(one: Shop, name: str) -> Any:
    """Quiesce, interrupt and flush the pool of a queue."""
    one.pools[name].quiesce()
    with anyio.fail_after(10):
        await one.pools[name].interrupt()
    return await anyio.to_thread.run_sync(one.pools[name].flush, 5.0)


@pytest.mark.parametrize(
    "error", [ConnectionError("cut"), SystemExit(3), StoreUnavailable("full"), asyncio.TimeoutError]
)
async def test_what_cleaning_up_raises_is_the_interruption_it_came_from(tmp_path: Path, error: Any) -> None:
    async def cleans(job: Job[Any], _settings: Any) -> None:
        await job.checkpoint("kept")
        try:
            await anyio.sleep_forever()
        except asyncio.CancelledError:
            raise error  # noqa: B904 - as client libraries do

    async with shop(tmp_path, cleans) as one:
        await one.store.enqueue([NewJob("cleans", None, max_attempts=1)])
        await one.until(lambda: any(entry.job and entry.job.cursor for entry in one.pools["cleans"].active.all()))
        flushed = await drained(one, "cleans")
        assert (len(flushed.requeued), len(flushed.checkpointed), list(flushed.finished), flushed.lost) == (1, 1, [], 0)
        job = await one.only()
        assert (job.state, job.attempts, job.interruptions) == (JobState.READY, 0, 1)


async def test_a_thread_that_fails_once_told_to_stop_was_interrupted(tmp_path: Path) -> None:
    reached = anyio.Event()

    async def announce() -> None:
        reached.set()

    def cleans(job: SyncJob[Any], _settings: Any) -> None:
        anyio.from_thread.run(announce)
        try:
            while True:
                job.checkpoint("kept")
        finally:
            raise ConnectionError("cut")

    async with shop(tmp_path, cleans) as one:
        await one.store.enqueue([NewJob("cleans", None, max_attempts=1)])
        await reached.wait()
        assert len((await drained(one, "cleans")).requeued) == 1
        job = await one.only()
        assert (job.state, job.attempts, job.interruptions) == (JobState.READY, 0, 1)


def raised_from(error: Exception, cause: Exception) -> Exception:
    """Return an error as `raise … from` leaves it."""
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        QueueDraining("draining"),
        StoreUnavailable("the disk is full"),
        ExceptionGroup("both", [StoreUnavailable("a"), QueueDraining("b")]),
        OSError(errno.EMFILE, "Too many open files"),
        raised_from(ConnectionError("cannot connect"), OSError(errno.ENFILE, "Too many open files in system")),
    ],
)
async def test_a_store_or_service_that_takes_nothing_uses_no_attempt_and_is_not_hammered(
    tmp_path: Path, error: Any
) -> None:
    runs: list[int] = []

    async def meets(job: Job[Any], _settings: Any) -> None:
        runs.append(job.attempt)
        raise error

    async with shop(tmp_path, meets) as one:
        await one.store.enqueue([NewJob("meets", None, max_attempts=1)])
        await one.until(lambda: bool(one.depth("scheduled")))
        job = await one.only()
        assert (job.attempts, job.interruptions, runs) == (0, 1, [1])
        assert job.run_at_ms - job.enqueued_at_ms >= AGAIN_S * 1_000


def meets_a_drain(job: SyncJob[Any], _settings: Any) -> None:
    """Ask for follow-up work once the service drains."""
    job.checkpoint("begun")
    while not job.interrupted:
        select.select([], [], [], 0.01)
    job.enqueue("meets_a_drain", None)


async def test_a_child_that_meets_a_drain_uses_no_attempt(tmp_path: Path) -> None:
    async with shop(tmp_path, meets_a_drain, process=True) as one:
        await one.store.enqueue([NewJob("meets_a_drain", None, max_attempts=1)])
        pool = one.pools["meets_a_drain"]
        await one.until(lambda: any(entry.job and entry.job.cursor for entry in pool.active.all()))
        one.store.refuse_new()
        pool.quiesce()
        with anyio.fail_after(20):
            await pool.idle()
        flushed = await anyio.to_thread.run_sync(pool.flush, 5.0)
        assert (len(flushed.requeued), flushed.lost) == (1, 0)
        job = await one.only()
        assert (job.state, job.attempts, job.interruptions) == (JobState.READY, 0, 1)


async def exits(_job: Job[Any]) -> None:
    sys.exit(3)


async def is_interrupted(_job: Job[Any]) -> None:
    raise KeyboardInterrupt


async def exits_in_a_group(_job: Job[Any]) -> None:
    raise BaseExceptionGroup("as a task group raises it", [SystemExit(3), ValueError("too")])


async def awaits_what_was_cancelled(_job: Job[Any]) -> None:
    waits = asyncio.ensure_future(anyio.sleep_forever())
    waits.cancel()
    await waits


async def cancels_itself(_job: Job[Any]) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await anyio.sleep_forever()


async def cancels_itself_at_its_end(_job: Job[Any]) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


async def stops(job: Job[Any]) -> None:
    if not job.cursor:
        await job.checkpoint("stopped once")
        job.stop()


async def stops_in_a_group(job: Job[Any]) -> None:
    if not job.cursor:
        await in_a_group(lambda: stops(job))


async def stops_in_a_group_that_fails(job: Job[Any]) -> None:
    async def fails_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise ValueError("in its cleaning up")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fails_when_cancelled)
        await anyio.wait_all_tasks_blocked()
        job.stop()


@pytest.mark.parametrize(
    ("odd", "state", "attempts", "interruptions"),
    [
        (exits, JobState.DEAD, 1, 0),
        (is_interrupted, JobState.DEAD, 1, 0),
        (exits_in_a_group, JobState.DEAD, 1, 0),
        (awaits_what_was_cancelled, JobState.DEAD, 1, 0),
        (cancels_itself, JobState.DEAD, 1, 0),
        (cancels_itself_at_its_end, JobState.DONE, 0, 0),
        (stops, JobState.DONE, 0, 1),
        (stops_in_a_group, JobState.DONE, 0, 1),
        (stops_in_a_group_that_fails, JobState.DEAD, 1, 0),
    ],
)
async def test_no_job_takes_its_pool_with_it(
    tmp_path: Path, odd: Callable[[Job[Any]], Awaitable[None]], state: JobState, attempts: int, interruptions: int
) -> None:
    """One job ends oddly, those after it in the same pool are done all the same."""

    async def work(job: Job[Any], _settings: Any) -> None:
        if job.payload == "odd":
            await odd(job)

    async with shop(tmp_path, work, limit=1) as one:
        await one.store.enqueue([NewJob("work", name, max_attempts=1) for name in ("odd", "fine", "fine")])
        await one.until(lambda: not one.depth("ready") and not one.depth("running"))
        *fine, ended = await one.jobs()
    assert [job.state for job in fine] == [JobState.DONE, JobState.DONE]
    assert (ended.state, ended.attempts, ended.interruptions) == (state, attempts, interruptions)
