"""request → quiesce → grace → interrupt → flush → report: one drain, start to end."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import anyio

from hotreload.clock import now_ms
from hotreload.drain.deadline import Budget, Deadline
from hotreload.drain.last_resort import LastResort
from hotreload.drain.report import Course, DrainReport, drain_report
from hotreload.drain.sentinel import Sentinel
from hotreload.drain.stages import Drainable, grace, interrupt, quiesce, rare_collections
from hotreload.errors import StoreLost
from hotreload.lifecycle import Flushed, Lifecycle, Phase, Window
from hotreload.queue.contract import Put

log = logging.getLogger(__name__)
MARK_S = 1.0
FLUSH_LEAST_S = 0.05
ASK_S = 0.15
"""How long before the last resort would flush a loop asks for it that is not blocked."""
STOPPING_S = 0.1
"""What is kept between the last moment of work that was left to finish and the flush, for it to stop."""


class DrainCoordinator:
    """Runs the one drain of a host.

    `request` and `signalled` may be called from a signal handler. The first request fixes the deadline; later ones
    change nothing. `run` waits for the request and returns when everything is durable. In the last resort's thread
    are called: `mark` first, with the seconds it may take; `flush` last, with the seconds it has and what makes of
    its outcome the document to keep (`keep`, of the report), both durable on return; `hold` each second, with the
    seconds left. Where `closing` is given the flush waits for it as well: a server around this host lets its last
    requests finish.
    """

    def __init__(
        self,
        *,
        lifecycle: Lifecycle,
        parts: Sequence[Drainable],
        budget: Callable[[], Budget],
        mark: Callable[[float], object],
        flush: Callable[[float, Callable[[Flushed], Put]], object],
        keep: Callable[[DrainReport], Put],
        last_resort: Callable[[DrainCoordinator], LastResort] = LastResort,
        drain_id: str | None = None,
        sentinel: Sentinel | None = None,
        hold: Callable[[float], object] = lambda _left_s: None,
        closing: anyio.Event | None = None,
    ) -> None:
        self._lifecycle = lifecycle
        self._parts = parts
        self._budget = budget
        self._mark = mark
        self._flush = flush
        self._keep = keep
        self._last_resort = last_resort(self)
        self._sentinel = sentinel
        self._hold = hold
        self._closing = closing
        self._loop: asyncio.AbstractEventLoop | None = None
        self._requested = anyio.Event()
        self._flushed = anyio.Event()
        self._stage: anyio.CancelScope | None = None
        self._signals = 0
        self._hurried = 0
        self._marks: dict[str, float] = {}
        self._at_start = 0
        self._ending = threading.Lock()
        self._lasting = ExitStack()
        self.failed = False
        self.id = drain_id or uuid.uuid4().hex
        self.reason: str | None = None
        self.deadline: Deadline | None = None
        self.report: DrainReport | None = None

    def start(self) -> None:
        """Start the last resort's thread and the sentinel; call it on the loop's thread before any request."""
        self._loop = asyncio.get_running_loop()
        self._last_resort.start()
        if self._sentinel is not None:
            self._sentinel.start(self._budget().deadline_s)

    def release(self) -> None:
        """Let go of what guards the deadline: nothing of it outlives this call. A second call does nothing."""
        self._last_resort.release()
        self._close_sentinel()
        self._lasting.close()

    @property
    def left_s(self) -> float:
        """Seconds until a process that does not leave by itself is ended; 0 before a request."""
        return max(0.0, self.deadline.exit_at - time.monotonic()) if self.deadline else 0.0

    def budget_changed(self) -> None:
        """The settings changed: a drain asked for by a signal has another deadline now."""
        if self._sentinel is not None:
            self._sentinel.expect(self._budget().deadline_s)

    @property
    def impaired(self) -> str | None:
        """What keeps the deadline from being enforced whatever happens, None where it is."""
        return self._sentinel.impaired if self._sentinel is not None else None

    def tend(self) -> None:
        """See that the sentinel can do its work; call it now and then, on the main thread."""
        if self._sentinel is not None:
            self._sentinel.tend(self.deadline.ends if self.deadline else None)

    def request(self, reason: str, deadline_s: float | None = None, *, at_once: bool = False) -> None:
        """Ask for the drain; only the first call counts. With `at_once` running work gets no grace.

        Takes no lock: safe in a signal handler.
        """
        if at_once and self.deadline is None:
            self._hurried = 1
        self._begin(reason, deadline_s, time.monotonic())

    def signalled(self, signal_name: str) -> None:
        """Hear a stop signal: the first asks for the drain, or joins the one that another way asked for.

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
        """The host ends by a defect: the deadline is enforced, and what runs is left in the store, as a crash is."""
        self.failed = True
        self.request("the host failed")
        self._wake(self._end_stage)
        self._wake(self._end_stage)

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
        if self._sentinel is not None and not self.failed:  # it would note a drain
            self._sentinel.arm(self.deadline.ends)
        self._wake(self._requested.set)

    def _wake(self, call: Callable[[], object]) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call)

    def _end_stage(self) -> None:
        self._hurried += 1
        self._last_resort.heeded()
        if self._stage is not None:
            self._stage.cancel()

    async def requested(self) -> None:
        """Return once a drain was asked for."""
        await self._requested.wait()

    async def run(self) -> DrainReport | None:
        """Wait for a request, then drain; returns the report once it is durable, None where the host failed.

        Cancelled, call `flush_rest`.
        """
        await self._requested.wait()
        deadline = self.deadline
        assert deadline is not None
        self._quiesce()
        if self._working():
            self._enter(Phase.GRACE)
            await self._bounded(1, deadline.grace_ends, grace(self._parts))
        if self._running():
            self._enter(Phase.INTERRUPTING)
            await self._bounded(2, deadline.flush_at - ASK_S, interrupt(self._parts))
        if self._closing is not None:
            await self._bounded(3, deadline.flush_at - ASK_S, self._closing.wait())
        return await self.flush_rest()

    async def flush_rest(self) -> DrainReport | None:
        """Flush now what is not flushed, after a request; returns as `run`."""
        self._quiesce()
        if self._lifecycle.phase is Phase.STOPPED or self.failed:
            return self.report
        if self._lifecycle.phase is not Phase.FLUSHING:
            self._enter(Phase.FLUSHING)
        self._last_resort.flush_now()
        await self._flushed.wait()
        self._enter(Phase.STOPPED)
        return self.report

    def _quiesce(self) -> None:
        if not self._lifecycle.draining:
            self._at_start = self._running()
            self._enter(Phase.QUIESCING)
            self._lasting.enter_context(rare_collections())
            quiesce(self._parts)

    async def _bounded(self, signals: int, ends: float, stage: Coroutine[Any, Any, object]) -> None:
        with anyio.CancelScope() as self._stage:
            if self._hurried >= signals:
                self._stage.cancel()
            self._stage.deadline = anyio.current_time() + (ends - time.monotonic())
            await stage
        self._stage = None

    def _running(self) -> int:
        return sum(len(part.remaining()) for part in self._parts)

    def _working(self) -> bool:
        return any(not left.waiting for part in self._parts for left in part.remaining())

    def _enter(self, phase: Phase) -> None:
        self._marks[phase.value] = time.monotonic()
        self._lifecycle.move(phase)

    # --- called in the last resort's thread -------------------------------------------------------------

    def began(self) -> None:
        """Have the begin noted on the disk (see `Ending`): a kill from now on interrupts jobs, it crashes none."""
        if self.deadline is not None and not self.failed:
            self._mark(min(MARK_S, max(0.05, self.deadline.flush_at - time.monotonic())))

    def waiting(self) -> None:
        """Say how long this process still needs, to what may end it (see `Ending`)."""
        if self.deadline is not None:
            self._hold(self.deadline.ends - time.monotonic())

    def flush(self, *, stuck: list[str]) -> None:
        """Flush all parts and record the report (see `Ending`); nothing where the host failed."""
        if self.failed or self.deadline is None:
            return
        marks = {**self._marks, Phase.FLUSHING.value: time.monotonic()}
        course = Course(self.id, self.reason or "", self.deadline, self._lifecycle.phase, marks, stuck)
        left = [left.id for part in self._parts for left in part.remaining() if not left.waiting]
        try:
            self._flush(
                max(FLUSH_LEAST_S, self.deadline.exit_at - time.monotonic()),
                lambda flushed: self._keep(self._reported(drain_report(course, flushed, time.monotonic(), now_ms()))),
            )
            self._mark_flushed()
        except Exception as error:
            log.exception("drain.flush_failed")
            lost = error.jobs if isinstance(error, StoreLost) else 0
            report = drain_report(course, Flushed(lost=lost), time.monotonic(), now_ms())
            self._reported(replace(report, phase=Phase.FLUSHING.value, flushed=False, unflushed=left))
        assert self.report is not None
        log.info("%s", self.report.summary(), extra=self.report.counts())
        for line in stuck:
            log.error("drain.blocked the event loop was blocked at %s", line)
        self._wake(self._flushed.set)

    def _reported(self, report: DrainReport) -> DrainReport:
        self.report = report
        return report

    def _mark_flushed(self) -> None:
        if self._sentinel is not None:
            self._sentinel.flushed()

    def exit_code(self) -> int:
        """0 when everything is back in the queue, else 1; the sentinel is gone then (see `Ending`)."""
        self._close_sentinel(max(0.02, self.deadline.ends - time.monotonic()) if self.deadline else 0.02)
        return 0 if not self.failed and self.report is not None and self.report.whole else 1

    def _close_sentinel(self, within_s: float = 0.5) -> None:
        with self._ending:
            sentinel, self._sentinel = self._sentinel, None
        if sentinel is not None:
            sentinel.close(within_s)

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
