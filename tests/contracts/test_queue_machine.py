"""The queue against a small model: any order of calls, crashes and drains; HOTRELOAD_EXAMPLES says how many runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import apsw
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hotreload.errors import LeaseLost, StoreUnavailable
from hotreload.queue.job import Done, Failed, Interrupted, JobRow, JobState, NewJob, Verdict, after_crash, decide
from hotreload.queue.sqlite import SqliteQueue
from hotreload.queue.sqlite.connection import connect
from tests.counts import counted

from .stores import HandClock, counters_agree

QUEUES = ("a", "b")
CURSORS = (0, 1, *(letter * 5_000 for letter in "ab"), "a" * 70_000)
"""Long ones are kept apart from the rows of their jobs, the longest is read by itself too."""
VERDICTS: st.SearchStrategy[Verdict] = st.sampled_from(
    [Done(1), Failed("x"), Failed("x", for_good=True), Failed("x", delay_s=0), Interrupted(), Interrupted(2.0)]
)


@dataclass
class Known:
    """A job as the model has it; `row` is what the newest claim was given."""

    id: str
    queue: str
    key: str | None
    priority: int
    run_at_ms: int
    state: JobState = JobState.READY
    cursor: Any = None
    row: JobRow | None = None
    stalled: int = 0
    alone: int = 0
    suspect: bool = False
    counts: tuple[int, int, int] = (0, 0, 0)


@dataclass
class Model:
    """All jobs; what the store must say of them."""

    jobs: dict[str, Known] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    stale: list[JobRow] = field(default_factory=list)

    def held(self, queue: str, key: str | None) -> bool:
        active = (JobState.READY, JobState.SCHEDULED, JobState.RUNNING)
        return key is not None and any(
            job.queue == queue and job.key == key and job.state in active for job in self.jobs.values()
        )

    def running(self) -> list[Known]:
        return [job for job in self.jobs.values() if job.state is JobState.RUNNING]


class QueueMachine(RuleBasedStateMachine):
    """Drives one store through a life of several processes."""

    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "queue.db"
        self.clock = HandClock()
        self.model = Model()
        self.marked = False
        self.failing: type[apsw.Error] | None = None
        self.runner = anyio.from_thread.start_blocking_portal("asyncio")
        self.portal = self.runner.__enter__()
        self.open()

    def open(self) -> None:
        self.queue = SqliteQueue.open(self.path, now_ms=self.clock, jitter=lambda: 0.0, opens=self._connect)

    def _connect(self, path: str) -> apsw.Connection:
        def refuse() -> bool:
            if self.failing is not None:
                raise self.failing("as told")
            return False

        connection = connect(path)
        connection.set_commit_hook(refuse)
        return connection

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        async def run() -> Any:
            return await coroutine

        return self.portal.call(run)

    def teardown(self) -> None:
        self.queue.close()
        assert counters_agree(self.path)
        self.runner.__exit__(None, None, None)
        self.folder.cleanup()

    @rule(
        queue=st.sampled_from(QUEUES),
        keys=st.lists(st.none() | st.sampled_from("xyz"), min_size=1, max_size=4),
        priority=st.integers(-1, 1),
        delay_ms=st.sampled_from([None, -5, 0, 1_000]),
    )
    def enqueue(self, queue: str, keys: list[str | None], priority: int, delay_ms: int | None) -> None:
        now = self.clock.now_ms
        at = None if delay_ms is None else now + delay_ms
        jobs = [NewJob(queue, key, dedupe_key=key, priority=priority, run_at_ms=at, max_attempts=2) for key in keys]
        expected: list[str | None] = []
        duplicates: list[str | None] = []
        for key in keys:
            duplicate = self.model.held(queue, key) or (key is not None and key in expected)
            (duplicates if duplicate else expected).append(key)
        made = self.call(self.queue.enqueue(jobs))
        assert made.duplicates == duplicates
        assert len(made.ids) == len(expected)
        for job_id, key in zip(made.ids, expected, strict=True):
            late = delay_ms is not None and delay_ms > 0
            state = JobState.SCHEDULED if late else JobState.READY
            run_at_ms = now + 1_000 if late else now
            self.model.jobs[job_id] = Known(job_id, queue, key, priority, run_at_ms, state)

    @rule(queue=st.sampled_from(QUEUES), limit=st.integers(1, 4))
    def claim(self, queue: str, limit: int) -> None:
        self._taken(queue, limit, self.call(self.queue.claim(queue, limit)))

    def _taken(self, queue: str, limit: int, taken: Sequence[JobRow]) -> None:
        jobs = self.model.jobs
        for job in jobs.values() if queue not in self.model.paused else ():
            if job.queue == queue and job.state is JobState.SCHEDULED and job.run_at_ms <= self.clock.now_ms:
                job.state = JobState.READY
        ready = [job for job in jobs.values() if job.queue == queue and job.state is JobState.READY]
        ready.sort(key=lambda job: (job.priority, job.run_at_ms, int(job.id)))
        suspects = [job for job in ready if job.suspect]
        running = [job for job in self.model.running() if job.queue == queue]
        elsewhere = [job for job in self.model.running() if job.suspect and job.queue != queue]
        free = [job for job in suspects if not elsewhere or all(one.stalled <= 2 for one in (job, *elsewhere))]
        if queue in self.model.paused or any(job.suspect for job in running) or (suspects and running):
            expected: list[Known] = []
        else:
            expected = free[:1] if suspects else ready[:limit]
        assert [row.id for row in taken] == [job.id for job in expected]
        for row, job in zip(taken, expected, strict=True):
            assert job.row is None or row.lease_seq > job.row.lease_seq
            assert (row.attempts, row.interruptions, row.crashes, row.suspect) == (*job.counts, job.suspect)
            assert row.cursor == job.cursor
            job.state, job.row = JobState.RUNNING, row

    @precondition(lambda self: self.model.running())
    @rule(data=st.data(), cursor=st.sampled_from(CURSORS))
    def checkpoint(self, data: st.DataObject, cursor: int | str) -> None:
        job = data.draw(st.sampled_from(self.model.running()))
        assert job.row is not None
        self.call(self.queue.checkpoint(job.row, cursor))
        if cursor != job.cursor:
            job.cursor, job.stalled, job.alone = cursor, 0, 0

    @precondition(lambda self: self.model.running())
    @rule(
        data=st.data(),
        verdict=VERDICTS,
    )
    def settle(self, data: st.DataObject, verdict: Verdict) -> None:
        job = data.draw(st.sampled_from(self.model.running()))
        assert job.row is not None
        assert self.call(self.queue.settle(job.row, verdict)) is self._ended(job, verdict)

    def _ended(self, job: Known, verdict: Verdict) -> JobState:
        assert job.row is not None
        to = decide(job.row, verdict, self.clock.now_ms, jitter=0.0)
        self.model.stale.append(job.row)
        kept = isinstance(verdict, Interrupted)
        job.state, job.run_at_ms, job.suspect = to.state, to.run_at_ms, to.suspect
        job.counts = (to.attempts, to.interruptions, to.crashes)
        job.stalled, job.alone = (job.stalled, job.alone) if kept else (0, 0)
        return to.state

    @rule(data=st.data(), queue=st.sampled_from(QUEUES), limit=st.integers(0, 3), late=st.booleans())
    def exchange(self, data: st.DataObject, queue: str, limit: int, late: bool) -> None:
        ending = data.draw(st.lists(st.sampled_from(self.model.running() or [None]), unique_by=id, max_size=3))
        verdicts = [(job, data.draw(VERDICTS)) for job in ending if job is not None]
        given = [(job.row, verdict) for job, verdict in verdicts if job.row is not None]
        stale = [(row, Done()) for row in self.model.stale[:1]] if late else []
        done = self.call(self.queue.exchange(queue, limit, [*given, *stale]))
        assert all(isinstance(state, LeaseLost) for state in done.states[len(given) :])
        assert list(done.states[: len(given)]) == [self._ended(job, verdict) for job, verdict in verdicts]
        if limit:
            self._taken(queue, limit, done.rows)

    @rule(data=st.data(), queue=st.sampled_from(QUEUES), kind=st.sampled_from([apsw.FullError, apsw.IOError]))
    def fault(self, data: st.DataObject, queue: str, kind: type[apsw.Error]) -> None:
        """Whatever is asked while the disk refuses, nothing of it happens."""
        running = [job.row for job in self.model.running() if job.row is not None]
        asked = [self.queue.enqueue([NewJob(queue, 1)]), self.queue.pause(queue)]
        if any(job.queue == queue and job.state is JobState.READY for job in self.model.jobs.values()):
            asked.append(self._claimed_or_nothing(queue))
        if running:
            row = data.draw(st.sampled_from(running))
            asked += [self.queue.checkpoint(row, 9), self.queue.settle(row, Done())]
        self.failing = kind
        for wish in asked:
            with pytest.raises(StoreUnavailable):
                self.call(wish)
        self.failing = None
        self.call(self.queue.write(lambda _: None))  # what is owed is done

    async def _claimed_or_nothing(self, queue: str) -> None:
        """Claim; where that gave nothing, as of a paused queue, there was nothing for the disk to refuse."""
        if not await self.queue.claim(queue, 2):
            raise StoreUnavailable

    @precondition(lambda self: self.model.stale)
    @rule(data=st.data(), verdict=st.sampled_from([Done(), Failed("late"), Interrupted(), None]))
    def late_write(self, data: st.DataObject, verdict: Verdict | None) -> None:
        row = data.draw(st.sampled_from(self.model.stale))
        write = self.queue.checkpoint(row, 9) if verdict is None else self.queue.settle(row, verdict)
        try:
            self.call(write)
        except LeaseLost:
            return
        raise AssertionError("a late write was taken")

    @rule(queues=st.lists(st.sampled_from(QUEUES), unique=True))
    def requeue(self, queues: list[str]) -> None:
        expected = [job for job in self.model.running() if job.queue in queues]
        back = self.queue.requeue_running(queues, 5)
        assert set(back.ids) == {job.id for job in expected}
        assert set(back.checkpointed) == {job.id for job in expected if job.cursor is not None}
        for job in expected:
            assert job.row is not None
            self.model.stale.append(job.row)
            self._interrupted(job)

    @staticmethod
    def _interrupted(job: Known) -> None:
        attempts, interruptions, crashes = job.counts
        job.state, job.counts = JobState.READY, (attempts, interruptions + 1, crashes)

    @rule()
    def mark_draining(self) -> None:
        self.queue.mark_draining(5)
        self.marked = True

    @rule(data=st.data(), crashed=st.booleans())
    def restart(self, data: st.DataObject, crashed: bool) -> None:
        if crashed:
            self.queue.engine.reader.close()
            assert self.queue.engine.inbox.close(5)
            self.queue.engine.files.release()
        else:
            assert self.queue.close()
        sole = sum(job.suspect for job in self.model.running()) == 1
        for job in self.model.running():
            assert job.row is not None
            self.model.stale.append(job.row)
            if crashed and not self.marked:
                self._crashed(job, sole)
            else:
                self._interrupted(job)
        self.marked = False
        self.open()

    @staticmethod
    def _crashed(job: Known, only_suspect: bool) -> None:
        row = job.row
        assert row is not None
        seen = JobRow(
            **{name: getattr(row, name) for name in row.__slots__}
            | {"stalled_crashes": job.stalled, "alone_crashes": job.alone, "suspect": job.suspect}
        )
        to = after_crash(seen, only_suspect=only_suspect)
        job.state, job.suspect = to.state, to.suspect
        job.stalled, job.alone = to.stalled_crashes, to.alone_crashes
        job.counts = (to.attempts, to.interruptions, to.crashes)

    @rule(queue=st.sampled_from(QUEUES), paused=st.booleans())
    def pause(self, queue: str, paused: bool) -> None:
        self.call(self.queue.pause(queue) if paused else self.queue.resume(queue))
        (self.model.paused.add if paused else self.model.paused.discard)(queue)

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data(), retry=st.booleans())
    def tend(self, data: st.DataObject, retry: bool) -> None:
        job = data.draw(st.sampled_from(list(self.model.jobs.values())))
        if retry:
            free = job.state is JobState.DEAD and not self.model.held(job.queue, job.key)
            retried = self.call(self.queue.retry([job.id]))
            assert retried == ([job.id] if free else [])
            if retried:
                job.state, job.run_at_ms = JobState.READY, self.clock.now_ms
                job.counts, job.stalled, job.alone = (0, *job.counts[1:]), 0, 0
        else:
            discarded = self.call(self.queue.discard([job.id]))
            assert discarded == ([] if job.state is JobState.RUNNING else [job.id])
            for job_id in discarded:
                del self.model.jobs[job_id]
                self.model.stale = [row for row in self.model.stale if row.id != job_id]

    @rule(by_ms=st.sampled_from([-500, 1, 400, 5_000]))
    def time_passes(self, by_ms: int) -> None:
        self.clock.now_ms += by_ms

    @invariant()
    def depths_agree(self) -> None:
        QueueMachine.steps += 1
        for depth in self.queue.depths():
            jobs = [job for job in self.model.jobs.values() if job.queue == depth.name]
            assert depth.paused == (depth.name in self.model.paused)
            for state in (JobState.RUNNING, JobState.DEAD, JobState.READY, JobState.SCHEDULED):
                assert getattr(depth, state) == sum(job.state is state for job in jobs), state


class TestQueueMachine(QueueMachine.TestCase):
    """Runs it, and prints how far it went."""

    settings = settings(
        max_examples=counted("EXAMPLES", 40),
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )

    @pytest.fixture(autouse=True)
    def told(self, figures: Callable[[str], None]) -> Iterator[None]:
        yield
        assert QueueMachine.steps > 100
        figures(f"{QueueMachine.steps:,} steps agreed with the model")
