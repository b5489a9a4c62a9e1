"""The drain flow: phases, the one deadline, signals that hurry it, and the thread that ends it."""

from __future__ import annotations

import faulthandler
import functools
import gc
import io
import sys
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stderr
from typing import Any

import anyio
import pytest

from hotreload.drain.coordinator import DrainCoordinator
from hotreload.drain.deadline import Budget, Deadline
from hotreload.drain.last_resort import LastResort
from hotreload.drain.report import DrainReport
from hotreload.drain.stages import COLLECT_AFTER, rare_collections
from hotreload.host import records
from hotreload.lifecycle import Flushed, Lifecycle, Phase
from hotreload.queue.contract import Put
from hotreload.testing import FakeDrainable as Work

pytestmark = pytest.mark.anyio


class Drain:
    """A coordinator over real parts, with the exit of the process recorded instead of taken."""

    def __init__(
        self,
        *parts: Work,
        deadline_s: float = 5.0,
        grace_s: float | None = None,
        guard_gil: bool = False,
        waiting_s: float = 1.0,
        closing: anyio.Event | None = None,
        ends_process: bool = True,
    ) -> None:
        self.parts = parts
        self.lifecycle = Lifecycle()
        self.phases: list[Phase] = []
        self.kept: list[DrainReport] = []
        self.exited = threading.Event()
        self.marked = threading.Event()
        self.flushed = threading.Event()
        self.codes: list[int] = []
        self.held: list[float] = []
        self.held_often = threading.Event()
        self.lifecycle.listen(self.phases.append)
        self.coordinator = DrainCoordinator(
            lifecycle=self.lifecycle,
            parts=parts,
            budget=lambda: Budget(deadline_s, grace_s),
            mark=lambda _within_s: self.marked.set(),
            flush=self._flush,
            keep=self._keep,
            last_resort=functools.partial(
                LastResort, exit_process=self._exit if ends_process else None, guard_gil=guard_gil, waiting_s=waiting_s
            ),
            hold=self._hold,
            closing=closing,
        )
        self.coordinator.start()
        self.lifecycle.move(Phase.RUNNING)
        self.phases.clear()

    def _flush(self, timeout_s: float, keep: Callable[[Flushed], Put]) -> None:
        flushed = [part.flush(timeout_s) for part in self.parts]
        keep(
            Flushed(
                finished=[job for one in flushed for job in one.finished],
                requeued=[job for one in flushed for job in one.requeued],
                abandoned=[job for one in flushed for job in one.abandoned],
            )
        )
        self.flushed.set()

    def _keep(self, report: DrainReport) -> Put:
        self.kept.append(report)
        return records.drained(report)

    def _hold(self, left_s: float) -> None:
        self.held.append(left_s)
        if len(self.held) > 3:
            self.held_often.set()

    def _exit(self, code: int) -> None:
        self.codes.append(code)
        self.exited.set()

    async def run(self) -> DrainReport:
        with anyio.fail_after(30):
            report = await self.coordinator.run()
        self.coordinator.release()
        assert report is not None
        return report

    async def reaches(self, phase: Phase) -> None:
        reached = anyio.Event()
        self.lifecycle.listen(lambda entered: reached.set() if entered is phase else None)
        if self.lifecycle.phase is not phase:
            with anyio.fail_after(30):
                await reached.wait()


async def drained(drain: Drain, meanwhile: Callable[[], object] = lambda: None) -> DrainReport:
    drain.coordinator.request("SIGTERM")
    reports: list[DrainReport] = []

    async def run() -> None:
        reports.append(await drain.run())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        if drain.parts[0].remaining():
            await drain.reaches(Phase.GRACE)
        meanwhile()
    return reports[0]


async def test_an_idle_service_goes_straight_to_flushing() -> None:
    work = Work()
    drain = Drain(work)
    report = await drained(drain)
    assert drain.phases == [Phase.QUIESCING, Phase.FLUSHING, Phase.STOPPED]
    assert work.asked == ["quiesce", "flush"]
    assert (report.phase, report.lost, report.forced) == ("stopped", 0, False)
    assert drain.kept == [report]


async def test_jobs_that_finish_in_the_grace_are_not_interrupted() -> None:
    work = Work(jobs=["a", "b"])
    drain = Drain(work)

    def finish() -> None:
        work.end("a")
        work.end("b")

    report = await drained(drain, finish)
    assert drain.phases == [Phase.QUIESCING, Phase.GRACE, Phase.FLUSHING, Phase.STOPPED]
    assert report.finished == ["a", "b"]
    assert report.requeued == []


async def test_what_is_left_after_the_grace_is_interrupted_and_requeued() -> None:
    work = Work(jobs=["a"])
    drain = Drain(work, grace_s=0.05)
    report = await drained(drain)
    assert drain.phases == [Phase.QUIESCING, Phase.GRACE, Phase.INTERRUPTING, Phase.FLUSHING, Phase.STOPPED]
    assert report.requeued == ["a"]
    assert report.abandoned == []
    assert report.elapsed_s < 1


async def test_garbage_collections_are_rare_from_the_quiesce_until_the_coordinator_is_released() -> None:
    before, during = gc.get_threshold(), list[int]()
    work, second = Work(jobs=["a"]), Drain(Work(jobs=["b"]), grace_s=0.05)

    def finish() -> None:
        during.append(gc.get_threshold()[0])
        work.end("a")

    await drained(Drain(work), finish)
    assert during == [COLLECT_AFTER]
    assert gc.get_threshold() == before
    with rare_collections():
        await drained(second)  # inside of another drain of the process
        assert gc.get_threshold()[0] == COLLECT_AFTER
    assert gc.get_threshold() == before


async def test_jobs_that_only_wait_for_others_get_no_grace() -> None:
    work = Work(waiting=["parent"])
    drain = Drain(work)
    drain.coordinator.request("SIGTERM")
    await drain.run()
    assert drain.phases == [Phase.QUIESCING, Phase.INTERRUPTING, Phase.FLUSHING, Phase.STOPPED]


async def test_a_second_signal_ends_the_grace_a_third_the_interrupting_and_the_flush_is_never_skipped() -> None:
    work = Work(jobs=["a"], deaf=True)
    drain = Drain(work, deadline_s=60)
    began = time.monotonic()
    drain.coordinator.signalled("SIGTERM")
    reports: list[DrainReport] = []

    async def run() -> None:
        reports.append(await drain.run())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await drain.reaches(Phase.GRACE)
        drain.coordinator.signalled("SIGTERM")
        await drain.reaches(Phase.INTERRUPTING)
        drain.coordinator.signalled("SIGINT")
    assert time.monotonic() - began < 10
    assert work.asked == ["quiesce", "idle", "interrupt", "flush"]
    assert reports[0].abandoned == ["a"]
    assert reports[0].lost == 0


async def test_the_first_signal_joins_a_drain_that_another_way_began() -> None:
    work = Work(jobs=["a"])
    drain = Drain(work, deadline_s=60)

    def stop_as_an_orchestrator_does() -> None:
        drain.coordinator.signalled("SIGTERM")
        assert drain.lifecycle.phase is Phase.GRACE
        work.end("a")

    drain.coordinator.request("http")
    report = await drained(drain, stop_as_an_orchestrator_does)
    assert drain.phases == [Phase.QUIESCING, Phase.GRACE, Phase.FLUSHING, Phase.STOPPED]
    assert (report.reason, report.finished) == ("http", ["a"])


@pytest.mark.parametrize(("signals", "within_s"), [(2, 8.0), (3, 4.0)])
async def test_further_signals_shorten_the_time_of_a_blocked_loop(signals: int, within_s: float) -> None:
    """Of 60 s: a fifth, 5 s at most, to interrupt after the second; none after the third."""
    drain = Drain(Work(jobs=["a"]), deadline_s=60)
    began = time.monotonic()
    for _ in range(signals):
        drain.coordinator.signalled("SIGTERM")
    assert drain.exited.wait(30)
    assert time.monotonic() - began < within_s
    [report] = drain.kept
    assert (report.forced, report.abandoned, report.lost) == (True, ["a"], 0)


async def test_a_signal_that_the_loop_heeded_leaves_a_phase_its_time() -> None:
    work = Work(jobs=["a"], deaf=True)
    drain = Drain(work, deadline_s=7.0, grace_s=5.5)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(drain.run)
        drain.coordinator.signalled("SIGTERM")
        await drain.reaches(Phase.GRACE)
        drain.coordinator.signalled("SIGTERM")  # a blocked loop would have 0.8 s from here on
        await drain.reaches(Phase.STOPPED)
    [report] = drain.kept
    assert report.elapsed_s > 5
    assert not report.forced


async def test_the_begin_is_noted_while_the_loop_is_blocked() -> None:
    drain = Drain(Work(jobs=["a"]), deadline_s=60)
    drain.coordinator.request("SIGTERM")
    assert drain.marked.wait(10)  # blocks the event loop
    drain.coordinator.release()


@pytest.mark.parametrize("stderr", [None, io.StringIO()])
async def test_the_end_needs_no_stderr(stderr: Any) -> None:
    with redirect_stderr(stderr):
        drain = Drain(Work(jobs=["a"]), deadline_s=0.6, guard_gil=True)
        drain.coordinator.request("SIGTERM")
        assert drain.exited.wait(30)
    faulthandler.cancel_dump_traceback_later()
    assert drain.codes == [0]


async def test_the_process_ends_whatever_its_end_raises() -> None:
    class Broken:
        def began(self) -> None:
            raise KeyboardInterrupt

        waiting = began

        def flush(self, *, stuck: list[str]) -> None:
            raise MemoryError(stuck)

        def exit_code(self) -> int:
            raise SystemExit(0)

    ended = threading.Event()
    codes: list[int] = []
    last_resort = LastResort(Broken(), exit_process=lambda code: (codes.append(code), ended.set()), guard_gil=False)
    last_resort.start()
    last_resort.arm(Deadline.starting(time.monotonic(), Budget(0.4)))
    assert ended.wait(30)
    assert codes == [1]


async def test_a_later_request_changes_neither_deadline_nor_reason() -> None:
    drain = Drain(Work())
    drain.coordinator.request("SIGTERM", 3)
    first = drain.coordinator.deadline
    drain.coordinator.request("http", 99)
    assert drain.coordinator.deadline is first
    report = await drain.run()
    assert (report.reason, report.deadline_s) == ("SIGTERM", pytest.approx(3))


async def test_code_that_does_not_stop_is_left_behind_inside_the_deadline() -> None:
    work = Work(jobs=["a"], deaf=True)
    drain = Drain(work, deadline_s=1.0)
    report = await drained(drain)
    assert report.abandoned == ["a"]
    assert not report.forced, "the loop was not blocked"
    assert report.elapsed_s < 1.0
    assert report.overshoot_ms == 0


async def test_time_is_asked_for_while_the_loop_is_blocked() -> None:
    drain = Drain(Work(jobs=["a"]), deadline_s=30.0, waiting_s=0.02)
    drain.coordinator.request("SIGTERM")
    assert drain.held_often.wait(30)  # blocks the event loop, as a job's code would
    assert drain.held == sorted(drain.held, reverse=True)
    assert 0 < drain.held[-1] < drain.held[0] <= 30.0
    drain.coordinator.release()


async def test_a_blocked_loop_is_flushed_and_left_from_the_thread() -> None:
    work = Work(jobs=["a"])
    drain = Drain(work, deadline_s=0.6)
    drain.coordinator.request("SIGTERM")
    began = time.monotonic()
    assert drain.exited.wait(30)  # blocks the event loop, as a job's code would
    elapsed = time.monotonic() - began
    assert drain.codes == [0]
    assert 0.5 < elapsed < 5
    [report] = drain.kept
    assert report.forced
    assert report.abandoned == ["a"]
    assert any("drain.exited.wait" in line for line in report.stuck)


async def test_what_a_failed_flush_leaves_in_the_store_is_not_lost() -> None:
    bad, good = Work("bad", jobs=["a"], fails_to_flush=True, deaf=True), Work("good", jobs=["b"])
    drain = Drain(bad, good, deadline_s=0.8)
    report = await drained(drain)
    assert (report.lost, report.flushed, report.unflushed, report.phase) == (0, False, ["a"], "flushing")
    assert not report.whole
    assert drain.coordinator.exit_code() == 1
    assert drain.kept == []


async def test_progress_is_readable_from_the_request_on() -> None:
    work = Work(jobs=["a"])
    drain = Drain(work)
    assert drain.coordinator.progress() is None
    drain.coordinator.request("SIGTERM", 5)
    progress = drain.coordinator.progress()
    assert progress is not None
    assert progress["remaining"] == [{"part": "work", "id": "a", "what": "work", "waiting": False, "why": ""}]
    work.end("a")
    await drain.run()


async def test_the_flush_waits_for_the_last_requests_of_a_server_around_it() -> None:
    closing = anyio.Event()
    drain = Drain(Work(), deadline_s=30.0, closing=closing)
    reports: list[DrainReport] = []

    async def run() -> None:
        reports.append(await drain.run())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        drain.coordinator.request("SIGTERM")
        await drain.reaches(Phase.QUIESCING)
        await anyio.wait_all_tasks_blocked()
        assert drain.kept == []
        closing.set()
    assert drain.kept == reports


async def test_a_server_that_does_not_close_delays_the_flush_to_the_reserve_and_no_longer() -> None:
    drain = Drain(Work(), deadline_s=0.6, closing=anyio.Event())
    drain.coordinator.request("SIGTERM")
    report = await drain.run()
    assert (report.forced, report.overshoot_ms) == (False, 0)


async def test_without_grace_what_runs_is_interrupted_at_once() -> None:
    work = Work(jobs=["a"])
    drain = Drain(work, deadline_s=600.0)
    drain.coordinator.request("cancelled", at_once=True)
    assert (await drain.run()).requeued == ["a"]


async def test_a_host_that_fails_flushes_nothing() -> None:
    """Its jobs stay claimed in the store: the next start counts a crash for each."""
    work = Work(jobs=["a"])
    drain = Drain(work, deadline_s=600.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(drain.coordinator.run)
        drain.coordinator.request("SIGTERM")
        await drain.reaches(Phase.GRACE)
        drain.coordinator.fail()
    drain.coordinator.release()
    assert (drain.kept, drain.coordinator.report, drain.coordinator.exit_code()) == ([], None, 1)
    assert "flush" not in work.asked


async def test_in_another_s_process_a_blocked_loop_is_flushed_and_the_process_lives() -> None:
    drain = Drain(Work(jobs=["a"]), deadline_s=0.6, ends_process=False)
    drain.coordinator.request("SIGTERM")
    assert drain.flushed.wait(30)  # blocks the event loop, as a handler of the server would
    drain.coordinator.release()
    assert drain.codes == []
    [report] = drain.kept
    assert (report.forced, report.abandoned) == (True, ["a"])
    assert any("drain.flushed.wait" in line for line in report.stuck)


async def test_what_guards_the_deadline_is_let_go_of_wholly() -> None:
    before = threading.active_count(), sys.getswitchinterval()
    drain = Drain(Work(), deadline_s=30.0, guard_gil=True)
    drain.coordinator.request("SIGTERM")
    await drain.run()
    drain.coordinator.release()
    assert (threading.active_count(), sys.getswitchinterval()) == before
