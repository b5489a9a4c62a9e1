"""What a pool waits for: it never asks the store in vain, and hears of whatever gives it something to do."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import pytest

from hotreload import Job
from hotreload.clock import now_ms
from hotreload.lifecycle import Window
from hotreload.queue.contract import Exchanged
from hotreload.queue.job import JobRow, NewJob, Verdict
from hotreload.queue.sqlite import SqliteQueue
from hotreload.workers.limits import SharedLimit

from .test_pool_jobs import shop

pytestmark = pytest.mark.anyio


class Counting(SqliteQueue):
    """A store that counts how often it was asked."""

    asked = 0

    async def exchange(self, queue: str, limit: int, ended: Sequence[tuple[JobRow, Verdict]]) -> Exchanged:
        """Count."""
        self.asked += 1
        return await super().exchange(queue, limit, ended)


async def work(_job: Job[Any], _settings: Any) -> None:
    """Do nothing."""


async def settled_store(store: SqliteQueue) -> int:
    """Let everything that would go on by itself go on for a while; return how often the store was asked meanwhile."""
    assert isinstance(store, Counting)
    before = store.asked
    await anyio.sleep(0.3)
    return store.asked - before


async def test_a_paused_queue_with_a_due_job_is_left_alone_and_resumed_at_once(tmp_path: Path) -> None:
    async with shop(tmp_path, work, opens=Counting.open) as one:
        await one.store.pause("work")
        await one.store.enqueue([NewJob("work", None, run_at_ms=now_ms() + 50)])
        assert await settled_store(one.store) <= 2
        assert await one.store.next_due_ms("work") is None
        assert one.depth("scheduled") == 1
        await one.store.resume("work")
        await one.until(lambda: not one.depth("scheduled") and not one.depth("ready") and not one.depth("running"))


async def test_a_full_shared_limit_with_a_due_job_is_waited_for(tmp_path: Path) -> None:
    shared, go = SharedLimit("calls", 1), anyio.Event()

    async def holds(_job: Job[Any], _settings: Any) -> None:
        await go.wait()

    async with shop(tmp_path, holds, work, shared=shared, opens=Counting.open) as one:
        await one.store.enqueue([NewJob("holds", None)])
        await one.until(lambda: shared.full)
        await one.store.enqueue([NewJob("work", None, run_at_ms=now_ms() + 50)])
        assert await settled_store(one.store) <= 4
        go.set()
        await one.until(lambda: not any(one.depth(state) for state in ("scheduled", "ready", "running")))


async def test_a_pool_asleep_hears_of_a_job_that_is_due_later_or_sooner(tmp_path: Path) -> None:
    async with shop(tmp_path, work, opens=Counting.open) as one:
        await settled_store(one.store)
        await one.store.enqueue([NewJob("work", None, run_at_ms=now_ms() + 3_600_000)])
        await settled_store(one.store)
        await one.store.enqueue([NewJob("work", None, run_at_ms=now_ms() + 50)])
        await one.until(lambda: [one.depth(each) for each in ("scheduled", "ready", "running")] == [1, 0, 0])
        assert await settled_store(one.store) <= 2


async def test_a_clock_set_forward_makes_jobs_due(tmp_path: Path) -> None:
    ahead_ms = 0

    def clock() -> int:
        return now_ms() + ahead_ms

    def opens(path: Path) -> SqliteQueue:
        return SqliteQueue.open(path, now_ms=clock)

    async with shop(tmp_path, work, opens=opens, look_s=0.1) as one:
        await one.store.enqueue([NewJob("work", None, run_at_ms=clock() + 3_600_000)])
        await one.until(lambda: one.depth("scheduled") == 1)
        ahead_ms = 3_600_001
        await one.until(lambda: not one.depth("scheduled"), within_s=5)


async def test_a_job_that_says_again_what_it_needs_is_left_to_finish(tmp_path: Path) -> None:
    cut: list[Any] = []

    async def longer(job: Job[Any], _settings: Any) -> None:
        try:
            for _ in range(4):
                job.needs(0.3)
                await anyio.sleep(0.2)
        except anyio.get_cancelled_exc_class():
            cut.append(job.payload)
            raise

    async def too_long(job: Job[Any], _settings: Any) -> None:
        job.needs(0.3)
        await anyio.sleep_forever()

    async with shop(tmp_path, longer, too_long) as one:
        await one.store.enqueue([NewJob("longer", 1), NewJob("longer", 2), NewJob("too_long", None)])
        entries = [pool.active for pool in one.pools.values()]
        await one.until(lambda: sum(bool(entry.needed_until) for hand in entries for entry in hand.all()) == 3)
        now = time.monotonic()
        one.window = Window(grace_ends=now, cut_at=now + 5)
        for pool in one.pools.values():
            pool.quiesce()
        with anyio.fail_after(4):
            async with anyio.create_task_group() as tasks:
                for pool in one.pools.values():
                    tasks.start_soon(pool.interrupt)
        flushed = [await anyio.to_thread.run_sync(pool.flush, 5.0) for pool in one.pools.values()]
    assert [(len(one.finished), len(one.requeued)) for one in flushed] == [(2, 0), (0, 1)]
    assert cut == []


async def test_all_who_wait_for_a_hand_are_woken(tmp_path: Path) -> None:
    go = anyio.Event()

    async def holds(_job: Job[Any], _settings: Any) -> None:
        await go.wait()

    async with shop(tmp_path, holds) as one:
        await one.store.enqueue([NewJob("holds", None)])
        pool = one.pools["holds"]
        await one.until(lambda: pool.running == 1)
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pool.idle)
                tasks.start_soon(pool.idle)
                await anyio.wait_all_tasks_blocked()
                go.set()
