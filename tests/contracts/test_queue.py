"""The promises of `Queue`, over every engine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import anyio
import apsw
import pytest

from hotreload.errors import LeaseLost, PayloadTooLarge, QueueDraining, StoreOwned, StoreUnavailable
from hotreload.queue.job import Done, Failed, Interrupted, JobRow, JobState, NewJob, decide

from .stores import NOW_MS, Store, claimed, depth, new, one_of

pytestmark = pytest.mark.anyio


# enqueue


@pytest.mark.parametrize("payload", [None, {"ü": [1, 2.5, "\udcff", True]}, "x" * 100_000, 2**80, "\x00"])
async def test_a_payload_comes_back_as_it_went(queue: Any, payload: Any) -> None:
    assert (await one_of(queue, payload)).payload == payload


@pytest.mark.parametrize("payload", [object(), float("nan"), float("-inf"), {1, 2}, ["\ud800"], {"x\udd00": 1}])
async def test_a_payload_that_is_not_json_is_refused(queue: Any, payload: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        await queue.enqueue(new(1, payload))
    assert queue.depths() == []


async def test_what_is_kept_has_a_limit_that_may_be_moved(queue: Any) -> None:
    queue.payload_most = lambda: 1_000
    with pytest.raises(PayloadTooLarge, match="the payload has 1,001 bytes as JSON; the limit is 1,000"):
        await queue.enqueue([*new(1), *new("x" * 999)])
    with pytest.raises(PayloadTooLarge):
        queue.enqueue_sync(new("x" * 999))
    assert queue.depths() == []
    row = await one_of(queue, "x" * 998)
    with pytest.raises(PayloadTooLarge, match="the cursor"):
        await queue.checkpoint(row, "x" * 999)
    with pytest.raises(PayloadTooLarge, match="the result of step 'a'"):
        await queue.checkpoint(row, 1, step=("a", "x" * 999))
    with pytest.raises(PayloadTooLarge, match="the result"):
        await queue.settle(row, Done("x" * 999))
    queue.payload_most = lambda: 1_001
    await queue.checkpoint(row, "x" * 999, step=("a", "x" * 999))
    assert await queue.settle(row, Done("x" * 999)) is JobState.DONE


async def test_a_result_that_was_within_the_limit_when_its_job_ended_is_kept(queue: Any) -> None:
    row = await one_of(queue, 1)
    queue.payload_most = lambda: 1_000
    given = await queue.exchange(row.queue, 0, [(row, Done("x" * 999))])
    assert given.states == [JobState.DONE]


async def test_a_function_of_the_users_cannot_close_the_connection(queue: Any) -> None:
    row = await one_of(queue)

    async def closes() -> None:
        with pytest.raises(ValueError, match="stays open after the function"):
            await queue.checkpoint(row, 1, within=lambda connection: connection.close())

    async with anyio.create_task_group() as group:
        group.start_soon(queue.enqueue, new(2))
        group.start_soon(closes)
        group.start_soon(queue.enqueue, new(3))
    await queue.checkpoint(row, 2)
    assert depth(queue)[:3] == (2, 0, 1)


async def test_a_name_of_any_bytes_is_kept_escaped_and_found_again(queue: Any) -> None:
    key = os.fsdecode(b"bad\xff\0.txt")
    for existing in (None, JobState.READY):
        [added] = (await queue.enqueue(new(key, dedupe_key=key))).jobs
        assert (added.id, added.existing) == ("1", existing)
    shown = await queue.job("1")
    assert (shown.dedupe_key, shown.payload) == ("bad\\udcff\\x00.txt", key)
    assert list(queue.duplicates("a", [shown.dedupe_key], 0)) == [shown.dedupe_key]
    for half in ("\ud800", "\udd00a"):
        with pytest.raises(ValueError, match="half a character"):
            new(1, dedupe_key=half)
        with pytest.raises(ValueError, match="name of a queue"):
            NewJob(half, 1)


async def test_two_keys_that_differ_are_two_jobs(queue: Any) -> None:
    keys = [os.fsdecode(b"bad\xff"), "bad\\udcff", "bad\\\\udcff", "bad\\" + os.fsdecode(b"\xff"), "bad\0", "bad\\x00"]
    added = await queue.enqueue([NewJob("a", key, dedupe_key=key) for key in keys])
    assert added.ids == ["1", "2", "3", "4", "5", "6"]
    assert [row.payload for row in await queue.claim("a", 10)] == keys
    again = await queue.enqueue([NewJob("a", key, dedupe_key=key) for key in keys])
    assert [job.id for job in again.jobs] == added.ids


async def test_ids_are_given_in_order_and_never_again(store: Store) -> None:
    queue = store.open()
    first = await queue.enqueue(new(1, 2, 3))
    assert first.ids == ["1", "2", "3"]
    assert await queue.discard(first.ids) == first.ids
    queue.close()
    (newer,) = (await store.open().enqueue(new(4))).ids
    assert int(newer) > 3


async def test_a_key_belongs_to_its_job_until_that_has_ended(queue: Any) -> None:
    row = await one_of(queue, dedupe_key="k")
    again = await queue.enqueue([*new(1, dedupe_key="k"), *new(2)])
    assert (len(again.ids), again.duplicates) == (1, ["k"])
    assert (await queue.enqueue([NewJob("b", 1, dedupe_key="k")])).duplicates == []
    await queue.settle(row, Done())
    dead = await one_of(queue, dedupe_key="k", priority=-1)
    await queue.settle(dead, Failed("no", for_good=True))
    newer = await one_of(queue, dedupe_key="k", priority=-1)
    assert await queue.retry([dead.id]) == [], "its key has an active job"
    await queue.settle(newer, Failed("no", for_good=True))
    assert await queue.retry([dead.id, newer.id]) == [newer.id], "one of them"


async def test_a_key_done_lately_is_a_duplicate_where_asked(queue: Any, store: Store) -> None:
    await queue.settle(await one_of(queue, dedupe_key="k"), Done())
    asked = [*new(1, dedupe_key="k"), *new(2, dedupe_key="l")]
    found = await queue.enqueue(asked, unless_done_since_ms=NOW_MS)
    assert (len(found.ids), found.duplicates) == (1, ["k"])
    assert (await queue.enqueue(asked, unless_done_since_ms=NOW_MS + 1)).duplicates == ["l"]


async def test_concurrent_callers_with_one_key_make_one_job(queue: Any) -> None:
    made: list[str] = []

    async def ask() -> None:
        made.extend((await queue.enqueue(new(1, dedupe_key="k"))).ids)

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(ask)
    assert len(made) == 1
    assert depth(queue) == (1, 0, 0, 0)


async def test_a_thread_enqueues_without_a_loop(queue: Any) -> None:
    assert (await anyio.to_thread.run_sync(queue.enqueue_sync, new(1, 2))).ids == ["1", "2"]


async def test_enqueue_of_nothing_does_nothing(queue: Any) -> None:
    assert (await queue.enqueue([])).ids == []


async def test_many_jobs_at_once(queue: Any) -> None:
    assert len((await queue.enqueue(new(*range(1_000)))).ids) == 1_000
    assert [row.payload for row in await claimed(queue, 1_000)] == list(range(1_000))


# claim


async def test_claims_go_by_priority_then_time_then_id(queue: Any, store: Store) -> None:
    await queue.enqueue([NewJob("a", name, priority=priority) for name, priority in (("l", 1), ("u", -1), ("n", 0))])
    store.clock.now_ms += 1
    await queue.enqueue(new("o"))
    assert [row.payload for row in await claimed(queue)] == ["u", "n", "o", "l"]
    assert await claimed(queue) == []


async def test_every_claim_has_a_new_token(queue: Any) -> None:
    row = await one_of(queue)
    assert await queue.settle(row, Interrupted()) is JobState.READY
    (again,) = await claimed(queue)
    assert again.lease_seq > row.lease_seq
    assert (again.interruptions, again.attempts) == (1, 0)


async def test_a_scheduled_job_waits_for_its_time(queue: Any, store: Store) -> None:
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


async def test_a_delay_counts_on_the_clock_of_the_store(queue: Any, store: Store) -> None:
    await queue.enqueue(new("late", delay_s=0.05))
    assert await queue.next_due_ms("a") == queue.now_ms() + 50
    assert await claimed(queue) == []
    store.clock.now_ms += 50
    assert [row.payload for row in await claimed(queue)] == ["late"]


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
async def test_a_claim_nobody_received_goes_back(queue: Any, began: bool) -> None:
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


async def test_listeners_hear_of_ready_jobs_and_cannot_stop_the_writer(queue: Any) -> None:
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


async def test_a_fenced_claim_can_write_nothing(queue: Any, store: Store) -> None:
    row = await one_of(queue)
    back = queue.requeue_running(["a"], 5)
    assert (back.ids, back.checkpointed) == ([row.id], [])
    late: Sequence[Callable[[], Any]] = (
        lambda: queue.checkpoint(row, 1),
        lambda: queue.checkpoint(row, 1, within=lambda connection: connection.execute("CREATE TABLE mine (x INTEGER)")),
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
    assert not await queue.write(lambda connection: store.engine.has_table(connection, "mine"))


async def test_one_fenced_write_fails_no_neighbour(queue: Any) -> None:
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


async def test_steps_of_one_job_at_once_are_all_kept(queue: Any) -> None:
    row = await one_of(queue)
    async with anyio.create_task_group() as group:
        for step in range(5):
            group.start_soon(queue.checkpoint, row, step)
    queue.requeue_running(["a"], 5)
    assert (await claimed(queue))[0].cursor == 4


async def test_failures_back_off_then_die_with_their_reason(queue: Any, store: Store) -> None:
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
    assert [(one.event, one.reason) for one in shown.history] == [("failed", "no luck"), ("dead", "no luck \\udcff")]


async def test_a_job_tells_its_last_twenty_events(queue: Any, store: Store) -> None:
    row = await one_of(queue, max_attempts=1)
    for turn in range(15):
        await queue.settle(row, Failed(f"no luck {turn}"))
        assert await queue.retry([row.id]) == [row.id]
        (row,) = await claimed(queue)
    await queue.cancel([row.id])
    shown = await queue.job(row.id)
    assert shown is not None
    assert [(one.event, one.reason) for one in shown.history] == [
        ("retried", None),
        *(event for turn in range(6, 15) for event in (("dead", f"no luck {turn}"), ("retried", None))),
        ("cancelled", None),
    ]


async def test_a_result_that_is_not_json_leaves_the_claim(queue: Any) -> None:
    row = await one_of(queue)
    with pytest.raises(TypeError):
        await queue.settle(row, Done(object()))
    assert await queue.settle(row, Done([1])) is JobState.DONE
    shown = await queue.job(row.id)
    assert shown is not None
    assert shown.result == [1]


async def test_a_requeue_of_all_is_what_decide_says(queue: Any) -> None:
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


async def test_a_requeue_needs_no_event_loop(queue: Any) -> None:
    await one_of(queue)
    back: list[Any] = []
    thread = threading.Thread(target=lambda: back.append(queue.requeue_running(["a"], 5)))
    thread.start()
    thread.join(5)  # the loop's thread, blocked
    assert [found.ids for found in back] == [["1"]]


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


@pytest.mark.parametrize("size", [1, 5_000, 100_000])
async def test_a_cursor_is_progress_where_it_differs_however_long_it_is(store: Store, size: int) -> None:
    queue = store.open()
    await queue.enqueue(new(1))
    for letter, suspects in (("a", []), ("b", []), ("b", ["1"])):
        [row] = await claimed(queue)
        await queue.checkpoint(row, letter * size)
        queue = store.crash()
        assert queue.recovered.suspects == suspects


async def suspect_of(store: Store, *queues: str) -> Any:
    """Open a store in which the only job of each queue is a suspect."""
    queue = store.open()
    for name in queues:
        await queue.enqueue([NewJob(name, 1)])
    for _ in range(2):
        for name in queues:
            assert len(await claimed(queue, 1, name)) == 1
        queue = store.crash()
    assert len(queue.recovered.suspects) == len(queues)
    return queue


async def test_a_suspect_runs_alone_in_its_queue_and_other_queues_go_on(store: Store) -> None:
    queue = await suspect_of(store, "a")
    await queue.enqueue([NewJob("a", 2), NewJob("b", 1), NewJob("b", 2)])
    (suspect,) = await claimed(queue)
    assert suspect.suspect
    assert await claimed(queue) == [], "the others of its queue wait"
    assert len(await claimed(queue, 1, "b")) == 1
    await queue.settle(suspect, Failed("x", for_good=True))
    assert [row.payload for row in await claimed(queue)] == [2]
    assert len(await claimed(queue, 1, "b")) == 1


async def test_a_suspect_waits_for_those_that_run_in_its_queue(store: Store) -> None:
    queue = store.open()
    first = await one_of(queue)
    await queue.enqueue(new(2))
    queue = store.crash()
    assert len(await claimed(queue, 1)) == 1
    queue = store.crash()
    assert queue.recovered.suspects == [first.id]
    (suspect,) = await claimed(queue)
    await queue.settle(suspect, Interrupted(0.05))  # not to its end: a suspect still, and not ready
    (other,) = await claimed(queue)
    assert not other.suspect
    store.clock.now_ms += 50
    assert await claimed(queue) == []
    woken: list[str] = []
    queue.on_ready(woken.append)
    await queue.settle(other, Done())
    assert woken == ["a"]
    assert [row.id for row in await claimed(queue)] == [suspect.id]


async def test_suspects_of_two_queues_are_told_apart_and_only_the_guilty_one_is_parked(store: Store) -> None:
    """Both run in every crash at first; of those that crashed as suspects only one runs at a time."""
    queue = await suspect_of(store, "a", "b")
    (killer,) = [job for job in await queue.jobs() if job.queue == "a"]
    crashes, done = 2, set[str]()
    while True:
        rows = [*await claimed(queue, 1, "b"), *await claimed(queue, 1, "a")]
        if killer.id in {row.id for row in rows}:
            queue = store.crash()
            crashes += 1
        elif rows:
            for row in rows:
                await queue.settle(row, Done())
                done.add(row.queue)
        else:
            break
    (dead,) = await queue.jobs(state=JobState.DEAD)
    assert (dead.id, done) == (killer.id, {"b"})
    assert crashes == 2 + 1 + 3


async def test_two_power_cuts_serialise_no_other_queue(store: Store) -> None:
    queue = store.open()
    await queue.enqueue(new(*range(100)))
    for _ in range(2):
        assert len(await claimed(queue, 100)) == 100
        queue = store.crash()
    await queue.enqueue([NewJob("b", number) for number in range(50)])
    assert len(await claimed(queue, 100)) == 1
    assert len(await claimed(queue, 100, "b")) == 50


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
    assert queue.recovered.drain is not None
    assert queue.recovered.drain.since_ms == NOW_MS
    (row,) = await claimed(queue)
    assert (row.interruptions, row.crashes, row.attempts) == (1, 0, 0)
    queue = store.crash()
    assert queue.recovered.drain is None
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
    assert (queue.recovered.crashed, queue.recovered.drain) == ([], None)
    assert (await claimed(queue))[0].interruptions == 1


async def test_a_second_owner_is_refused_and_told_who_owns(store: Store) -> None:
    queue = store.open()
    with pytest.raises(StoreOwned, match=f"pid {os.getpid()}"):
        store.engine.open(store.path)
    assert len((await queue.enqueue(new(1))).ids) == 1


async def test_the_urgent_go_first(queue: Any) -> None:
    order: list[str] = []
    held, entered = threading.Event(), threading.Event()

    def hold(_: apsw.Connection) -> None:
        entered.set()
        held.wait(5)

    def ordinary(_: Any) -> None:
        order.append("ordinary")

    def urgent(_connection: Any, _calls: Sequence[None]) -> Sequence[None]:
        return [order.append("urgent")]

    def mark() -> None:
        queue.engine.inbox.ask_sync(urgent, None, timeout_s=5, urgent=True)

    while queue.wake_up not in (None, "listening"):  # noqa: ASYNC110 - the look that follows is in the inbox as well
        await anyio.sleep(0.01)
    await queue.write(lambda _: None)
    async with anyio.create_task_group() as group:
        group.start_soon(queue.write, hold)
        await anyio.to_thread.run_sync(entered.wait, 5)
        group.start_soon(queue.write, ordinary)
        await anyio.lowlevel.checkpoint()
        thread = threading.Thread(target=mark)
        thread.start()
        while queue.engine.inbox.waiting < 2:
            await anyio.lowlevel.checkpoint()
        held.set()
        await anyio.to_thread.run_sync(thread.join, 5)
    assert order == ["urgent", "ordinary"]


async def test_a_sync_call_is_bounded(queue: Any) -> None:
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


async def test_pages_go_from_the_newest_on(queue: Any) -> None:
    await queue.enqueue([*new(*range(5)), NewJob("b", 1)])
    first = await queue.jobs(queue="a", limit=2)
    assert [job.id for job in first] == ["5", "4"]
    assert [job.id for job in await queue.jobs(queue="a", limit=9, before="4")] == ["3", "2", "1"]
    assert len(await queue.jobs(state=JobState.READY)) == 6
    assert [await queue.job(text) for text in ("77", "x", "-1", "")] == [None] * 4


async def test_dead_jobs_are_retried_or_discarded(queue: Any) -> None:
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


async def test_documents_are_kept_to_a_count(queue: Any) -> None:
    for number in range(5):
        await queue.put_document("reload", str(number), {"n": number}, keep=3)
    queue.put_document_sync("drain", "d", [1])
    await queue.put_document("reload", "3", "again", keep=3)
    assert [(found.id, found.body) for found in queue.documents("reload")] == [
        ("3", "again"),
        ("4", {"n": 4}),
        ("2", {"n": 2}),
    ]
    assert [found.body for found in queue.documents("drain", 1)] == [[1]]
