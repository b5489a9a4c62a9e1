"""The promises of `Queue` and of the store, over every engine (one today)."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import anyio
import apsw
import pytest

from hotreload.errors import LeaseLost, QueueDraining, StoreOwned, StoreUnavailable
from hotreload.queue.database import connect
from hotreload.queue.job import Backoff, Done, Failed, Interrupted, JobRow, JobState, NewJob, decide
from hotreload.queue.schema import Step, applied, migrate, steps
from hotreload.queue.sqlite import SqliteQueue
from hotreload.queue.upkeep import QUIET_S

from .stores import NOW_MS, HandClock, counters_agree

pytestmark = pytest.mark.anyio


@dataclass
class Store:
    """One engine's store: opened, closed, opened again."""

    path: Path
    clock: HandClock
    opened: SqliteQueue | None = None

    def open(self, **options: Any) -> SqliteQueue:
        """Open the store, as the start of a service does."""
        options = {"now_ms": self.clock, "jitter": lambda: 0.0, "backoff": Backoff(first_s=2)} | options
        self.opened = SqliteQueue.open(self.path, **options)
        return self.opened

    def crash(self) -> SqliteQueue:
        """End the owner without a word to its running jobs, and open anew."""
        assert self.opened is not None
        before = self.opened
        before._reader.close()
        assert before._writer.close(5)
        before._lock.release()
        return self.open()


@pytest.fixture(params=["sqlite"])
def store(tmp_path: Path) -> Iterator[Store]:
    found = Store(tmp_path / "state" / "queue.db", HandClock())
    yield found
    if found.opened is not None:
        assert found.opened.close()
        assert counters_agree(found.path)


@pytest.fixture
def queue(store: Store) -> SqliteQueue:
    return store.open()


def new(*payloads: Any, **options: Any) -> list[NewJob]:
    return [NewJob("a", payload, **options) for payload in payloads]


async def claimed(queue: SqliteQueue, limit: int = 10, name: str = "a") -> list[JobRow]:
    return await queue.claim(name, limit)


async def one_of(queue: SqliteQueue, payload: Any = 1, **options: Any) -> JobRow:
    await queue.enqueue(new(payload, **options))
    (row,) = await claimed(queue, 1)
    return row


def depth(queue: SqliteQueue, name: str = "a") -> tuple[int, int, int, int]:
    (found,) = [found for found in queue.depths() if found.name == name]
    return found.ready, found.scheduled, found.running, found.dead


# enqueue


@pytest.mark.parametrize("payload", [None, {"ü": [1, 2.5, "\udcff", True]}, "x" * 100_000, 2**80, "\x00"])
async def test_a_payload_comes_back_as_it_went(queue: SqliteQueue, payload: Any) -> None:
    assert (await one_of(queue, payload)).payload == payload


@pytest.mark.parametrize("payload", [object(), float("nan"), {1, 2}])
async def test_a_payload_that_is_not_json_is_refused(queue: SqliteQueue, payload: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        await queue.enqueue(new(1, payload))
    assert queue.depths() == []


async def test_ids_are_given_in_order_and_never_again(store: Store) -> None:
    queue = store.open()
    first = await queue.enqueue(new(1, 2, 3))
    assert first.ids == ["1", "2", "3"]
    assert await queue.discard(first.ids) == first.ids
    queue.close()
    assert (await store.open().enqueue(new(4))).ids == ["4"]


async def test_a_key_in_hand_is_a_duplicate_until_its_job_is_done(queue: SqliteQueue) -> None:
    row = await one_of(queue, dedupe_key="k")
    for _ in ("running", "dead"):
        again = await queue.enqueue([*new(1, dedupe_key="k"), *new(2)])
        assert (len(again.ids), again.duplicates) == (1, ["k"])
        with suppress(LeaseLost):
            await queue.settle(row, Failed("no", for_good=True))
    assert (await queue.enqueue([NewJob("b", 1, dedupe_key="k")])).duplicates == []
    assert await queue.retry([row.id]) == [row.id]
    (row,) = [found for found in await claimed(queue) if found.id == row.id]
    await queue.settle(row, Done())
    assert (await queue.enqueue(new(1, dedupe_key="k"))).duplicates == []


async def test_a_key_done_lately_is_a_duplicate_where_asked(queue: SqliteQueue, store: Store) -> None:
    await queue.settle(await one_of(queue, dedupe_key="k"), Done())
    asked = [*new(1, dedupe_key="k"), *new(2, dedupe_key="l")]
    found = await queue.enqueue(asked, unless_done_since_ms=NOW_MS)
    assert (len(found.ids), found.duplicates) == (1, ["k"])
    assert (await queue.enqueue(asked, unless_done_since_ms=NOW_MS + 1)).duplicates == ["l"]


async def test_concurrent_callers_with_one_key_make_one_job(queue: SqliteQueue) -> None:
    made: list[str] = []

    async def ask() -> None:
        made.extend((await queue.enqueue(new(1, dedupe_key="k"))).ids)

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(ask)
    assert len(made) == 1
    assert depth(queue) == (1, 0, 0, 0)


async def test_a_thread_enqueues_without_a_loop(queue: SqliteQueue) -> None:
    assert (await anyio.to_thread.run_sync(queue.enqueue_sync, new(1, 2))).ids == ["1", "2"]


async def test_enqueue_of_nothing_does_nothing(queue: SqliteQueue) -> None:
    assert (await queue.enqueue([])).ids == []


async def test_many_jobs_at_once(queue: SqliteQueue) -> None:
    assert len((await queue.enqueue(new(*range(1_000)))).ids) == 1_000
    assert [row.payload for row in await claimed(queue, 1_000)] == list(range(1_000))


# claim


async def test_claims_go_by_priority_then_time_then_id(queue: SqliteQueue, store: Store) -> None:
    await queue.enqueue([NewJob("a", name, priority=priority) for name, priority in (("l", 1), ("u", -1), ("n", 0))])
    store.clock.now_ms += 1
    await queue.enqueue(new("o"))
    assert [row.payload for row in await claimed(queue)] == ["u", "n", "o", "l"]
    assert await claimed(queue) == []


async def test_every_claim_has_a_new_token(queue: SqliteQueue) -> None:
    row = await one_of(queue)
    assert await queue.settle(row, Interrupted()) is JobState.READY
    (again,) = await claimed(queue)
    assert again.lease_seq > row.lease_seq
    assert (again.interruptions, again.attempts) == (1, 0)


async def test_a_scheduled_job_waits_for_its_time(queue: SqliteQueue, store: Store) -> None:
    await queue.enqueue(new("late", run_at_ms=NOW_MS + 50))
    await queue.enqueue(new("now"))
    assert await queue.next_due_ms("a") == NOW_MS + 50
    assert depth(queue) == (1, 1, 0, 0)
    assert [row.payload for row in await claimed(queue)] == ["now"]
    store.clock.now_ms -= 10_000  # the clock goes back: it waits longer, nothing else
    assert await claimed(queue) == []
    store.clock.now_ms = NOW_MS + 50
    assert [row.payload for row in await claimed(queue)] == ["late"]
    assert await queue.next_due_ms("a") is None


async def test_a_paused_queue_gives_nothing_over_a_restart_too(store: Store) -> None:
    queue = store.open()
    await queue.enqueue(new(1))
    await queue.pause("a")
    queue.close()
    queue = store.open()
    assert await claimed(queue) == []
    assert queue.depths()[0].paused
    woken: list[str] = []
    queue.on_ready(woken.append)
    await queue.resume("a")
    assert woken == ["a"]
    assert len(await claimed(queue)) == 1


class Hold:
    """A function for `write` that stays in the writer's thread until it is let go."""

    def __init__(self) -> None:
        self.entered, self.let_go = threading.Event(), threading.Event()

    def __call__(self, _: apsw.Connection) -> None:
        self.entered.set()
        assert self.let_go.wait(5)


@pytest.mark.parametrize("began", [False, True])
async def test_a_claim_nobody_received_goes_back(queue: SqliteQueue, began: bool) -> None:
    """Cancelled before its turn it took nothing; cancelled between its turn and the commit, what it took goes back."""
    await queue.enqueue(new(1))
    before, beside, scope = Hold(), Hold(), anyio.CancelScope()

    async def claim() -> None:
        with scope:
            await queue.claim("a", 1)
            raise AssertionError("it was not cancelled")

    async with anyio.create_task_group() as group:
        group.start_soon(queue.write, before)
        await anyio.to_thread.run_sync(before.entered.wait, 5)
        group.start_soon(claim)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(queue.write, beside)
        await anyio.wait_all_tasks_blocked()
        if not began:
            scope.cancel()
            await anyio.wait_all_tasks_blocked()
        before.let_go.set()
        await anyio.to_thread.run_sync(beside.entered.wait, 5)
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        beside.let_go.set()
    with anyio.fail_after(5):
        while not (rows := await claimed(queue)):
            await queue.write(lambda _: None)
    assert (rows[0].interruptions, rows[0].lease_seq) == (0, 2 if began else 1)


async def test_listeners_hear_of_ready_jobs_and_cannot_stop_the_writer(queue: SqliteQueue) -> None:
    heard: list[str] = []

    def breaks(_: str) -> None:
        raise RuntimeError("a listener")

    queue.on_ready(breaks)
    queue.on_ready(heard.append)
    await queue.enqueue([NewJob("a", 1), NewJob("b", 1, run_at_ms=NOW_MS + 10)])
    assert heard == ["a", "b"], "due sooner than anything there was"


# checkpoint, settle, fencing


async def test_progress_is_there_after_a_crash_and_counts_no_attempt(store: Store) -> None:
    queue = store.open()
    await queue.checkpoint(await one_of(queue), {"section": 3})
    queue = store.crash()
    assert (queue.recovered.crashed, queue.recovered.checkpointed) == (["1"], ["1"])
    (row,) = await claimed(queue)
    assert (row.cursor, row.attempts, row.crashes, row.interruptions) == ({"section": 3}, 0, 1, 0)


async def test_a_fenced_claim_can_write_nothing(queue: SqliteQueue) -> None:
    row = await one_of(queue)
    back = queue.requeue_running(["a"], 5)
    assert (back.ids, back.checkpointed) == ([row.id], [])
    late: Sequence[Callable[[], Any]] = (
        lambda: queue.checkpoint(row, 1),
        lambda: queue.checkpoint(row, 1, within=lambda connection: connection.execute("CREATE TABLE mine (x)")),
        lambda: queue.settle(row, Done()),
        lambda: queue.settle(row, Interrupted()),
        lambda: queue.settle(row, Failed("x")),
    )
    for again in range(2):
        for write in late:
            with pytest.raises(LeaseLost) as refused:
                await write()
            assert (refused.value.job_id, refused.value.lease_seq) == (row.id, row.lease_seq)
        if not again:
            (newest,) = await claimed(queue)
    assert newest.cursor is None
    assert await queue.settle(newest, Done()) is JobState.DONE
    assert not await queue.write(lambda connection: connection.table_exists("main", "mine"))


async def test_one_fenced_write_fails_no_neighbour(queue: SqliteQueue) -> None:
    await queue.enqueue(new(*range(20)))
    rows = await claimed(queue, 20)
    stale = {row.id for row in rows[::3]}
    outcomes: dict[str, object] = {}

    async def settle(row: JobRow) -> None:
        try:
            outcomes[row.id] = await queue.settle(row, Done(row.payload))
        except LeaseLost as lost:
            outcomes[row.id] = lost

    async with anyio.create_task_group() as group:
        for row in rows:
            group.start_soon(settle, replace(row, lease_seq=row.lease_seq - 1) if row.id in stale else row)
    assert {job_id for job_id, outcome in outcomes.items() if isinstance(outcome, LeaseLost)} == stale
    assert depth(queue) == (0, 0, len(stale), 0)


async def test_steps_of_one_job_at_once_are_all_kept(queue: SqliteQueue) -> None:
    row = await one_of(queue)
    async with anyio.create_task_group() as group:
        for step in range(5):
            group.start_soon(queue.checkpoint, row, step)
    queue.requeue_running(["a"], 5)
    assert (await claimed(queue))[0].cursor == 4


async def test_failures_back_off_then_die_with_their_reason(queue: SqliteQueue, store: Store) -> None:
    row = await one_of(queue, max_attempts=2)
    assert await queue.settle(row, Failed("no luck", traceback="line 1")) is JobState.SCHEDULED
    assert await queue.next_due_ms("a") == NOW_MS + 1000
    store.clock.now_ms += 1000
    (row,) = await claimed(queue)
    assert row.attempts == 1
    assert await queue.settle(row, Failed("no luck \udcff", traceback="line 2")) is JobState.DEAD
    shown = await queue.job(row.id)
    assert shown is not None
    assert (shown.state, shown.reason, shown.traceback) == (JobState.DEAD, "no luck \\udcff", "line 2")
    assert depth(queue) == (0, 0, 0, 1)


async def test_a_result_that_is_not_json_leaves_the_claim(queue: SqliteQueue) -> None:
    row = await one_of(queue)
    with pytest.raises(TypeError):
        await queue.settle(row, Done(object()))
    assert await queue.settle(row, Done([1])) is JobState.DONE
    shown = await queue.job(row.id)
    assert shown is not None
    assert shown.result == [1]


async def test_a_requeue_of_all_is_what_decide_says(queue: SqliteQueue) -> None:
    await queue.enqueue(new(*range(300)))
    rows = await claimed(queue, 300)
    await queue.checkpoint(rows[7], 1)
    back = queue.requeue_running(["a", "none", "a"], 5)
    assert (set(back.ids), back.checkpointed) == ({row.id for row in rows}, [rows[7].id])
    again = {row.id: row for row in await claimed(queue, 300)}
    for row in rows:
        to, now = decide(row, Interrupted(), NOW_MS), again[row.id]
        assert (now.attempts, now.interruptions, now.crashes) == (to.attempts, to.interruptions, to.crashes)
        assert (now.run_at_ms, now.lease_seq) == (to.run_at_ms, row.lease_seq + 2)


async def test_a_requeue_needs_no_event_loop(queue: SqliteQueue) -> None:
    await one_of(queue)
    back: list[Any] = []
    thread = threading.Thread(target=lambda: back.append(queue.requeue_running(["a"], 5)))
    thread.start()
    thread.join(5)  # the loop's thread, blocked
    assert [found.ids for found in back] == [["1"]]


# rows of the job's own


async def test_own_rows_and_progress_are_durable_together_or_not_at_all(store: Store) -> None:
    queue = store.open()
    await queue.write(lambda connection: connection.execute("CREATE TABLE effects (x UNIQUE)") and None)
    row = await one_of(queue)

    def effect(connection: apsw.Connection) -> None:
        connection.execute("INSERT INTO effects VALUES (1)")

    await queue.checkpoint(row, 1, within=effect)
    with pytest.raises(apsw.ConstraintError):
        await queue.checkpoint(row, 2, within=effect)
    queue = store.crash()
    assert (await claimed(queue))[0].cursor == 1
    assert await queue.write(lambda connection: connection.execute("SELECT count(*) FROM effects").get) == 1


@pytest.mark.parametrize(
    "sql",
    [
        "COMMIT",
        " rollback",
        "END TRANSACTION",
        "BEGIN",
        "/* x */ COMMIT",
        "-- x\n ROLLBACK",
        "; COMMIT",
        "SELECT 1; /**/ END",
        "/* x */ RELEASE hotreload_caller",
        "ROLLBACK TO hotreload_caller",
        "ATTACH ':memory:' AS more",
        "DETACH main",
        "PRAGMA synchronous = OFF",
        "PRAGMA writable_schema = 1",
        "PRAGMA wal_checkpoint(TRUNCATE)",
    ],
)
@pytest.mark.parametrize("neighbours", [0, 3])
async def test_a_function_cannot_reach_beyond_its_own_rows(queue: SqliteQueue, sql: str, neighbours: int) -> None:
    async def refused() -> None:
        with pytest.raises(ValueError, match=r"SAVEPOINT|not for a function"):
            await queue.write(lambda connection: list(connection.execute(sql)) and None)

    async with anyio.create_task_group() as group:
        for number in range(neighbours):
            group.start_soon(queue.enqueue, new(number))
            if number == 1:
                group.start_soon(refused)
    await refused()
    assert [depth.ready for depth in queue.depths()] == [neighbours] * bool(neighbours)
    await queue.write(lambda connection: connection.execute("SAVEPOINT s; ROLLBACK TO s; RELEASE s") and None)
    assert len((await queue.enqueue(new(1))).ids) == 1


async def test_a_failing_function_fails_no_neighbour_and_runs_once(queue: SqliteQueue) -> None:
    ran: list[int] = []

    async def fail(number: int) -> None:
        def function(connection: apsw.Connection) -> None:
            ran.append(number)
            connection.execute(f"CREATE TABLE t{number} (x)")
            raise RuntimeError("no")

        with pytest.raises(RuntimeError):
            await queue.write(function)

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(fail, number)
            group.start_soon(queue.enqueue, new(number))
    assert sorted(ran) == [0, 1, 2, 3, 4]
    assert depth(queue) == (5, 0, 0, 0)
    assert not await queue.write(lambda connection: connection.table_exists("main", "t3"))


# suspects


async def test_the_job_that_kills_its_process_is_parked_and_the_others_finish(store: Store) -> None:
    queue = store.open()
    killer = (await queue.enqueue(new(*range(16)))).ids[5]
    lives = 1
    while True:
        rows = await claimed(queue, 16)
        if not rows:
            break
        assert len(rows) == 1 or not any(row.suspect for row in rows)
        if killer in {row.id for row in rows}:
            queue = store.crash()
            lives += 1
        else:
            for row in rows:
                await queue.settle(row, Done())
    assert lives == 1 + 2 + 3
    (dead,) = await queue.jobs(state=JobState.DEAD)
    assert (dead.id, dead.attempts, dead.crashes) == (killer, 0, 5)
    assert depth(queue) == (0, 0, 0, 1)


async def test_a_suspect_waits_for_the_rest_and_the_rest_for_it(store: Store) -> None:
    queue = store.open()
    await one_of(queue)
    await queue.enqueue([NewJob("b", 1), NewJob("b", 2)])
    queue = store.crash()
    await claimed(queue)
    queue = store.crash()
    assert queue.recovered.suspects == ["1"]
    (other,) = await claimed(queue, 1, "b")
    assert await claimed(queue) == []
    assert await claimed(queue, 1, "b") == []
    woken: list[str] = []
    queue.on_ready(woken.append)
    await queue.settle(other, Done())
    assert sorted(woken) == ["a", "b"]
    assert await claimed(queue, 1, "b") == []  # the suspect is next
    (suspect,) = await claimed(queue)
    assert suspect.suspect
    assert await claimed(queue, 1, "b") == []
    await queue.settle(suspect, Failed("x", for_good=True))
    assert len(await claimed(queue, 1, "b")) == 1


async def test_nobody_coming_for_a_suspect_blocks_nobody(store: Store) -> None:
    queue = store.open()
    await one_of(queue)
    await queue.enqueue([NewJob("b", 1), NewJob("b", 2)])
    for _ in range(2):
        queue = store.crash()
        if not queue.recovered.suspects:
            await claimed(queue)
    (other,) = await claimed(queue, 1, "b")
    assert await claimed(queue) == []
    await queue.settle(other, Done())
    woken = anyio.Event()
    loop_token = anyio.lowlevel.current_token()
    queue.on_ready(lambda name: name == "b" and anyio.from_thread.run_sync(woken.set, token=loop_token) and None)
    with anyio.fail_after(10):
        while not (rows := await claimed(queue, 1, "b")):
            await woken.wait()
            woken = anyio.Event()
    assert rows[0].payload == 2


# the drain, opening, closing


async def test_a_kill_after_the_mark_of_a_drain_is_an_interruption(store: Store) -> None:
    queue = store.open()
    row = await one_of(queue)
    queue.refuse_new()
    queue.mark_draining()
    with pytest.raises(QueueDraining):
        await queue.enqueue(new(1))
    queue = store.crash()
    assert (queue.recovered.interrupted, queue.recovered.crashed) == ([row.id], [])
    assert queue.recovered.draining_since_ms == NOW_MS
    (row,) = await claimed(queue)
    assert (row.interruptions, row.crashes, row.attempts) == (1, 0, 0)
    queue = store.crash()
    assert queue.recovered.draining_since_ms is None
    assert queue.recovered.crashed == [row.id]


async def test_close_is_orderly_durable_and_may_be_called_again(store: Store) -> None:
    queue = store.open()
    await one_of(queue)
    queue.mark_draining()
    assert queue.close()
    assert queue.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        queue.requeue_running(["a"], 1)
    queue = store.open()
    assert (queue.recovered.crashed, queue.recovered.draining_since_ms) == ([], None)
    assert (await claimed(queue))[0].interruptions == 1


async def test_a_second_owner_is_refused_and_told_who_owns(store: Store) -> None:
    queue = store.open()
    with pytest.raises(StoreOwned, match=f"pid {os.getpid()}"):
        SqliteQueue.open(store.path)
    assert len((await queue.enqueue(new(1))).ids) == 1


def test_the_file_is_for_its_owner_only(store: Store) -> None:
    store.open()
    for file in store.path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file


async def test_the_urgent_go_first(queue: SqliteQueue) -> None:
    order: list[str] = []
    held, entered = threading.Event(), threading.Event()

    def hold(_: apsw.Connection) -> None:
        entered.set()
        held.wait(5)

    def mark() -> None:
        queue.put_document_sync("drain", "d", {}, timeout_s=5)
        order.append("urgent")

    async def ordinary() -> None:
        await queue.enqueue(new(1))
        order.append("ordinary")

    async with anyio.create_task_group() as group:
        group.start_soon(queue.write, hold)
        await anyio.to_thread.run_sync(entered.wait, 5)
        group.start_soon(ordinary)
        await anyio.lowlevel.checkpoint()
        thread = threading.Thread(target=mark)
        thread.start()
        while queue._writer._inbox.qsize() < 2:
            await anyio.lowlevel.checkpoint()
        held.set()
        await anyio.to_thread.run_sync(thread.join, 5)
    assert order == ["urgent", "ordinary"]


async def test_a_sync_call_is_bounded(queue: SqliteQueue) -> None:
    held, entered = threading.Event(), threading.Event()

    def hold(_: apsw.Connection) -> None:
        entered.set()
        held.wait(5)

    async with anyio.create_task_group() as group:
        group.start_soon(queue.write, hold)
        await anyio.to_thread.run_sync(entered.wait, 5)
        with pytest.raises(TimeoutError):
            queue.requeue_running(["a"], 0.01)
        held.set()


# people, documents, upkeep


async def test_pages_go_from_the_newest_on(queue: SqliteQueue) -> None:
    await queue.enqueue([*new(*range(5)), NewJob("b", 1)])
    first = await queue.jobs(queue="a", limit=2)
    assert [job.id for job in first] == ["5", "4"]
    assert [job.id for job in await queue.jobs(queue="a", limit=9, before="4")] == ["3", "2", "1"]
    assert len(await queue.jobs(state=JobState.READY)) == 6
    assert [await queue.job(text) for text in ("77", "x", "-1", "")] == [None] * 4


async def test_dead_jobs_are_retried_or_discarded(queue: SqliteQueue) -> None:
    await queue.enqueue(new(1, 2, 3))
    rows = await claimed(queue)
    await queue.checkpoint(rows[0], "half")
    for row in rows[:2]:
        await queue.settle(row, Failed("x", for_good=True))
    ids = [row.id for row in rows]
    assert await queue.discard(ids[1:]) == [ids[1]]  # the third runs
    assert await queue.retry([*ids, "x"]) == [ids[0]]
    (again,) = await claimed(queue)
    assert (again.id, again.attempts, again.cursor) == (ids[0], 0, "half")


async def test_dead_jobs_are_found_without_a_look_at_the_others(queue: SqliteQueue) -> None:
    for number in range(3):
        await queue.settle(await one_of(queue, number), Failed("no", for_good=True))
    await queue.enqueue(new(*range(1_000)) * 10)
    steps = 0

    def count() -> bool:
        nonlocal steps
        steps += 1
        return False

    for asked in ({}, {"queue": "a"}, {"before": "3"}):
        await queue.jobs(state=JobState.DEAD)  # opens, prepares
        queue._reader.read(lambda connection: connection.set_progress_handler(count, 10))
        steps = 0
        found = await queue.jobs(state=JobState.DEAD, **asked)
        assert [job.id for job in found] == (["3", "2", "1"] if "before" not in asked else ["2", "1"])
        assert steps < 100, "it looked at all"


async def test_documents_are_kept_to_a_count(queue: SqliteQueue) -> None:
    for number in range(5):
        await queue.put_document("reload", str(number), {"n": number}, keep=3)
    queue.put_document_sync("drain", "d", [1])
    await queue.put_document("reload", "3", "anew", keep=3)
    assert [(found.id, found.body) for found in await queue.documents("reload")] == [
        ("3", "anew"),
        ("4", {"n": 4}),
        ("2", {"n": 2}),
    ]
    assert [found.body for found in queue.documents_sync("drain", 1)] == [[1]]


async def test_results_go_after_their_time_and_the_wal_is_folded_when_nobody_waits(store: Store) -> None:
    queue = store.open(keep_done_s=10)
    await queue.settle(await one_of(queue), Done())
    store.clock.now_ms += 10_000
    await queue.enqueue(new(2))
    with anyio.fail_after(10 * QUIET_S):
        while await queue.job("1") is not None or queue._upkeep._wal_pages:  # noqa: ASYNC110 - upkeep tells nobody
            await anyio.sleep(0.02)
    queue.close()
    assert (await store.open().enqueue(new(3))).ids == ["3"]


# errors of the disk


def broken(error: Callable[[], apsw.Error] | None) -> Callable[[str], apsw.Connection]:
    """Connect to a store whose commits fail as long as `error` returns something to raise."""

    def opens(path: str) -> apsw.Connection:
        connection = connect(path)
        connection.set_commit_hook(lambda: _raise(error))
        return connection

    return opens


def _raise(error: Callable[[], apsw.Error | None] | None) -> bool:
    found = error and error()
    if found:
        raise found
    return False


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (apsw.FullError, "disk is full"),
        (apsw.IOError, "disk failed"),
        (apsw.ReadOnlyError, "read-only"),
        (apsw.CorruptError, "corrupt"),
    ],
)
async def test_a_disk_that_refuses_fails_all_that_wait_and_is_tried_again(
    store: Store, kind: type[apsw.Error], says: str
) -> None:
    failing = False
    queue = store.open(opens=broken(lambda: kind("as told") if failing else None))
    row = await one_of(queue, 0)
    failing = True
    failed: list[str] = []

    async def enqueue() -> None:
        with pytest.raises(StoreUnavailable, match=says) as refused:
            await queue.enqueue(new(1))
        failed.append(str(refused.value))

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(enqueue)
    with pytest.raises(StoreUnavailable):
        queue.requeue_running(["a"], 5)
    assert len(failed) == 5
    assert depth(queue) == (0, 0, 1, 0)
    failing = False
    assert await queue.settle(row, Done()) is JobState.DONE
    assert len((await queue.enqueue(new(1))).ids) == 1
    assert depth(queue) == (1, 0, 0, 0)


async def test_a_full_file_refuses_and_recovers(store: Store) -> None:
    made: list[apsw.Connection] = []

    def opens(path: str) -> apsw.Connection:
        made.append(connect(path))
        return made[-1]

    queue = store.open(opens=opens)
    row = await one_of(queue)
    pages = made[0].execute("PRAGMA page_count").get
    made[0].execute(f"PRAGMA max_page_count = {pages}").fetchall()
    with pytest.raises(StoreUnavailable, match="full"):
        await queue.enqueue(new("x" * 100_000))
    await queue.checkpoint(row, 1)
    made[0].execute("PRAGMA max_page_count = 1000000").fetchall()
    assert len((await queue.enqueue(new("x" * 100_000))).ids) == 1


async def test_a_read_only_file_is_refused_with_the_cause(store: Store) -> None:
    queue = store.open()
    await queue.enqueue(new(1))
    queue.close()
    with pytest.raises(StoreUnavailable, match="read-only"):
        store.open(opens=lambda path: apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY))
    assert len(await claimed(store.open())) == 1


async def test_an_error_no_future_can_carry_is_told_all_the_same(queue: SqliteQueue) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await queue.write(lambda _: next(iter(())))
    assert len((await queue.enqueue(new(1))).ids) == 1


@pytest.mark.parametrize("content", [b"not a database, surely" * 400, b"SQLite format 3\x00" + b"\xff" * 8000])
def test_a_file_that_is_no_store_is_refused_and_left(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "queue.db"
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=r"queue\.db"):
            SqliteQueue.open(path)
    assert path.read_bytes() == content


async def test_a_store_cut_short_is_refused(store: Store) -> None:
    queue = store.open()
    await queue.enqueue(new(*("x" * 5000 for _ in range(50))))
    queue.close()
    store.opened = None
    connection = apsw.Connection(str(store.path))
    assert connection.execute("SELECT count(*) FROM hotreload_jobs").get == 50  # now it knows of its WAL
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    connection.close()
    whole = store.path.read_bytes()
    store.path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreUnavailable, match="corrupt"):
        store.open()
    store.path.write_bytes(whole)
    assert len(await claimed(store.open(), 50)) == 50


def test_an_empty_file_is_a_new_store(store: Store) -> None:
    store.path.parent.mkdir()
    store.path.touch()
    assert store.open().depths() == []


def test_a_store_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable):
        SqliteQueue.open(tmp_path / "file" / "queue.db")
    (tmp_path / "queue.db").mkdir()
    with pytest.raises(StoreUnavailable):
        SqliteQueue.open(tmp_path / "queue.db")


# schema


def _shape(connection: apsw.Connection) -> list[Any]:
    return connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name").fetchall()


def test_a_step_cut_half_way_leaves_the_version_before() -> None:
    connection = apsw.Connection("")
    whole = steps()
    bad = Step(whole[-1].version + 1, "cut", "CREATE TABLE half (x); SELECT no_such_function()")
    with pytest.raises(apsw.SQLError):
        migrate(connection, NOW_MS, [*whole, bad])
    assert applied(connection) == whole[-1].version
    assert not connection.table_exists("main", "half")
    good = replace(bad, sql="CREATE TABLE half (x)")
    assert migrate(connection, NOW_MS, [*whole, good]) == [good.version]
    assert migrate(connection, NOW_MS, [*whole, good]) == []


def test_a_migrated_store_is_shaped_as_a_fresh_one() -> None:
    fresh, migrated = apsw.Connection(""), apsw.Connection("")
    migrate(fresh, NOW_MS)
    for number in range(1, len(steps()) + 1):
        migrate(migrated, NOW_MS, steps()[:number])
    assert _shape(fresh) == _shape(migrated)
    assert [step.version for step in steps()] == list(range(1, len(steps()) + 1))


async def test_a_newer_store_is_refused_and_left(store: Store) -> None:
    queue = store.open()
    await queue.write(
        lambda connection: connection.execute("INSERT INTO hotreload_schema VALUES (99, 'later', 0)") and None
    )
    queue.close()
    with pytest.raises(StoreUnavailable, match="schema 99"):
        store.open()


def test_the_lock_says_who_holds_it(store: Store) -> None:
    queue = store.open()
    said = json.loads(store.path.with_name("queue.db.lock").read_text())
    assert said["pid"] == os.getpid()
    queue.close()
    store.open()
