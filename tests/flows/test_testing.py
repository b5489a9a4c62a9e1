"""The helpers for tests of services run jobs, queues and reloads as the service itself does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
import pytest
from pydantic import BaseModel

from hotreload import Discard, Job, Live, LiveSettings, Retry, Service, SyncJob
from hotreload.testing import AddedJob, inline, run_job, running

pytestmark = pytest.mark.anyio


class Settings(LiveSettings):
    """How a text is counted."""

    factor: Annotated[int, Live] = 1


class Text(BaseModel):
    """A payload."""

    words: list[str]


class Client:
    """A resource that notes its end."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.ended = False


service = Service("tested", settings=Settings)
BUILT: list[Client] = []


@service.resource(rebuilt_by=("factor",))
async def client(conf: Settings) -> AsyncIterator[Client]:
    """Build a client."""
    BUILT.append(Client("real"))
    yield BUILT[-1]
    BUILT[-1].ended = True


@service.worker("count", limit=1, max_attempts=2)
async def count(job: Job[Text, Settings], conf: Settings, client: Client) -> str:
    """Count the words, a checkpoint each; add a job for long ones."""
    total: int = job.cursor or 0
    for word in job.resume(job.payload.words):
        if word == "fails":
            raise ValueError("such a word")
        if word == "later":
            raise Retry(after_s=60)
        if word == "never":
            raise Discard("never counted")
        total += len(word) * conf.factor
        await job.checkpoint(total)
    name = await job.step("name", lambda: client.name)
    await length.enqueue(total, key="total")
    return f"{name} {total}"


@service.worker("waits", limit=1, timeout_s=lambda conf: 0.05 * conf.factor, max_attempts=1)
async def waits(job: Job[str], conf: Settings) -> None:
    """Wait for what never comes."""
    await anyio.sleep_forever()


@service.worker("length", limit=1)
def length(job: SyncJob[int], conf: Settings) -> int:
    """Say how long a number is."""
    job.checkpoint("begun")
    return len(str(job.payload))


async def test_a_job_is_run_and_says_what_it_did() -> None:
    ran = await run_job(service, count, Text(words=["a", "bc"]), settings=Settings(factor=10))
    assert (ran.outcome, ran.result, ran.checkpoints, ran.steps) == ("done", "real 30", [10, 30], {"name": "real"})
    assert ran.enqueued == [AddedJob("length", 30, key="total")]
    assert BUILT[-1].ended
    given = await run_job(service, "count", {"words": []}, resources={"client": Client("fake")})
    assert given.result == "fake 0"


async def test_a_job_is_interrupted_after_a_checkpoint_and_resumed() -> None:
    text = Text(words=["a", "bc", "def"])
    for after, kept in ((1, [1]), (2, [1, 3]), (4, [1, 3, 6])):
        ran = await run_job(service, count, text, interrupt_after=after)
        assert (ran.outcome, ran.checkpoints) == ("interrupted", kept)
        assert ran.steps == ({"name": "real"} if after == 4 else {})
        resumed = await run_job(service, count, text, resume=ran)
        assert (resumed.outcome, resumed.result) == ("done", "real 6")
        assert resumed.checkpoints == [1, 3, 6][len(kept) :]
    ran = await run_job(service, length, 1234, interrupt_after=1)
    assert ran.outcome == "interrupted"


@pytest.mark.parametrize(
    ("word", "attempt", "outcome", "reason"),
    [
        ("fails", 1, "failed", "ValueError: such a word"),
        ("fails", 2, "dead", "ValueError: such a word"),
        ("later", 2, "snoozed", None),
        ("never", 1, "dead", "never counted"),
    ],
)
async def test_a_verdict_is_that_of_the_service(word: str, attempt: int, outcome: str, reason: str | None) -> None:
    ran = await run_job(service, count, Text(words=[word]), attempt=attempt)
    assert (ran.outcome, ran.reason) == (outcome, reason)
    if outcome == "snoozed":
        assert ran.retry_in_s == 60
    if outcome == "failed":
        assert ran.retry_in_s is not None
        assert 0.5 <= ran.retry_in_s <= 1


async def test_a_job_that_takes_too_long_has_failed() -> None:
    ran = await run_job(service, waits, "long")
    assert (ran.outcome, ran.reason) == ("dead", "timed out after 0.05 s")


async def test_a_queue_is_run_until_it_is_idle() -> None:
    async with inline(service) as jobs:
        for words in (["a"], ["bc"], ["fails"]):
            await jobs.enqueue(count, Text(words=words))
        runs = await jobs.run_until_idle()
        assert [(ran.queue, ran.outcome, ran.result) for ran in runs] == [
            ("count", "done", "real 1"),
            ("count", "done", "real 2"),
            ("count", "failed", None),
            ("length", "done", 1),
        ]
        assert await jobs.run_until_idle(length) == []


async def test_a_payload_that_does_not_fit_and_a_wrong_declaration_are_refused() -> None:
    with pytest.raises(ValueError, match="words"):
        await run_job(service, count, {"no": "words"})
    with pytest.raises(RuntimeError, match="does not run in this process"):
        await count.enqueue(Text(words=[]))


async def test_a_cancelled_test_leaves_no_job_behind() -> None:
    ended: list[str] = []
    other: Service[Settings] = Service("other", settings=Settings)

    @other.worker("waits", limit=1)
    async def waits(job: Job[Any], conf: Settings) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("ended")

    with anyio.move_on_after(0.2):
        await run_job(other, waits)
    assert ended == ["ended"]


async def test_a_service_runs_in_a_test_and_is_reloaded() -> None:
    async with running(service, {"factor": 2}) as live:
        job = await count.enqueue(Text(words=["a", "bc"]))
        assert await count.result(job) == "real 6"
        await live.until_idle()
        report = await live.reload({"factor": 3})
        assert (report.outcome, [change.path for change in report.changes]) == ("applied", ["factor"])
        assert service.snapshot().factor == 3
        rejected = await live.reload({"factor": "x"})
        assert (rejected.outcome, service.snapshot().factor) == ("rejected", 3)
    assert BUILT[-1].ended


stepped = Service("stepped", settings=Settings)


@stepped.worker("steps", limit=1)
async def steps(job: Job[str], conf: Settings) -> str:
    """Show what a step gives; the first attempt ends after it."""
    shown = repr(await job.step("made", lambda: {1: (2, 3), "now": True}))
    if job.attempt == 1:
        raise ValueError(shown)
    return shown


@stepped.worker("thread steps", limit=1)
def thread_steps(job: SyncJob[str], conf: Settings) -> str:
    """Do the same in a thread."""
    shown = repr(job.step("made", lambda: {1: (2, 3), "now": True}))
    if job.attempt == 1:
        raise ValueError(shown)
    return shown


@pytest.mark.parametrize("worker", [steps, thread_steps])
async def test_a_step_gives_at_once_what_it_gives_after_a_restart(worker: Any) -> None:
    first = await run_job(stepped, worker, "x", settings=Settings())
    again = await run_job(stepped, worker, "x", settings=Settings(), attempt=2, resume=first)
    assert again.result == "{'1': [2, 3], 'now': True}"
    assert str(first.reason) == f"ValueError: {again.result}"
