"""What the store promises to a drain: its mark, the last flush, and the report of a drain that was cut."""

from __future__ import annotations

import json
import threading
from typing import Any

import anyio
import pytest

from hotreload.clock import now_ms
from hotreload.errors import LeaseLost, QueueDraining
from hotreload.queue.contract import DrainMark, Put, PutBack, Recovered
from hotreload.queue.job import Done, Failed, JobState, NewJob

from .stores import Store

pytestmark = pytest.mark.anyio


def report(back: PutBack) -> Put:
    return Put("drain", "d1", json.dumps({"requeued": list(back.requeued.ids)}), 20)


async def test_the_last_flush_is_one_transaction_over_all_queues_and_the_report(store: Store) -> None:
    queue = store.open(now_ms=now_ms)
    jobs = [NewJob(name, n) for name in ("a", "b") for n in range(3)]
    done, fails, runs, dead, again, other = (await queue.enqueue(jobs)).ids
    rows = {row.id: row for name in ("a", "b") for row in await queue.claim(name, 3)}
    await queue.checkpoint(rows[runs], 7)
    queue.mark_draining(5, DrainMark("d1", "SIGTERM"))
    ended = [
        (rows[done], Done()),
        (rows[fails], Failed("not yet")),
        (rows[dead], Failed("never", for_good=True)),
    ]
    back = queue.flush(["a", "b"], 5, report, ended=ended, asked=[*rows, "99"])
    assert sorted(back.requeued.ids) == sorted([runs, again, other])
    assert back.requeued.checkpointed == [runs]
    states = {done: JobState.DONE, fails: JobState.SCHEDULED, dead: JobState.DEAD}
    assert back.states == {**states, **dict.fromkeys((runs, again, other), JobState.READY)}
    queue = store.crash(now_ms=now_ms)  # nothing was written behind: all of it is there
    assert (queue.recovered.interrupted, queue.recovered.crashed, queue.recovered.drain) == ([], [], None)
    assert queue.documents("drain")[0].body == {"requeued": back.requeued.ids}
    assert queue.close()


async def test_a_flush_that_fails_changes_nothing_and_is_reported_by_the_next_open(store: Store) -> None:
    queue = store.open(now_ms=now_ms)
    await queue.enqueue([NewJob("a", 1), NewJob("a", 2)])
    first, second = await queue.claim("a", 2)
    queue.mark_draining(5, DrainMark("d1", "SIGTERM", 1, 25.0))

    def broken(_back: PutBack) -> Put:
        raise OSError("no report")

    with pytest.raises(OSError, match="no report"):
        queue.flush(["a"], 5, broken, ended=[(first, Done())])
    heard: list[Recovered] = []

    def made(recovered: Recovered) -> Put:
        heard.append(recovered)
        assert recovered.drain is not None
        return Put("drain", recovered.drain.id, "{}", 20)

    queue = store.crash(now_ms=now_ms, report_cut=made)
    assert queue.recovered.interrupted == [first.id, second.id]
    assert (heard[0].drain and heard[0].drain.reason) == "SIGTERM"
    assert [kept.id for kept in queue.documents("drain")] == ["d1"]
    assert queue.close()


async def test_nothing_is_claimed_once_the_last_flush_was_asked_for(store: Store) -> None:
    """A loop that was blocked claims right after the flush: the rows would be left running."""
    queue = store.open(now_ms=now_ms)
    await queue.enqueue([NewJob("a", n) for n in range(4)])
    [row] = await queue.claim("a", 1)
    held, entered = threading.Event(), threading.Event()

    def hold(_connection: Any) -> None:
        entered.set()
        held.wait(5)

    taken: list[Any] = []

    async def claim() -> None:
        taken.extend(await queue.claim("a", 1))

    async def exchange() -> None:
        taken.extend((await queue.exchange("a", 1, [])).rows)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(queue.write, hold)
        await anyio.to_thread.run_sync(entered.wait, 5)
        tasks.start_soon(claim)  # waits for the writer before the flush does, and is refused all the same
        tasks.start_soon(exchange)
        await anyio.lowlevel.checkpoint()
        back: list[PutBack] = []
        flushing = threading.Thread(target=lambda: back.append(queue.flush(["a"], 5, report)))
        flushing.start()
        while not queue.engine.verbs.closed:
            await anyio.lowlevel.checkpoint()
        held.set()
        await anyio.to_thread.run_sync(flushing.join, 5)
    assert await queue.claim("a", 9) == []
    assert (await queue.exchange("a", 9, [])).rows == []
    assert (back[0].requeued.ids, taken) == ([row.id], [])
    with pytest.raises(QueueDraining):
        await queue.enqueue([NewJob("a", 9)])
    with pytest.raises(LeaseLost):
        await queue.settle(row, Done())
    assert [depth.running for depth in queue.depths()] == [0]
    assert queue.close()


async def test_a_note_counts_for_the_last_owner_and_an_unreported_drain_alone(store: Store) -> None:
    queue = store.open(now_ms=now_ms)
    await queue.enqueue([NewJob("a", 1)])
    await queue.claim("a", 1)
    mine, stale = queue.owner, DrainMark("d0", "SIGTERM", 1, 2.0, '{"pid": 1, "since": "1970"}')
    queue = store.crash(now_ms=now_ms, cut=stale)
    assert (len(queue.recovered.crashed), queue.recovered.drain) == (1, None)
    await queue.claim("a", 1)
    assert queue.owner != mine
    queue = store.crash(now_ms=now_ms, cut=DrainMark("d1", "SIGTERM", 1, 2.0, queue.owner))
    assert len(queue.recovered.interrupted) == 1
    queue.flush(["a"], 5, report)
    queue = store.crash(now_ms=now_ms, cut=DrainMark("d1", "SIGTERM", 1, 2.0, queue.owner))
    assert queue.recovered.drain is None
    assert queue.close()


async def test_what_was_done_since_a_cut_drain_began_is_told(store: Store) -> None:
    queue = store.open(now_ms=now_ms)
    before, after, runs = (await queue.enqueue([NewJob("a", n) for n in range(3)])).ids
    rows = {row.id: row for row in await queue.claim("a", 3)}
    await queue.settle(rows[before], Done())
    since_ms = max(row.ended_at_ms or 0 for row in await queue.jobs(queue="a")) + 1
    await anyio.sleep(0.005)
    queue.mark_draining(5, DrainMark("d1", "SIGTERM", since_ms))
    await queue.settle(rows[after], Done())
    queue = store.crash(now_ms=now_ms)
    assert (queue.recovered.finished, queue.recovered.interrupted) == ([after], [runs])
    assert queue.close()
