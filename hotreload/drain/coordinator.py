"""request → quiesce → grace → interrupt → flush → report: one drain, start to end."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import anyio

from hotreload.clock import iso, now_ms
from hotreload.drain.deadline import Budget, Deadline
from hotreload.drain.flush import Flush, flush
from hotreload.drain.grace import grace
from hotreload.drain.interrupt import interrupt
from hotreload.drain.last_resort import LastResort
from hotreload.drain.quiesce import Drainable, quiesce
from hotreload.drain.report import DrainReport
from hotreload.drain.sentinel import Sentinel
from hotreload.lifecycle import Flushed, Lifecycle, Phase, Window

log = logging.getLogger(__name__)
TEND_S = 0.5
MARK_S = 1.0
ASK_S = 0.15
"""How long before the last resort would flush a loop asks for it that is not blocked."""
STOPPING_S = 0.1
"""What is kept between the last moment of work that was left to finish and the flush, for it to stop."""


class DrainCoordinator:
    """Runs the one drain of a process.

    `request` and `signalled` may be called from a signal handler. The first request fixes the deadline; later ones
    change nothing. `run` waits for the request and returns when everything is durable. `mark` is called first and
    `flush` before the end, in the last resort's thread. `hold` is told the seconds left, in that thread as well, each
    second whatever the loop does.
    """

    def __init__(
        self,
        *,
        lifecycle: Lifecycle,
        parts: Sequence[Drainable],
        budget: Callable[[], Budget],
        mark: Callable[[float], object],
        flush: Flush,
        wake: Callable[[Callable[[], object]], object],
        last_resort: Callable[[DrainCoordinator], LastResort] = LastResort,
        drain_id: str | None = None,
        sentinel: Sentinel | None = None,
        hold: Callable[[float], object] = lambda _left_s: None,
    ) -> None:
        self._lifecycle = lifecycle
        self._parts = parts
        self._budget = budget
        self._mark = mark
        self._flush = flush
        self._wake = wake
        self._last_resort = last_resort(self)
        self._sentinel = sentinel
        self._hold = hold
        self._requested = anyio.Event()
        self._flushed = threading.Event()
        self._flushed_on_loop = anyio.Event()
        self._stage: anyio.CancelScope | None = None
        self._signals = 0
        self._hurried = 0
        self._failed = False
        self._marks: dict[str, float] = {}
        self._at_start = 0
        self.id = drain_id or uuid.uuid4().hex
        self.reason: str | None = None
        self.deadline: Deadline | None = None
        self.report: DrainReport | None = None

    def start(self) -> None:
        """Start the last resort's thread and the sentinel; call it on the loop's thread before any request."""
        self._last_resort.start()
        if self._sentinel is not None:
            self._sentinel.start(self._budget().deadline_s)

    def budget_changed(self) -> None:
        """The settings changed: a drain asked for by a signal has another deadline now."""
        if self._sentinel is not None:
            self._sentinel.expect(self._budget().deadline_s)

    @property
    def impaired(self) -> str | None:
        """What keeps the deadline from being enforced whatever happens, None where it is."""
        return self._sentinel.impaired if self._sentinel is not None else None

    async def tend(self) -> None:
        """Until cancelled: see now and then that the sentinel can do its work."""
        while self._sentinel is not None:
            await anyio.sleep(TEND_S)
            self._sentinel.tend(self.deadline.ends if self.deadline else None)

    def request(self, reason: str, deadline_s: float | None = None) -> None:
        """Ask for the drain; only the first call counts. Takes no lock: safe in a signal handler."""
        self._begin(reason, deadline_s, time.monotonic())

    def signalled(self, signal_name: str) -> None:
        """Hear a stop signal: the first asks for the drain, or joins the one that somebody else asked for.

        The second ends the grace at once, the third the interrupting, none the flushing. For signal handlers.
        """
        self._signals += 1
        if self._signals > 1:
            self._last_resort.hurry()
            self._wake(self._end_stage)
            return
        arrived = self._sentinel.arrived() if self._sentinel else None
        self._begin(signal_name, None, arrived or time.monotonic())

    def fail(self) -> None:
        """The host ends by an error: from now on the deadline is enforced, as what is cancelled may not stop."""
        self._failed = True
        self.request("the host failed")

    def _begin(self, reason: str, deadline_s: float | None, started: float) -> None:
        if self.deadline is not None:
            return
        budget = self._budget()
        if deadline_s is not None:
            budget = replace(budget, deadline_s=deadline_s)
        self.reason = reason
        self.deadline = Deadline.starting(started, budget)
        self._lifecycle.window = Window(self.deadline.grace_ends, self.deadline.flush_at - ASK_S - STOPPING_S)
        self._last_resort.arm(self.deadline)
        if self._sentinel is not None:
            self._sentinel.arm(self.deadline.ends)
        self._wake(self._requested.set)

    def _end_stage(self) -> None:
        self._hurried += 1
        self._last_resort.heeded()
        if self._stage is not None:
            self._stage.cancel()

    async def run(self) -> DrainReport:
        """Wait for a request, then drain; returns the report once it is durable."""
        await self._requested.wait()
        deadline = self.deadline
        assert deadline is not None
        self._at_start = self._running()
        self._enter(Phase.QUIESCING)
        quiesce(self._parts)
        if self._working():
            self._enter(Phase.GRACE)
            await self._bounded(1, deadline.grace_ends, grace)
        if self._running():
            self._enter(Phase.INTERRUPTING)
            await self._bounded(2, deadline.flush_at - ASK_S, interrupt)
        self._enter(Phase.FLUSHING)
        self._last_resort.flush_now()
        await self._flushed_on_loop.wait()
        assert self.report is not None
        self._enter(Phase.STOPPED)
        return self.report

    def leave(self) -> None:
        """The process ends by itself now: the last resort's thread is no longer needed."""
        self._last_resort.disarm()
        if self._sentinel is not None:
            self._sentinel.close()

    def exit_now(self) -> None:
        """End the process at once, from the thread: everything is durable, and something does not stop."""
        self._last_resort.exit_now()

    async def _bounded(self, signals: int, ends: float, stage: Callable[[Sequence[Drainable]], Any]) -> None:
        with anyio.CancelScope() as self._stage:
            if self._hurried >= signals:
                self._stage.cancel()
            self._stage.deadline = anyio.current_time() + (ends - time.monotonic())
            await stage(self._parts)
        self._stage = None

    def _running(self) -> int:
        return sum(len(part.remaining()) for part in self._parts)

    def _working(self) -> list[str]:
        return [left.id for part in self._parts for left in part.remaining() if not left.waiting]

    def _enter(self, phase: Phase) -> None:
        self._marks[phase.value] = time.monotonic()
        self._lifecycle.move(phase)

    # --- called in the last resort's thread -------------------------------------------------------------

    def began(self) -> None:
        """Have the begin noted on the disk (see `Ending`): a kill from now on interrupts jobs, it crashes none."""
        if self.deadline is not None and not self._failed:
            self._mark(min(MARK_S, max(0.05, self.deadline.flush_at - time.monotonic())))

    def waiting(self) -> None:
        """Tell whoever may end this process how long it still needs (see `Ending`)."""
        if self.deadline is not None:
            self._hold(self.deadline.ends - time.monotonic())

    def flush(self, *, stuck: list[str]) -> None:
        """Flush all parts and record the report (see `Ending`)."""
        deadline = self.deadline
        assert deadline is not None
        began = time.monotonic()
        left = [left.id for part in self._parts for left in part.remaining()]

        def report(flushed: Flushed) -> DrainReport:
            return self._make_report(deadline, flushed, stuck, began)

        def durable(flushed: Flushed) -> DrainReport:
            self.report = report(flushed)
            return self.report

        if flush(self._flush, durable, deadline.exit_at):
            if self._sentinel is not None:
                self._sentinel.flushed()
        else:
            self.report = replace(report(Flushed()), phase=Phase.FLUSHING.value, flushed=False, unflushed=left)
        self._wake(self._flushed_on_loop.set)

    def exit_code(self) -> int:
        """0 when everything is back in the queue, else 1 (see `Ending`)."""
        return 0 if not self._failed and self.report is not None and self.report.whole else 1

    def _make_report(self, deadline: Deadline, flushed: Flushed, stuck: list[str], began: float) -> DrainReport:
        now = time.monotonic()
        marks = {Phase.QUIESCING.value: deadline.started, **self._marks, Phase.FLUSHING.value: began, "end": now}
        ordered = sorted(marks.items(), key=lambda mark: mark[1])
        timings = {phase: (later - at) * 1000 for (phase, at), (_, later) in pairwise(ordered)}
        return DrainReport(
            id=self.id,
            reason=self.reason or "",
            deadline_s=deadline.total_s,
            elapsed_s=now - deadline.started,
            phase=Phase.STOPPED.value if not stuck else self._lifecycle.phase.value,
            finished=flushed.finished,
            failed=flushed.failed,
            checkpointed=flushed.checkpointed,
            requeued=flushed.requeued,
            abandoned=flushed.abandoned,
            lost=flushed.lost,
            overshoot_ms=max(0.0, (now - deadline.ends) * 1000),
            timings_ms=timings,
            stuck=[*stuck, *flushed.stuck],
            forced=bool(stuck),
            ended_at=iso(now_ms()),
        )

    def progress(self) -> dict[str, Any] | None:
        """Return the drain as the status document shows it; None before a request."""
        deadline = self.deadline
        if deadline is None:
            return None
        now = time.monotonic()
        return {
            "id": self.id,
            "reason": self.reason,
            "phase": self._lifecycle.phase.value,
            "deadline_s": deadline.total_s,
            "elapsed_s": round(now - deadline.started, 3),
            "left_s": round(max(0.0, deadline.ends - now), 3),
            "jobs_at_start": self._at_start,
            "remaining": [
                {"part": part.name, "id": left.id, "what": left.what, "waiting": left.waiting, "why": left.why}
                for part in self._parts
                for left in part.remaining()
            ],
        }
