"""The pool over a real store: never above its limit, never asleep with work to do, nothing lost in a drain."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import BaseModel, TypeAdapter

from hotreload import Job
from hotreload.config.settings import HotreloadSettings
from hotreload.config.store import Snapshot, SnapshotStore
from hotreload.lifecycle import Window
from hotreload.queue.job import Backoff, NewJob
from hotreload.queue.sqlite import SqliteQueue
from hotreload.workers.execution import Execution
from hotreload.workers.job import Surroundings
from hotreload.workers.kind import Kind
from hotreload.workers.limits import Limit
from hotreload.workers.pool import Pool
from hotreload.workers.runners import runner
from tests.counts import counted, patience_s

pytestmark = pytest.mark.anyio
RESIZES = counted("RESIZES", 300)


class Text(BaseModel):
    name: str


def snapshot(generation: int, settings: Any = "settings") -> Snapshot[Any]:
    return Snapshot(settings, HotreloadSettings(), generation, "", {}, {}, {})


@dataclass
class Bench:
    """A pool at work; `body` is what each job does, `running` who does it now."""

    store: SqliteQueue
    pool: Pool
    limit: Limit
    snapshots: SnapshotStore[Any]
    running: set[str]
    outcomes: list[str] = field(default_factory=list)
    peak: int = 0
    window: Window | None = None

    async def add(self, *names: str, **options: Any) -> None:
        await self.store.enqueue([NewJob("texts", {"name": name}, dedupe_key=name, **options) for name in names])

    async def until(self, reached: Callable[[], bool]) -> None:
        with anyio.fail_after(20):
            while not reached():  # noqa: ASYNC110 - what it waits for is the store's
                await anyio.sleep(0.002)

    def depth(self, state: str) -> int:
        return sum(getattr(depth, state) for depth in self.store.depths())


@asynccontextmanager
async def bench(
    folder: Path,
    body: Callable[[Job[Text], Bench], Awaitable[Any]],
    *,
    limit: int = 4,
    backoff: Backoff | None = None,
    kind: Kind | None = None,
) -> AsyncIterator[Bench]:
    store = SqliteQueue.open(folder / "q.db", backoff=backoff)
    snapshots: SnapshotStore[Any] = SnapshotStore(snapshot(1))
    running: set[str] = set()

    async def handler(job: Job[Text], _settings: Any) -> Any:
        running.add(job.payload.name)
        made.peak = max(made.peak, len(running))
        try:
            return await body(job, made)
        finally:
            running.discard(job.payload.name)

    around = Surroundings(
        queue=store,
        kind=kind or Kind("texts", TypeAdapter(Text)),
        newest=lambda: snapshots.current,
        draining=lambda: made.pool.quiesced,
        window=lambda: made.window,
    )
    execution = Execution(runner(handler), around)
    moving = Limit(limit)
    pool = Pool(name="texts", queue=store, execution=execution, limit=moving, window=around.window)
    made = Bench(store, pool, moving, snapshots, running)
    pool.on_ended(lambda end: made.outcomes.append(end.outcome))
    wake = asyncio.get_running_loop().call_soon_threadsafe
    store.on_ready(lambda _queue: wake(pool.wake) and None)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool.run)
            yield made
            tasks.cancel_scope.cancel()
    finally:
        store.close()


async def test_every_job_runs_once(tmp_path: Path) -> None:
    done: list[str] = []

    async def body(job: Job[Text], _bench: Bench) -> None:
        done.append(job.payload.name)

    async with bench(tmp_path, body) as one:
        await one.add(*(f"t{i}" for i in range(500)))
        await one.until(lambda: len(one.outcomes) == 500)
    assert sorted(done) == sorted(f"t{i}" for i in range(500))
    assert one.peak <= 4


async def test_growing_wakes_at_once_and_shrinking_cancels_nothing(tmp_path: Path) -> None:
    release = anyio.Event()

    async def body(_job: Job[Text], _bench: Bench) -> None:
        await release.wait()

    async with bench(tmp_path, body, limit=2) as one:
        await one.add(*(f"t{i}" for i in range(40)))
        await one.until(lambda: one.pool.running == 2)
        one.limit.set(16)
        await one.until(lambda: one.pool.running == 16)
        one.limit.set(3)
        assert one.pool.running == 16
        one.peak = 0
        release.set()
        await one.until(lambda: len(one.outcomes) == 40)
        assert one.outcomes == ["done"] * 40


async def test_a_limit_of_zero_pauses(tmp_path: Path) -> None:
    async def body(_job: Job[Text], _bench: Bench) -> None: ...

    async with bench(tmp_path, body, limit=0) as one:
        await one.add("a")
        await anyio.wait_all_tasks_blocked()
        assert one.depth("ready") == 1
        one.limit.set(1)
        await one.until(lambda: one.outcomes == ["done"])


@pytest.mark.timeout(patience_s(120, RESIZES, 300))
async def test_random_resizes_never_admit_above_the_larger_limit(tmp_path: Path) -> None:
    """Never above max(old, new) meanwhile, equal to the new at the end, and nobody left asleep."""
    chance = random.Random(7)
    over: list[tuple[int, int, int]] = []
    before, last, added = 8, 13, 0
    resizing, release = True, anyio.Event()

    async def body(_job: Job[Text], one: Bench) -> None:
        if len(one.running) > max(one.limit.value, before):
            over.append((len(one.running), before, one.limit.value))
        await (anyio.sleep(chance.random() * 0.002) if resizing else release.wait())

    async with bench(tmp_path, body, limit=before) as one:
        for number in range(RESIZES):
            if one.depth("ready") < 200:
                await one.add(*(f"t{i}" for i in range(added, added + 500)))
                added += 500
            before = one.limit.value
            one.limit.set(chance.randint(0, 20) if number < RESIZES - 1 else last)
            await anyio.sleep(chance.random() * 0.003)  # the pool claims under one limit, its jobs end under another
            await one.until(lambda: len(one.running) <= one.limit.value)
        assert len(one.outcomes) > RESIZES
        resizing = False
        await one.until(lambda: len(one.running) == last)
        await anyio.wait_all_tasks_blocked()
        assert (one.pool.running, len(one.running)) == (last, last)
        release.set()
        await one.until(lambda: len(one.outcomes) == added)
        assert (one.depth("ready"), one.depth("running")) == (0, 0)
    assert over == []
    assert set(one.outcomes) == {"done"}


async def test_a_failure_uses_an_attempt_and_is_tried_again(tmp_path: Path) -> None:
    attempts: list[int] = []

    async def body(job: Job[Text], _bench: Bench) -> None:
        attempts.append(job.attempt)
        raise ValueError("no luck")

    async with bench(tmp_path, body) as one:
        await one.add("a", max_attempts=1)
        await one.until(lambda: one.depth("dead") == 1)
        [dead] = await one.store.jobs()
        assert "no luck" in (dead.reason or "")
        assert one.outcomes == ["dead"]
    assert attempts == [1]


async def test_a_payload_that_does_not_fit_is_parked(tmp_path: Path) -> None:
    async def body(_job: Job[Text], _bench: Bench) -> None: ...

    async with bench(tmp_path, body) as one:
        await one.store.enqueue([NewJob("texts", {"title": "no name"})])
        await one.until(lambda: one.depth("dead") == 1)


async def test_a_drain_leaves_nothing_running_and_nothing_lost(tmp_path: Path) -> None:
    ended = anyio.Event()

    async def body(job: Job[Text], _bench: Bench) -> None:
        await job.checkpoint({"at": job.payload.name})
        if job.payload.name == "quick":
            await ended.wait()
        else:
            await anyio.sleep_forever()

    async with bench(tmp_path, body, limit=3) as one:
        await one.add("quick", "a", "b", "c")
        await one.until(lambda: len(one.running) == 3)
        one.pool.quiesce()
        assert len(one.pool.remaining()) == 3
        ended.set()
        await one.until(lambda: len(one.pool.remaining()) == 2)
        with anyio.fail_after(10):
            await one.pool.interrupt()
        flushed = await anyio.to_thread.run_sync(one.pool.flush, 5.0)
        assert (len(flushed.finished), len(flushed.requeued), len(flushed.checkpointed)) == (1, 2, 2)
        assert (list(flushed.abandoned), flushed.lost) == ([], 0)
        assert (one.depth("ready"), one.depth("running")) == (3, 0)
        assert one.outcomes == ["done", "interrupted", "interrupted"]
    again = SqliteQueue.open(tmp_path / "q.db")
    rows = await again.claim("texts", 10)
    assert {row.payload["name"]: row.attempts for row in rows} == {"a": 0, "b": 0, "c": 0}
    again.close()


async def test_code_that_swallows_its_cancellation_is_fenced(tmp_path: Path) -> None:
    late: list[BaseException] = []
    go = anyio.Event()

    async def body(job: Job[Text], _bench: Bench) -> None:
        with anyio.CancelScope(shield=True):
            await go.wait()
            try:
                await job.checkpoint("late")
            except Exception as error:  # noqa: BLE001
                late.append(error)

    async with bench(tmp_path, body) as one:
        await one.add("deaf")
        await one.until(lambda: len(one.running) == 1)
        one.pool.quiesce()
        with anyio.move_on_after(0.1):
            await one.pool.interrupt()
        flushed = await anyio.to_thread.run_sync(one.pool.flush, 5.0)
        assert len(flushed.abandoned) == len(flushed.requeued) == 1
        go.set()
    assert [type(error).__name__ for error in late] == ["LeaseLost"]


async def test_a_job_that_stops_itself_is_an_interruption(tmp_path: Path) -> None:
    async def body(job: Job[Text], _bench: Bench) -> None:
        await job.checkpoint(1)
        while not job.interrupted:  # noqa: ASYNC110 - as a job that only looks does
            await anyio.sleep(0.001)
        job.stop()

    async with bench(tmp_path, body) as one:
        await one.add("polite")
        await one.until(lambda: len(one.running) == 1)
        one.pool.quiesce()
        with anyio.fail_after(10):
            await one.pool.idle()
        flushed = await anyio.to_thread.run_sync(one.pool.flush, 5.0)
        assert (len(flushed.requeued), list(flushed.finished), flushed.lost) == (1, [], 0)


async def test_a_second_attempt_continues_after_the_last_checkpoint(tmp_path: Path) -> None:
    seen: list[Any] = []
    merges: list[int] = []

    async def merge() -> int:
        merges.append(len(seen))
        return len(seen)

    async def body(job: Job[Text], _bench: Bench) -> str:
        for number in job.resume(range(4)):
            seen.append((job.attempt, number))
            if (job.attempt, number) == (1, 2):
                raise RuntimeError("half-way")
            await job.checkpoint({"last": number})
        assert job.cursor == {"last": 3}
        merged = await job.step("merge", merge)
        if job.attempt == 2:
            raise RuntimeError("after the step")
        return f"{merged} {await job.step('merge', merge)}"

    async with bench(tmp_path, body, backoff=Backoff(first_s=0.001)) as one:
        await one.add("a")
        await one.until(lambda: one.outcomes == ["failed", "failed", "done"])
        [done] = await one.store.jobs()
        view = await one.store.job(done.id)
    assert seen == [(1, 0), (1, 1), (1, 2), (2, 2), (2, 3)]
    assert merges == [5]
    assert view is not None
    assert view.result == "5 5"


async def test_a_job_keeps_its_snapshot_until_it_asks(tmp_path: Path) -> None:
    generations: list[Any] = []

    async def body(job: Job[Text], one: Bench) -> None:
        one.snapshots.swap(snapshot(2, "newer"))
        generations.append((job.generation, one.pool.generations()))
        generations.append((job.refresh(), job.generation, one.pool.generations()))

    async with bench(tmp_path, body) as one:
        await one.add("a")
        await one.until(lambda: one.outcomes == ["done"])
    assert generations == [(1, [1]), ("newer", 2, [2])]


def test_a_limit_is_from_0_to_10_000() -> None:
    limit = Limit(10_000)
    for bad in (-1, 10_001):
        with pytest.raises(ValueError, match="0 to 10,000"):
            limit.set(bad)
    assert limit.value == 10_000
