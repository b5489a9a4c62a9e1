"""An hour's outage of what jobs call, in virtual time: with the defaults no job is dead, and calls stay few."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hotreload import Job
from hotreload.queue.job import JobState, NewJob
from hotreload.queue.sqlite import SqliteQueue
from hotreload.workers.active import ActiveJob
from hotreload.workers.execution import Execution
from hotreload.workers.job import Surroundings
from hotreload.workers.kind import Kind
from hotreload.workers.policy import Policy
from hotreload.workers.runners import runner

from .test_pool import snapshot

pytestmark = pytest.mark.anyio
JOBS = 200
OUTAGE_S = 3_600
START_MS = 1_800_000_000_000


class Clock:
    """Milliseconds that pass when told to."""

    def __init__(self) -> None:
        self.now_ms = START_MS

    def __call__(self) -> int:
        return self.now_ms

    @property
    def passed_s(self) -> float:
        return (self.now_ms - START_MS) / 1000


async def test_an_outage_of_an_hour_kills_no_job_and_is_not_made_worse(tmp_path: Path, figures: Any) -> None:
    clock, calls = Clock(), list[float]()
    store = SqliteQueue.open(tmp_path / "q.db", now_ms=clock)

    async def asks(_job: Job[Any], _settings: Any) -> str:
        calls.append(clock.passed_s)
        if clock.passed_s < OUTAGE_S:
            raise ConnectionError("the model server is starting")
        return "answered"

    around = Surroundings(store, Kind("work"), newest=lambda: snapshot(1))
    execution = Execution(runner(asks), around, policy=Policy(), jitter=random.Random(7).random)
    await store.enqueue([NewJob("work", n) for n in range(JOBS)])
    while (due_ms := await store.next_due_ms("work")) is not None or store.depths()[0].ready:
        clock.now_ms = max(clock.now_ms, due_ms or 0)
        while rows := await store.claim("work", JOBS):
            ended = [(row, await execution.run(ActiveJob(row, 0.0, 0.0))) for row in rows]
            await store.exchange("work", 0, ended)
    jobs = await store.jobs(limit=JOBS)
    store.close()
    assert {job.state for job in jobs} == {JobState.DONE}
    per_job = len([at for at in calls if at < OUTAGE_S]) / JOBS
    busiest = max(Counter(int(at // 60) for at in calls if 60 <= at < OUTAGE_S).values())
    assert per_job <= 10
    assert busiest <= 2 * JOBS
    last_s = max(calls)
    assert last_s < OUTAGE_S * 2.2
    figures(
        f"{per_job:.1f} calls a job in the hour, at most {busiest / JOBS:.2f} a job and minute; all done {last_s:.0f} s"
    )
