"""One running process. The same under our own services and under stock OpenViking.

SIGHUP, file, POST, CLI ──→ ReloadCoordinator ──→ the parts that are Reloadable
SIGTERM, SIGINT, POST, CLI ──→ DrainCoordinator ──→ the parts that are Drainable
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable

import anyio
from anyio.abc import TaskGroup, TaskStatus

from hotreload import early
from hotreload.clock import now_ms
from hotreload.config.document import Document
from hotreload.config.settings import HotreloadSettings
from hotreload.drain.coordinator import DrainCoordinator
from hotreload.drain.deadline import Budget
from hotreload.drain.report import DrainReport
from hotreload.drain.request import on_termination
from hotreload.drain.sentinel import Sentinel
from hotreload.host import cut
from hotreload.host.control import HostControl
from hotreload.host.documents import converging
from hotreload.host.edges import CUT_S, Edges
from hotreload.host.feed import Feed
from hotreload.host.parts import Parts
from hotreload.host.records import Records
from hotreload.host.recovering import Recovering
from hotreload.host.start import Started
from hotreload.host.voice import Voice
from hotreload.lifecycle import Flushed, Phase
from hotreload.queue.marking import DrainMark
from hotreload.reload.attempt import Flow
from hotreload.reload.coordinator import ReloadCoordinator, Ticket
from hotreload.reload.report import Outcome, ReloadReport, Trigger, TriggerKind
from hotreload.reload.triggers import FileWatch

log = logging.getLogger(__name__)
FIGURES_S = 0.5
"""How often subscribers are told pool and queue figures, or the progress of a drain."""


class Host:
    """Runs one process from READY to the end of its drain; `control` is what callers may ask of it."""

    def __init__(self, started: Started, parts: Parts) -> None:
        self._started = started
        self._parts = parts
        self._lifecycle = started.lifecycle
        self._watch = FileWatch(started.source.files, lambda: self._own, started.seen)
        self._wake: Callable[..., object] = lambda *_call: None
        self._records = Records(started.store, keep=lambda: self._own.history)
        drain_id = uuid.uuid4().hex
        self._drain = DrainCoordinator(
            lifecycle=self._lifecycle,
            parts=parts.drainables,
            budget=self._budget,
            mark=self._mark,
            flush=self._flush,
            wake=lambda call: self._wake(call),  # noqa: PLW0108 - bound when the loop is known
            drain_id=drain_id,
            sentinel=self._sentinel(drain_id) if self._own.drain_sentinel else None,
            hold=lambda left_s: self._voice.hold(left_s),  # noqa: PLW0108 - made below, of what the drain says
        )
        flow = Flow(
            source=started.source,
            snapshots=started.snapshots,
            parts=parts.reloadables,
            redactor=started.redactor,
            converging=lambda: converging([*parts.pools(), *parts.limits()]),
            taken=self._watch.taken,
            warnings=self._watch.warnings,
        )
        self._reload = ReloadCoordinator(flow, self._lifecycle, began=self._began, heard=self._heard)
        self._recovering = Recovering(parts.search, lambda: self._own.recovery, started.redactor.scrub)
        self._feed = Feed()
        notifier, foreign = started.start_up.notifier, parts.serving is not None
        self.control = HostControl(
            started,
            parts,
            reload=self._reload,
            drain=self._drain,
            watch=self._watch.health,
            records=self._records,
            recovering=self._recovering,
            feed=self._feed,
        )
        if parts.met is not None:
            parts.met(self.control)
        self._edges = Edges(self.control, started.name, started.options, notifier, foreign=foreign)
        self._voice = Voice(
            notifier,
            generation=lambda: self.control.generation,
            degraded=lambda: self.control.degraded,
            drain=self._drain.progress,
            search=lambda: self._recovering.line,
            restarts=parts.restarts,
        )
        self._ended = anyio.Event()
        self._lifecycle.listen(self._entered)

    # --- running ----------------------------------------------------------------------------------------------

    async def run(
        self, *, last: bool = False, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> DrainReport:
        """Serve until a drain has ended and return its report; what does not stop even then is fenced.

        The main thread's signals are ours meanwhile; SIGHUP for good: afterwards it is ignored. With `last` SIGTERM
        and SIGINT are as well: the process ends now. Where it fails, or is cancelled, it has the time of a drain to
        stop, then the process is ended; until `leave`.
        """
        self._wake = asyncio.get_running_loop().call_soon_threadsafe
        self._drain.start()
        with on_termination(self._drain.signalled, last=last):
            async with anyio.create_task_group() as tasks:
                try:
                    await self._open(tasks)
                    task_status.started()
                    tasks.start_soon(self._become_ready, name="ready")
                    report = await self._drain.run()
                    self._feed.publish("drain", report.to_dict())
                except BaseException:
                    self._drain.fail()
                    raise
                finally:
                    await self._reload.close(CUT_S)  # whoever waits for a verdict gets it while there is a socket
                    self._feed.close()
                    await self._edges.close()
                    early.ignore()
                    self._records.close()
                if report.abandoned:  # code that does not stop would keep this task group open
                    self._drain.exit_now()
                tasks.cancel_scope.cancel()
        assert self._drain.report is not None
        return self._drain.report

    def leave(self) -> None:
        """The process ends by itself and in time; until this call the drain's deadline is enforced from a thread."""
        self._drain.leave()

    async def _open(self, tasks: TaskGroup) -> None:
        await self._edges.open(tasks)
        await self._parts.start(tasks, self._job_ended)
        tasks.start_soon(self._reload.run, name="reloads")
        tasks.start_soon(self._follow_file, name="watch")
        tasks.start_soon(self._voice.speak, name="voice")
        tasks.start_soon(self._publish_figures, name="figures")
        tasks.start_soon(self._drain.tend, name="sentinel")
        tasks.start_soon(self._recovering.run, name="recovery")
        if early.take(self._heard_hangup):
            self._hung_up()

    async def _become_ready(self) -> None:
        if self._parts.serving is not None:
            await self._parts.serving()
        if self._lifecycle.draining:
            return
        self._lifecycle.move(Phase.RUNNING)
        self._started.start_up.end()
        self._voice.ready()
        await self._recovering.after_start()
        if self._started.options.until_idle:
            await self._leave_when_idle()

    async def _leave_when_idle(self) -> None:
        while any(depth.ready or depth.scheduled or depth.running for depth in self._parts.queues()):
            self._ended = anyio.Event()
            with anyio.move_on_after(FIGURES_S):  # what a person discards ends no job
                await self._ended.wait()
        self._drain.request("idle")

    def _job_ended(self, queue: str, outcome: str) -> None:
        self.control.metrics.observe_job(queue, outcome)
        self._ended.set()

    async def _follow_file(self) -> None:
        path = str(self._started.source.path)
        async for _ in self._watch.changes():
            await self._reload.submit(Trigger(TriggerKind.FILE, path, now_ms())).wait()

    # --- signals: between two bytecodes of the main thread, so they only pass the word on -----------------------

    def _heard_hangup(self) -> None:
        self._wake(self._hung_up)

    def _hung_up(self) -> None:
        for sender in early.reset():
            self._reload.submit(Trigger(TriggerKind.SIGNAL, sender, now_ms()))

    # --- what the flows tell ------------------------------------------------------------------------------------

    def _began(self, _ticket: Ticket) -> None:
        self._voice.reloading()

    def _heard(self, report: ReloadReport, document: Document | None) -> None:
        if report.outcome in (Outcome.APPLIED, Outcome.UNCHANGED):
            self._started.degraded = None
        try:
            self._remember(report, document)
        finally:  # READY follows RELOADING whatever fails here, or `systemctl reload` waits for ever
            if report.outcome is not Outcome.REFUSED:
                self._voice.reloaded(report)
        self._feed.publish("reload", report.to_dict())

    def _remember(self, report: ReloadReport, document: Document | None) -> None:
        if document is not None and report.outcome is Outcome.APPLIED:
            self._records.write_behind(lambda: self._started.last_known_good.keep(document.raw))
        self._started.redactor.release({self._started.snapshots.current.generation, *self._parts.generations()})
        self._watch.nudge()
        self._drain.budget_changed()
        self._records.keep_reload(report)
        self.control.metrics.observe_reload(report)
        self._recovering.heard(report)

    def _entered(self, phase: Phase) -> None:
        if phase is Phase.QUIESCING:
            self._started.start_up.end()
            self._recovering.stop()
            self._started.store.refuse_new()
        self._voice.entered(phase)
        self._feed.publish("drain", self._drain.progress())

    def _sentinel(self, drain_id: str) -> Sentinel:
        return Sentinel(self._started.state_dir / cut.NOTE, "id", drain_id, "owner", self._started.store.owner)

    def _mark(self, within_s: float) -> None:
        drain = self._drain
        if drain.deadline is not None:
            since_ms = now_ms() - round((time.monotonic() - drain.deadline.started) * 1000)
            mark = DrainMark(drain.id, drain.reason or "", since_ms, drain.deadline.total_s)
            self._started.store.mark_draining(within_s, mark)

    def _flush(self, timeout_s: float, report: Callable[[Flushed], DrainReport]) -> None:
        self._parts.flush(timeout_s, lambda flushed: self._records.drained(report(flushed)))

    async def _publish_figures(self) -> None:
        while True:
            await anyio.sleep(FIGURES_S)
            if self._feed.wanted:
                drain = self._drain.progress()
                self._feed.publish("status", self.control.status()) if drain is None else self._feed.publish(
                    "drain", drain
                )

    def _budget(self) -> Budget:
        leave_s = self._parts.leave_s + self._edges.linger_s
        return Budget(self._own.drain_deadline_s, self._own.drain_grace_s, leave_s)

    @property
    def _own(self) -> HotreloadSettings:
        return self._started.snapshots.current.own
