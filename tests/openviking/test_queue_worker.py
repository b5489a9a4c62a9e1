"""One queue's worker over a small queue of its own: limits, claims, endings."""

import asyncio
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from ov_process import wait_until

from hotreload.openviking.limits import QueueWorkers
from hotreload.openviking.queue_worker import QueueWorker, parked

pytestmark = pytest.mark.anyio


@dataclass
class Result:
    outcome: str


class SmallQueue:
    """A queue in memory with the calls the worker makes; handlers wait until they are let go."""

    def __init__(self, count: int) -> None:
        self.ready = [{"id": str(number)} for number in range(count)]
        self.running = 0
        self.peak = 0
        self.acked: list[str] = []
        self.go = asyncio.Event()
        self.outcome = "success"
        self.waits_for_children = False
        self.swallows = False

    def has_dequeue_handler(self) -> bool:
        return True

    async def size(self) -> int:
        return len(self.ready)

    async def dequeue_raw(self) -> dict[str, str] | None:
        await asyncio.sleep(0)
        return self.ready.pop(0) if self.ready else None

    async def process_dequeued(self, message: dict[str, str]) -> Result:
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            if self.waits_for_children:
                with parked("its children"):
                    await self.go.wait()
            await self.go.wait()
        finally:
            self.running -= 1
        if self.outcome == "cancelled":
            raise asyncio.CancelledError
        if self.outcome == "error":
            raise RuntimeError(message["id"])
        return Result(self.outcome)

    async def ack(self, message_id: str, message: Any) -> None:
        self.acked.append(message_id)


class Stage:
    """A worker that runs, its queue, and its stop event."""

    def __init__(self, count: int, limit: int, again_s: float = 0.01) -> None:
        self.queue = SmallQueue(count)
        self.outcomes: list[str] = []
        self.worker = QueueWorker("Some", limit, self.outcomes.append, again_s=again_s)
        self.stop = threading.Event()
        self.nodes_cancelled = 0
        self.task = asyncio.ensure_future(self.worker.run(self.queue, self.stop, 0.01, self.cancel_nodes))

    def cancel_nodes(self) -> None:
        """Count it."""
        self.nodes_cancelled += 1

    async def running(self, count: int) -> None:
        await wait_until(lambda: self.queue.running == count, 2, f"{count} running")


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    made = Stage(count=10, limit=3)
    yield made
    made.stop.set()
    made.worker.release()
    await made.worker.interrupt(lambda: None)
    await made.task


async def test_a_failed_message_is_delivered_at_once_when_asked_and_not_at_all_when_forgotten() -> None:
    stage = Stage(count=2, limit=2, again_s=3600)
    stage.queue.outcome = "error"
    stage.queue.go.set()
    await wait_until(lambda: len(stage.worker.failed()) == 2, 5, "both deliveries failed")
    first, second = stage.worker.failed()
    assert stage.worker.forget(second.message)
    assert not stage.worker.forget(second.message)
    stage.queue.outcome = "success"
    assert stage.worker.again([second.message["id"]]) == []
    assert stage.worker.again([first.message["id"], "unknown"]) == [first.message["id"]]
    await wait_until(lambda: stage.queue.acked == [first.message["id"]], 5, "the first is delivered")
    assert (stage.worker.failed(), stage.outcomes) == ((), ["failed", "failed", "done"])
    stage.stop.set()
    stage.worker.release()
    await stage.task


async def test_claims_up_to_its_limit_and_grows_at_once(stage: Stage) -> None:
    await stage.running(3)
    stage.worker.resize(7)
    await stage.running(7)
    assert stage.queue.peak == 7


async def test_shrinking_cancels_nothing_and_claims_nothing_above(stage: Stage) -> None:
    await stage.running(3)
    stage.worker.resize(1)
    await asyncio.sleep(0.05)
    assert stage.queue.running == 3
    stage.queue.peak = 0
    stage.queue.go.set()
    await wait_until(lambda: len(stage.outcomes) == 10, 2)
    assert stage.queue.peak <= 1
    assert stage.outcomes == ["done"] * 10


async def test_quiesced_it_begins_nothing_and_reports_what_ended(stage: Stage) -> None:
    await stage.running(3)
    stage.worker.stop_claiming()
    stage.queue.go.set()
    await stage.running(0)
    await asyncio.sleep(0.05)
    assert sorted(stage.worker.ended) == ["0", "1", "2"]
    assert len(stage.queue.ready) == 7


async def test_interrupted_messages_are_not_acknowledged(stage: Stage) -> None:
    await stage.running(3)
    await stage.worker.interrupt(stage.cancel_nodes)
    assert (stage.queue.running, stage.queue.acked) == (0, [])
    assert sorted(stage.worker.cut) == ["0", "1", "2"]
    assert stage.nodes_cancelled >= 1
    assert stage.outcomes == ["interrupted"] * 3


async def test_a_fenced_handler_that_ends_late_acknowledges_nothing(stage: Stage) -> None:
    await stage.running(3)
    stage.worker.stop_claiming()
    stage.worker.fence()
    stage.queue.go.set()
    await stage.running(0)
    await asyncio.sleep(0.02)
    assert stage.queue.acked == []


async def test_a_message_whose_handler_fails_or_is_cancelled_is_delivered_again(stage: Stage) -> None:
    stage.queue.outcome = "error"
    await stage.running(3)
    stage.queue.go.set()
    await wait_until(lambda: len(stage.outcomes) >= 12, 2)
    assert set(stage.outcomes) == {"failed"}
    assert stage.queue.acked == []
    stage.queue.outcome = "cancelled"
    await wait_until(lambda: "interrupted" in stage.outcomes, 2)
    stage.queue.outcome = "success"
    await wait_until(lambda: len(stage.queue.acked) == 10, 2)
    assert sorted(stage.queue.acked) == [str(number) for number in range(10)]


async def test_a_message_that_failed_keeps_no_place_while_it_waits() -> None:
    stage = Stage(count=2, limit=1, again_s=3600.0)
    stage.queue.outcome = "error"
    stage.queue.go.set()
    await wait_until(lambda: len(stage.outcomes) == 2, 2)
    assert stage.worker.active == 0
    stage.stop.set()
    stage.worker.release()
    await stage.task
    assert stage.queue.acked == []


async def test_a_parked_delivery_is_not_busy(stage: Stage) -> None:
    stage.queue.waits_for_children = True
    stage.queue.go.set()
    await wait_until(lambda: len(stage.outcomes) == 10, 2)
    stage.queue.go.clear()
    stage.queue.ready = [{"id": "again"} for _ in range(3)]
    await stage.running(3)
    assert (stage.worker.active, stage.worker.busy) == (3, 0)


async def test_a_worker_started_in_a_drain_claims_nothing() -> None:
    workers = QueueWorkers({})
    workers.adopt("Semantic", 4, paced=False)
    workers.adopt("Embedding", 4, paced=False)
    workers.quiesce(spared="Embedding")
    again = workers.adopt("Semantic", 4, paced=False)
    assert [worker.claiming for worker in workers.workers()] == [False, True]
    assert not again.claiming


async def test_limits_are_checked_and_kept_for_a_thread_that_starts_anew() -> None:
    workers = QueueWorkers({"semantic": 5})
    assert workers.pools() == ()
    assert workers.adopt("Semantic", 4, paced=False).limit == 5
    assert workers.adopt("Unknown", 3, paced=False).limit == 3
    with pytest.raises(ValueError, match="below 1"):
        workers.set_limits({"semantic": 0})
    workers.set_limits({"semantic": 9})
    assert workers.adopt("Semantic", 4, paced=False).limit == 9
    assert [(pool.name, pool.limit) for pool in workers.pools()] == [("semantic", 9)]


async def test_the_gate_has_the_configured_limit_before_any_worker_started() -> None:
    workers = QueueWorkers({"semantic": 5})
    assert workers.gate() is None
    workers.guard("Embedding", asyncio.get_running_loop())
    assert workers.gate() is None
    workers.guard("Reindex", asyncio.get_running_loop())
    gate = workers.gate()
    assert gate is not None
    assert gate.limit == 5
    workers.set_limits({"semantic": 2})
    assert gate.limit == 2
