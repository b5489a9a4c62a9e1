"""What jobs may be and do: threads, processes, versions, follow-up work, time they say to need, shared limits."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import BaseModel, TypeAdapter

from hotreload import Job, LeaseLost, QueueDraining, SyncJob
from hotreload.lifecycle import Window
from hotreload.queue.contract import JobView
from hotreload.queue.job import Done, Failed, Interrupted, JobState, NewJob
from hotreload.queue.sqlite import SqliteQueue
from hotreload.workers.execution import Execution
from hotreload.workers.job import Surroundings
from hotreload.workers.kind import Kind
from hotreload.workers.limits import Limit, SharedLimit
from hotreload.workers.pool import Pool
from hotreload.workers.runners import runner

from .test_pool import snapshot

pytestmark = pytest.mark.anyio


class Place(BaseModel):
    """A typed cursor."""

    page: int


@dataclass
class Shop:
    """A store and pools over it."""

    store: SqliteQueue
    pools: dict[str, Pool]
    window: Window | None = None

    async def until(self, reached: Callable[[], bool], within_s: float = 20.0) -> None:
        with anyio.fail_after(within_s):
            while not reached():  # noqa: ASYNC110 - what it waits for is the store's
                await anyio.sleep(0.002)

    def depth(self, state: str) -> int:
        return sum(getattr(depth, state) for depth in self.store.depths())

    async def jobs(self) -> list[JobView]:
        found = [await self.store.job(job.id) for job in await self.store.jobs()]
        return [job for job in found if job is not None]

    async def only(self) -> JobView:
        [job] = await self.jobs()
        return job


@asynccontextmanager
async def shop(
    folder: Path,
    *handlers: Any,
    kind: Kind | None = None,
    process: bool = False,
    limit: int = 4,
    shared: SharedLimit | None = None,
    opens: Callable[[Path], SqliteQueue] = SqliteQueue.open,
    **options: Any,
) -> AsyncIterator[Shop]:
    """Serve each handler's queue, named after it."""
    store = opens(folder / "q.db")
    kinds = {handler.__name__: kind or Kind(handler.__name__) for handler in handlers}
    made = Shop(store, {})
    for handler in handlers:
        name = handler.__name__
        around = Surroundings(
            queue=store,
            kind=kinds[name],
            newest=lambda: snapshot(1),
            draining=lambda: any(pool.quiesced for pool in made.pools.values()),
            window=lambda: made.window,
            kinds=kinds,
        )
        made.pools[name] = Pool(
            name=name,
            queue=store,
            execution=Execution(runner(handler, process=process), around),
            limit=Limit(limit),
            shared=[shared] if shared else [],
            window=around.window,
            **options,
        )
    wake = asyncio.get_running_loop().call_soon_threadsafe
    store.on_ready(lambda queue: wake(made.pools[queue].wake) and None)
    try:
        async with anyio.create_task_group() as tasks:
            for pool in made.pools.values():
                tasks.start_soon(pool.run)
            yield made
            tasks.cancel_scope.cancel()
    finally:
        store.close()


# --- threads and processes --------------------------------------------------------------------------------------


async def test_a_plain_function_runs_in_a_thread_and_keeps_its_progress(tmp_path: Path) -> None:
    seen: list[Any] = []

    def work(job: SyncJob[Any], _settings: Any) -> str:
        for number in job.resume(range(3)):
            seen.append((job.attempt, number, threading.current_thread() is threading.main_thread()))
            if (job.attempt, number) == (1, 1):
                raise RuntimeError("half-way")
            job.checkpoint({"last": number})
        return job.step("merge", lambda: f"{job.cursor['last']} {job.interrupted}")

    async with shop(tmp_path, work) as one:
        await one.store.enqueue([NewJob("work", None)])
        await one.until(lambda: bool(one.depth("scheduled")))
        await one.store.settle((await _retry_now(one))[0], Interrupted())
        await one.until(lambda: len(seen) == 4)
        await one.until(lambda: not one.depth("running") and not one.depth("ready"))
        assert (await one.only()).result == "2 False"
    assert seen == [(1, 0, False), (1, 1, False), (2, 1, False), (2, 2, False)]


async def _retry_now(one: Shop) -> Any:
    """Wait for the backoff's end and take the job, before its pool does."""
    pool = one.pools["work"]
    pool.limit.set(0)
    rows: Any = []
    with anyio.fail_after(10):
        while not rows:
            await anyio.sleep(0.02)
            rows = await one.store.claim("work", 1)
    pool.limit.set(4)
    return rows


async def test_a_thread_is_told_to_stop_at_its_next_checkpoint(tmp_path: Path) -> None:
    async with shop(tmp_path, endless) as one:
        await one.store.enqueue([NewJob("endless", None)])
        await one.until(lambda: any(entry.job and entry.job.cursor for entry in one.pools["endless"].active.all()))
        one.pools["endless"].quiesce()
        with anyio.fail_after(10):
            await one.pools["endless"].interrupt()
        flushed = await anyio.to_thread.run_sync(one.pools["endless"].flush, 5.0)
        assert (len(flushed.checkpointed), list(flushed.abandoned), flushed.lost) == (1, [], 0)


def endless(job: SyncJob[Any], _settings: Any) -> None:
    """Go on for ever, a checkpoint after each little step."""
    for number in range(10**9):
        select.select([], [], [], 0.01)
        job.checkpoint(number)


async def test_a_thread_that_does_not_stop_is_fenced_and_named_with_its_stack(tmp_path: Path) -> None:
    go = threading.Event()
    late: list[str] = []

    def deaf(job: SyncJob[Any], _settings: Any) -> None:
        go.wait(20)
        try:
            job.checkpoint("late")
        except LeaseLost as error:
            late.append(type(error).__name__)

    async with shop(tmp_path, deaf) as one:
        await one.store.enqueue([NewJob("deaf", None)])
        await one.until(lambda: any(entry.job and entry.job.thread for entry in one.pools["deaf"].active.all()))
        one.pools["deaf"].quiesce()
        with anyio.move_on_after(0.1):
            await one.pools["deaf"].interrupt()
        [left] = one.pools["deaf"].remaining()
        assert left.why == "told to stop and still running, in a thread"
        flushed = await anyio.to_thread.run_sync(one.pools["deaf"].flush, 5.0)
        assert len(flushed.abandoned) == 1
        assert "(deaf)" in flushed.stuck[0]
        assert "test_pool_jobs.py" in flushed.stuck[0]
        go.set()
    assert late == ["LeaseLost"]


def counts(job: SyncJob[Any], settings: Any) -> Any:
    """Run in a child process: progress, follow-up work, settings, results."""
    for number in job.resume(range(3)):
        job.checkpoint(number)
    followed = job.enqueue("counts", None, key="second").id if job.payload else None
    print("this must not come between the frames")
    return {"cursor": job.cursor, "followed": followed, "settings": settings, "refreshed": job.refresh()}


def dies(job: SyncJob[Any], _settings: Any) -> None:
    """End the child process."""
    job.checkpoint(1)
    raise SystemExit(f"as asked, {job.interrupted}")


def spins(job: SyncJob[Any], _settings: Any) -> None:
    """Keep the child's interpreter busy, deaf to everything."""
    job.checkpoint(1)
    sum(iter(lambda: 1, 0))


async def test_a_process_handler_does_all_a_job_does(tmp_path: Path) -> None:
    async with shop(tmp_path, counts, process=True, limit=1) as one:
        await one.store.enqueue([NewJob("counts", {"first": True})])
        await one.until(lambda: not any(one.depth(state) for state in ("ready", "running")))
        second, first = await one.jobs()
    expected = {"cursor": 2, "followed": second.id, "settings": "settings", "refreshed": "settings"}
    assert (first.result, second.result) == (expected, expected | {"followed": None})


async def test_a_process_that_dies_is_a_failure_with_its_reason(tmp_path: Path) -> None:
    async with shop(tmp_path, dies, process=True) as one:
        await one.store.enqueue([NewJob("dies", None, max_attempts=1)])
        await one.until(lambda: one.depth("dead") == 1)
        job = await one.only()
    assert (job.attempts, job.reason) == (1, "SystemExit: as asked, False")
    assert "in dies" in (job.traceback or "")


def tells(job: SyncJob[Any], _settings: Any) -> Any:
    """Tell the process and its session; end it where that is asked for."""
    if job.payload == "die":
        os._exit(7)
    return [os.getpid(), os.getsid(0)]


def alive(pid: int) -> bool:
    """Tell whether a child process is there, or ended and not waited for yet."""
    return Path(f"/proc/{pid}").exists()


async def test_a_child_that_died_while_idle_fails_no_job(tmp_path: Path) -> None:
    async with shop(tmp_path, tells, process=True, limit=1) as one:
        pool = one.pools["tells"]
        await one.store.enqueue([NewJob("tells", None, max_attempts=1)])
        await one.until(lambda: not one.depth("ready") and not pool.running)
        before = (await one.only()).result[0]
        os.kill(before, signal.SIGKILL)
        await one.until(lambda: not alive(before))
        await one.store.enqueue([NewJob("tells", None, max_attempts=1), NewJob("tells", "die", max_attempts=1)])
        await one.until(lambda: not one.depth("ready") and not pool.running)
        died, second, first = await one.jobs()
    assert (first.state, second.state, died.state) == (JobState.DONE, JobState.DONE, JobState.DEAD)
    assert first.result[0] == before != second.result[0]
    assert died.reason == "its process ended with 7"
    assert first.result[1] == before, "a terminal's Ctrl-C would reach it"


async def test_idle_children_are_kept_up_to_the_limit(tmp_path: Path) -> None:
    async with shop(tmp_path, tells, process=True, limit=3) as one:
        pool = one.pools["tells"]
        await one.store.enqueue([NewJob("tells", None)] * 12)
        await one.until(lambda: not one.depth("ready") and not pool.running)
        children = {job.result[0] for job in await one.jobs()}
        assert 1 <= sum(map(alive, children)) <= 3
        pool.limit.set(1)
        await one.until(lambda: sum(map(alive, children)) == 1)
        pool.limit.set(0)
        await one.until(lambda: not any(map(alive, children)))


async def test_a_process_that_hears_nothing_is_killed(tmp_path: Path) -> None:
    async with shop(tmp_path, spins, process=True) as one:
        await one.store.enqueue([NewJob("spins", None)])
        await one.until(lambda: any(entry.job and entry.job.cursor for entry in one.pools["spins"].active.all()))
        one.pools["spins"].quiesce()
        with anyio.fail_after(10):
            await one.pools["spins"].interrupt()
        flushed = await anyio.to_thread.run_sync(one.pools["spins"].flush, 5.0)
        assert (len(flushed.checkpointed), list(flushed.abandoned), flushed.lost) == (1, [], 0)


# --- versions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "options", "expected"),
    [
        (1, {}, "parked"),
        (3, {}, "parked"),
        (2, {}, {"name": "a"}),
        (1, {"migrate": lambda payload, _version: {"name": payload["title"]}}, {"name": "a"}),
        (1, {"migrate": lambda payload, _version: payload["nothing"]}, "parked"),
    ],
)
async def test_a_payload_of_another_version_is_migrated_or_parked(
    tmp_path: Path, stored: int, options: Any, expected: Any
) -> None:
    async def named(job: Job[Any], _settings: Any) -> Any:
        return job.payload

    kind = Kind("named", TypeAdapter(dict[str, str]), version=2, **options)
    async with shop(tmp_path, named, kind=kind) as one:
        await one.store.enqueue([NewJob("named", {"name" if stored == 2 else "title": "a"}, version=stored)])
        await one.until(lambda: not any(one.depth(state) for state in ("ready", "running")))
        job = await one.only()
    assert ("parked" if job.state is JobState.DEAD else job.result) == expected
    assert job.state is JobState.DONE or f"version {stored}" in (job.reason or "")


@pytest.mark.parametrize(
    ("options", "resumed"),
    [
        ({}, (None, 0)),
        ({"migrate_cursor": lambda cursor, _version: {"page": cursor["chapter"]}}, (Place(page=7), 0)),
        ({"migrate_cursor": lambda cursor, _version: cursor}, (None, 0)),
    ],
)
async def test_a_cursor_of_another_version_is_migrated_or_thrown_away(
    tmp_path: Path, options: Any, resumed: Any
) -> None:
    async def read(job: Job[Any], _settings: Any) -> None:
        seen.append((job.cursor, next(iter(job.resume(range(4))))))
        assert await job.step("old", lambda: "run again") == "run again"
        await job.checkpoint(Place(page=9))

    seen: list[Any] = []
    kind = Kind("read", cursor=TypeAdapter(Place), version=2, migrate=lambda payload, _version: payload, **options)
    store = SqliteQueue.open(tmp_path / "q.db")
    await store.enqueue([NewJob("read", None)])
    [row] = await store.claim("read", 1)
    await store.checkpoint(
        row, {"version": 1, "cursor": {"chapter": 7}, "positions": {"items": 2}, "steps": {"old": "kept"}}
    )
    store.close()
    async with shop(tmp_path, read, kind=kind) as one:
        await one.until(lambda: not any(one.depth(state) for state in ("ready", "running")))
        job = await one.only()
    assert seen == [resumed]
    assert (job.cursor["version"], job.cursor["cursor"]) == (2, {"page": 9})


# --- what a job asks of its service -----------------------------------------------------------------------------


async def test_a_checkpoint_writes_the_jobs_own_rows_or_nothing(tmp_path: Path) -> None:
    def write(connection: Any) -> None:
        connection.execute("CREATE TABLE IF NOT EXISTS own (n)")
        connection.execute("INSERT INTO own VALUES (1)")

    def fail(connection: Any) -> None:
        connection.execute("INSERT INTO own VALUES (2)")
        raise RuntimeError("no")

    async def writes(job: Job[Any], _settings: Any) -> None:
        await job.checkpoint(1, within=write)
        await job.checkpoint(2, within=fail)

    async with shop(tmp_path, writes) as one:
        await one.store.enqueue([NewJob("writes", None, max_attempts=1)])
        await one.until(lambda: one.depth("dead") == 1)
        assert (await one.only()).cursor["cursor"] == 1
        assert await one.store.write(lambda connection: connection.execute("SELECT n FROM own").fetchall()) == [(1,)]


async def test_follow_up_work_is_refused_in_a_drain(tmp_path: Path) -> None:
    answers: list[Any] = []

    async def parent(job: Job[Any], _settings: Any) -> None:
        answers.append(await job.enqueue("child", {"n": 1}, key="k"))
        answers.append(await job.enqueue("child", {"n": 1}, key="k"))
        for refused, arguments in ((ValueError, ("nobody", 1)), (QueueDraining, ("child", 2))):
            if refused is QueueDraining:
                one.store.refuse_new()
            with pytest.raises(refused):
                await job.enqueue(*arguments)
        answers.append("refused")

    async def child(_job: Job[Any], _settings: Any) -> None:
        await anyio.sleep_forever()

    async with shop(tmp_path, parent, child) as one:
        await one.store.enqueue([NewJob("parent", None)])
        await one.until(lambda: len(answers) == 3)
    assert [answers[1].existing, *answers[2:]] == [JobState.RUNNING, "refused"]
    assert answers[1].id == answers[0].id


async def test_a_job_that_cannot_end_in_time_is_not_waited_for(tmp_path: Path) -> None:
    async def slow(job: Job[Any], _settings: Any) -> None:
        await job.checkpoint("kept")
        job.needs(600)
        await anyio.sleep_forever()

    async with shop(tmp_path, slow) as one:
        await one.store.enqueue([NewJob("slow", None)])
        await one.until(lambda: any(entry.needed_until for entry in one.pools["slow"].active.all()))
        now = time.monotonic()
        one.window = Window(grace_ends=now + 60, cut_at=now + 80)
        one.pools["slow"].quiesce()
        with anyio.fail_after(10):
            await one.pools["slow"].idle()
        flushed = await anyio.to_thread.run_sync(one.pools["slow"].flush, 5.0)
        assert (len(flushed.checkpointed), list(flushed.finished)) == (1, [])


async def test_a_job_that_needs_a_little_more_is_left_to_finish(tmp_path: Path) -> None:
    async def nearly(job: Job[Any], _settings: Any) -> None:
        job.needs(0.5)
        await anyio.sleep(0.3)

    async def other(_job: Job[Any], _settings: Any) -> None:
        await anyio.sleep_forever()

    async with shop(tmp_path, nearly, other) as one:
        await one.store.enqueue([NewJob("nearly", None), NewJob("other", None)])
        await one.until(lambda: any(entry.needed_until for entry in one.pools["nearly"].active.all()))
        now = time.monotonic()
        one.window = Window(grace_ends=now, cut_at=now + 5)
        flushed: list[Any] = []
        for pool in one.pools.values():
            pool.quiesce()
        assert one.pools["nearly"].remaining()[0].why.startswith("needs 0.")
        for pool in one.pools.values():
            with anyio.fail_after(10):
                await pool.interrupt()
            flushed.append(await anyio.to_thread.run_sync(pool.flush, 5.0))
    assert [(len(one.finished), len(one.requeued)) for one in flushed] == [(1, 0), (0, 1)]


async def test_needs_ends_the_job_where_the_drain_leaves_too_little(tmp_path: Path) -> None:
    async def asks(job: Job[Any], _settings: Any) -> None:
        while True:
            job.needs(5)
            await anyio.sleep(0.005)

    async with shop(tmp_path, asks) as one:
        await one.store.enqueue([NewJob("asks", None)])
        await one.until(lambda: any(entry.needed_until for entry in one.pools["asks"].active.all()))
        now = time.monotonic()
        one.pools["asks"].quiesce()
        one.window = Window(grace_ends=now + 1, cut_at=now + 2)
        with anyio.fail_after(0.9):
            await one.pools["asks"].idle()


# --- runners, limits, flush -------------------------------------------------------------------------------------


async def test_no_job_sees_the_context_of_another(tmp_path: Path) -> None:
    variable: ContextVar[str] = ContextVar("variable", default="clean")
    seen: list[str] = []

    async def leaves(job: Job[Any], _settings: Any) -> None:
        seen.append(variable.get())
        variable.set(job.id)

    async with shop(tmp_path, leaves, limit=2) as one:
        await one.store.enqueue([NewJob("leaves", None)] * 20)
        await one.until(lambda: len(seen) == 20)
    assert set(seen) == {"clean"}


async def test_a_job_that_cancels_itself_has_failed(tmp_path: Path) -> None:
    async def odd(_job: Job[Any], _settings: Any) -> None:
        raise anyio.get_cancelled_exc_class()

    async with shop(tmp_path, odd) as one:
        await one.store.enqueue([NewJob("odd", None, max_attempts=1)])
        await one.until(lambda: one.depth("dead") == 1)


async def test_a_result_that_is_no_json_fails_its_job_and_no_other(tmp_path: Path) -> None:
    async def gives(job: Job[Any], _settings: Any) -> Any:
        return object() if job.payload else "fine"

    async with shop(tmp_path, gives) as one:
        await one.store.enqueue([NewJob("gives", n, max_attempts=1) for n in (0, 1, 0)])
        await one.until(lambda: not any(one.depth(state) for state in ("ready", "running")))
        assert [job.state for job in await one.jobs()] == [JobState.DONE, JobState.DEAD, JobState.DONE]


async def test_a_shared_limit_holds_over_all_and_is_given_out_fairly(tmp_path: Path) -> None:
    shared = SharedLimit("calls", 4)
    running = {"big": 0, "small": 0}
    over: list[int] = []
    order: list[str] = []
    bounds: set[str | None] = set()
    most = 4

    async def at_work(name: str) -> None:
        running[name] += 1
        order.append(name)
        if sum(running.values()) > most:
            over.append(sum(running.values()))
        await anyio.sleep(0.002)
        bounds.add(one.pools["big"].bound_by)
        running[name] -= 1

    async def big(_job: Job[Any], _settings: Any) -> None:
        await at_work("big")

    async def small(_job: Job[Any], _settings: Any) -> None:
        await at_work("small")

    async with shop(tmp_path, big, small, shared=shared, limit=10) as one:
        await one.store.enqueue([NewJob("big", None)] * 150)
        await one.until(lambda: len(order) > 20)
        await one.store.enqueue([NewJob("small", None)] * 30)
        await one.until(lambda: order.count("small") == 30)
        assert order.count("big") < 100, "the queue with the backlog took it all"
        shared.set(2)
        await one.until(lambda: shared.running <= 2)
        most = 2
        await one.until(lambda: len(order) == 180)
        await one.until(lambda: not one.depth("running"))
        assert "limits.calls" in bounds
    assert not over
    assert shared.running == 0


async def test_a_shrunk_shared_limit_holds_nobody_up_for_good(tmp_path: Path) -> None:
    shared = SharedLimit("calls", 8)
    ended = {"one": 0, "two": 0}

    async def one(_job: Job[Any], _settings: Any) -> None:
        await anyio.sleep(0.001)
        ended["one"] += 1

    async def two(_job: Job[Any], _settings: Any) -> None:
        await anyio.sleep(0.003)
        ended["two"] += 1

    async with shop(tmp_path, one, two, shared=shared, limit=3) as both:
        await both.store.enqueue([NewJob("one", None), NewJob("two", None)] * 100)
        for value in (1, 6, 0, 2, 1, 8, 1, 5, 0, 1, 3, 1) * 3:
            shared.set(value)
            await anyio.sleep(0.004)
        await both.until(lambda: ended == {"one": 100, "two": 100})
        await both.until(lambda: shared.running == 0)


async def test_a_job_that_ended_just_before_the_flush_is_finished_not_repeated(tmp_path: Path) -> None:
    async def quick(_job: Job[Any], _settings: Any) -> None:
        ended.set()

    ended = anyio.Event()
    async with shop(tmp_path, quick) as one:
        await one.store.enqueue([NewJob("quick", None)])
        pool = one.pools["quick"]
        await ended.wait()
        pool.quiesce()
        flushed = pool.flush(5.0)  # blocks the loop: nothing the loop would still do helps here
        assert (len(flushed.finished), list(flushed.requeued), flushed.lost) in [(1, [], 0), (0, [], 0)]
        assert one.depth("ready") == 0


async def test_a_stalled_and_fenced_job_cannot_write(tmp_path: Path) -> None:
    store = SqliteQueue.open(tmp_path / "q.db")
    await store.enqueue([NewJob("a", None)])
    [stalled] = await store.claim("a", 1)
    assert store.requeue_running(["a"], 5).ids == [stalled.id]
    [taken] = await store.claim("a", 1)
    for verdict in (Done(), Failed("late"), Interrupted()):
        with pytest.raises(LeaseLost):
            await store.settle(stalled, verdict)
        done = await store.exchange("a", 0, [(stalled, verdict)])
        assert isinstance(done.states[0], LeaseLost)
    with pytest.raises(LeaseLost):
        await store.checkpoint(stalled, 1)
    assert store.requeue_running(["b"], 5, ended=[(stalled, Done())]).ids == []
    done = await store.exchange("a", 0, [(stalled, Done()), (taken, Done())])
    assert [type(state) for state in done.states] == [LeaseLost, JobState]
    assert store.close()
