"""One running process, as callers meet it. The same under our own services and under stock OpenViking.

SIGHUP, file, POST, CLI ──→ ReloadCoordinator ──→ the parts that are Reloadable
SIGTERM, SIGINT, POST, CLI ──→ DrainCoordinator ──→ the parts that are Drainable
"""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
from anyio.abc import TaskGroup
from anyio.streams.memory import MemoryObjectReceiveStream

from hotreload import early, logs
from hotreload.admin.control import Jobs
from hotreload.admin.feed import Feed
from hotreload.admin.metrics import Metrics
from hotreload.clock import iso, now_ms
from hotreload.config.document import Document
from hotreload.config.settings import HotreloadSettings
from hotreload.drain.coordinator import DrainCoordinator
from hotreload.drain.deadline import Budget
from hotreload.drain.last_resort import LastResort
from hotreload.drain.request import TerminationSignals
from hotreload.drain.sentinel import Sentinel
from hotreload.errors import ControlSocketUnsafe
from hotreload.fleet.coordinator import Fleet
from hotreload.host.edges import CUT_S, Edges
from hotreload.host.interrupted import NOTE
from hotreload.host.records import Records
from hotreload.host.start import Started
from hotreload.host.status import config_document, converging, held_back, status_document
from hotreload.host.work import Work
from hotreload.lifecycle import Phase
from hotreload.queue.contract import DrainMark
from hotreload.queue.fleet import Fleet as Shared
from hotreload.recovery.background import BackgroundRecovery
from hotreload.recovery.coordinator import RecoveryCoordinator
from hotreload.reload.attempt import Draft, Flow
from hotreload.reload.coordinator import ReloadCoordinator, Ticket
from hotreload.reload.report import Outcome, ReloadReport, Trigger, TriggerKind
from hotreload.reload.triggers import FileWatch
from hotreload.systemd.listen import handed_over
from hotreload.systemd.status import SystemdStatus
from hotreload.workers.active import JobEnd

log = logging.getLogger(__name__)
TEND_S = 0.5
"""How often it is seen to that stop signals and SIGHUP are heard, and that the drain's sentinel works."""
FIGURES_S = 0.5
"""How often subscribers are told pool and queue figures, or the progress of a drain."""


class Host:
    """One process: both flows over one `Work`. Meets `admin.Control`; a `Lifetime` brings it to life and ends it.

    `guest` says that the process is not ours: its signals are chained, and it is never ended. `closing` is set once
    the server around a guest has served its last request; the flush of a drain waits for it.
    """

    def __init__(
        self, started: Started, work: Work, *, guest: bool = False, closing: anyio.Event | None = None
    ) -> None:
        self.started = started
        self.work = work
        self.guest = guest
        self.closing = closing
        self.started_at = iso(now_ms())
        self.instance = uuid.uuid4().hex[:12]
        self.waiting: Mapping[str, str] = {}
        """Why jobs were left waiting when `until_idle` ended the process, by queue."""
        self.over = anyio.Event()
        """Set when a drain has ended and everything is durable, or the host has failed."""
        self.broken = anyio.Event()
        """Set when a task of this host has failed (`drain.failed`), or all of them were cancelled from outside."""
        self.watch = FileWatch(started.source.files, lambda: self._own, started.seen, started.reader)
        self.records = Records(started.store, keep=lambda: self._own.history)
        self.drain = self._make_drain()
        flow = Flow(
            source=started.source,
            snapshots=started.snapshots,
            parts=work.reloadables,
            redactor=started.redactor,
            converging=lambda: converging([*work.pools(), *work.limits()]),
            taken=self.watch.taken,
            warnings=self.watch.warnings,
            reader=started.reader,
            limits=started.options.limits,
        )
        self.reloads = ReloadCoordinator(flow, started.lifecycle, began=self._began, heard=self._heard)
        self.recovering = BackgroundRecovery(
            work.search,
            lambda: self._own.recovery,
            started.redactor.scrub,
            every_s=lambda: self._own.recovery_every_s,
        )
        self.metrics = Metrics(self.status, loaded=started.degraded is None)
        self.systemd = SystemdStatus(
            started.start_up.notifier,
            generation=lambda: self.generation,
            degraded=lambda: self.degraded,
            drain=self.drain.progress,
            search=lambda: self.recovering.line,
            restarts=work.restarts,
        )
        shared = started.store.fleet if started.store is not None else None
        self.fleet = None if shared is None else self._make_fleet(shared)
        self._feed = Feed()
        handed = [] if guest or work.serving is not None else handed_over()  # else they are the server's beside us
        self._edges = Edges(self, started.name, started.options, started.start_up.notifier, handed)
        self._signals = TerminationSignals(self.drain.signalled, chain=guest)
        self._task_factory: Any = None
        self._hangup: Callable[[], object] = lambda: None
        self._job_has_ended = anyio.Event()
        self._count_recovered()
        started.lifecycle.listen(self._entered)
        if started.store is not None:
            started.store.on_lost(lambda reason: self.drain.request(f"the store is lost: {reason}"))

    def _make_drain(self) -> DrainCoordinator:
        drain_id, store = uuid.uuid4().hex, self.started.store
        sentinel = None
        if self._own.drain_sentinel and not self.guest:
            owner = store.owner if store is not None else ""
            sentinel = Sentinel(self.started.state_dir / NOTE, "id", drain_id, "owner", owner)
        return DrainCoordinator(
            lifecycle=self.started.lifecycle,
            parts=self.work.drainables,
            budget=lambda: Budget(self._own.drain_deadline_s, self._own.drain_grace_s, self.work.leave_s),
            mark=self._mark,
            flush=self.work.flush,
            keep=self.records.drained,
            last_resort=functools.partial(LastResort, exit_process=None if self.guest else os._exit),
            drain_id=drain_id,
            sentinel=sentinel,
            hold=lambda left_s: self.systemd.hold(left_s),  # noqa: PLW0108 - made later, of what the drain says
            closing=self.closing,
        )

    def _make_fleet(self, shared: Shared) -> Fleet:
        return Fleet(
            shared,
            self.reloads,
            status=self.status,
            snapshot=lambda: self.started.snapshots.current,
            folder=self.started.source.path.parent,
            drain=self.start_drain,
            draining=lambda: self.draining,
        )

    def _count_recovered(self) -> None:
        store = self.started.store
        if store is None:
            return
        found, parked = store.recovered, set(store.recovered.parked)
        crashed = [job for job in found.crashed if job not in parked]
        for outcome, ids in (("interrupted", found.interrupted), ("crashed", crashed), ("dead", list(parked))):
            for queue, count in store.queues_of(ids).items():
                self.metrics.observe_job(queue, outcome, count)

    # --- the steps of its life, each taken once, by `Lifetime` -------------------------------------------------

    def guard(self) -> None:
        """Guard the deadline of a drain from now on, and hear the signals that ask for one."""
        self._task_factory = asyncio.get_running_loop().get_task_factory()
        self.drain.start()
        self._signals.install()

    async def run(self, opened: anyio.Event) -> None:
        """Open, set `opened`, and serve until cancelled; raises why it cannot open, or the group of what failed."""
        refused: Exception | None = None
        async with anyio.create_task_group() as tasks:
            try:
                await self._open(tasks)
                opened.set()
                await anyio.sleep_forever()
            except Exception as error:  # noqa: BLE001 - raised below, by itself and not in a group
                refused = error
                tasks.cancel_scope.cancel()
            finally:
                if tasks.cancel_scope.cancel_called:
                    self.drain.fail()
                self.broken.set()
        if refused is not None:
            raise refused

    async def _open(self, tasks: TaskGroup) -> None:
        try:
            await self._edges.open(tasks)
        except (ControlSocketUnsafe, OSError) as error:
            if not self.guest or self.started.options.socket is not None:
                raise
            log.warning("there is no control socket for `hotreload status` and the like: %s", error)
        await self.work.start(tasks, self._job_ended)
        tasks.start_soon(self.reloads.run, name="reloads")
        tasks.start_soon(self._follow_file, name="watch")
        tasks.start_soon(self.systemd.speak, name="systemd status")
        tasks.start_soon(self._publish_figures, name="figures")
        if not self.guest:
            tasks.start_soon(self._tend, name="signals")
        tasks.start_soon(self.recovering.run, name="recovery")
        if self.fleet is not None:
            tasks.start_soon(self.fleet.run, name="fleet")
        self._hangup = functools.partial(asyncio.get_running_loop().call_soon_threadsafe, self._hung_up)
        if early.take(self._hangup, polite=self.guest):
            self._hung_up()
        tasks.start_soon(self._when_ready, name="ready")
        if self.work.serving is None:
            self._become_ready()

    def _become_ready(self) -> None:
        if not self.started.lifecycle.draining:
            self.started.lifecycle.move(Phase.RUNNING)
            self.started.start_up.end()
            if not self.guest:  # what the start made stays: a search for garbage in all of it took 70 ms of the loop
                gc.freeze()
            self.systemd.ready()

    async def _when_ready(self) -> None:
        for why in held_back(self.work).values():
            log.warning("%s", why)
        if self.work.serving is not None:
            await self.work.serving.wait()
            self._become_ready()
        await self.recovering.after_start()
        if self.started.options.until_idle:
            await self._leave_when_idle()

    async def close_edges(self) -> None:
        """Give those who wait for a verdict theirs, end the event streams, then serve no more."""
        await self.reloads.close(CUT_S)
        self._feed.close()
        await self._edges.close(self.leaves_by)

    @property
    def leaves_by(self) -> float:
        """Until when connections may be served at the end of a drain: half of what is kept after the flush stays."""
        deadline = self.drain.deadline
        assert deadline is not None
        return (deadline.flush_at + deadline.exit_at - self.work.leave_s) / 2

    async def close_work(self) -> None:
        """End what jobs share, inside the deadline."""
        await self.work.close(self.drain.left_s)

    async def close_store(self) -> None:
        """Give the store back; after a defect with the rows of running jobs as they are."""
        await self.started.close(crashed=self.drain.failed)

    def leave(self, reason: str, *, at_once: bool) -> None:
        """Drain now: the code around this host has ended, or with `at_once` was cancelled or failed."""
        self.drain.request(reason, at_once=at_once)
        if self.closing is not None:
            self.closing.set()

    def release(self, *, last: bool) -> None:
        """Let go of signals and of what guards the deadline. With `last` the process ends next: `exit` lets go then."""
        early.release(self._hangup) if self.guest else early.ignore()
        self._signals.release(last=last)
        asyncio.get_running_loop().set_task_factory(self._task_factory)
        if not last:
            self.drain.release()

    @property
    def default_signal(self) -> int | None:
        """The signal that would have ended this process by its default action, had a guest not heard it."""
        return self._signals.defaulted

    # --- what callers ask: `admin.Control` ----------------------------------------------------------------------

    @property
    def generation(self) -> int:
        """The generation in force."""
        return self.started.snapshots.current.generation

    @property
    def degraded(self) -> str | None:
        """Why the process runs on less than it was given, None where it does not."""
        store = self.started.store
        lacks = (
            *((store.trouble, store.incident) if store is not None else ()),
            self.started.degraded,
            self.reloads.impaired,
            self.work.impaired,
            self.drain.impaired,
        )
        return next((lack for lack in lacks if lack), None)

    @property
    def phase(self) -> Phase:
        """Where the process stands."""
        return self.started.lifecycle.phase

    @property
    def ready(self) -> bool:
        """True from READY to the first moment of a drain."""
        return self.phase is Phase.RUNNING and not self.draining

    @property
    def draining(self) -> bool:
        """True from the request of a drain on, a moment before its first phase."""
        return self.drain.deadline is not None

    @property
    def jobs(self) -> Jobs | None:
        """The queue, for people."""
        return self.work.jobs

    @property
    def searches(self) -> RecoveryCoordinator | None:
        """What looks for missing work; None where the service declares no recovery scan."""
        return self.recovering.searches

    def submit_reload(
        self,
        trigger: Trigger,
        *,
        dry_run: bool = False,
        if_match: int | None = None,
        id: str | None = None,  # noqa: A002 - it is the report's key
    ) -> Ticket:
        """Ask for a reload; never waits."""
        return self.reloads.submit(trigger, dry_run=dry_run, if_match=if_match, ticket_id=id)

    def submit_check(
        self,
        trigger: Trigger,
        name: str,
        raw: bytes,
        *,
        expands: bool = True,
        id: str | None = None,  # noqa: A002 - it is the report's key
    ) -> Ticket:
        """Ask what a reload would do with these bytes in the file's place; never waits."""
        return self.reloads.submit(trigger, draft=Draft(name, raw, expands), ticket_id=id)

    def status(self) -> dict[str, Any]:
        """Return the status document."""
        return status_document(self)

    def config(self) -> dict[str, Any]:
        """Return the effective settings, redacted."""
        return config_document(self)

    def history(self) -> list[dict[str, Any]]:
        """Return the last reload reports, newest first, earlier processes' included."""
        return self.records.reloads

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the configuration file."""
        return self.work.schema()

    def start_drain(self, reason: str, deadline_s: float | None = None) -> dict[str, Any]:
        """Start the drain, or join the one that runs; returns its progress."""
        self.drain.request(reason, deadline_s)
        return self.drain.progress() or {}

    def admin_settings(self) -> HotreloadSettings:
        """Return hotreload's own settings in force."""
        return self._own

    def subscribe(self) -> AbstractAsyncContextManager[MemoryObjectReceiveStream[dict[str, Any]]]:
        """Open a bounded stream of events."""
        return self._feed.subscribe()

    def metrics_text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return self.metrics.text()

    # --- triggers -----------------------------------------------------------------------------------------------

    async def _follow_file(self) -> None:
        path = str(self.started.source.path)
        async for _ in self.watch.changes():
            await self.reloads.submit(Trigger(TriggerKind.FILE, path, now_ms())).wait()

    def _hung_up(self) -> None:
        early.reset()
        self.work.hung_up()
        self.reloads.submit(Trigger(TriggerKind.SIGNAL, "SIGHUP", now_ms()))

    def _job_ended(self, end: JobEnd) -> None:
        self.metrics.observe_end(end)
        self._job_has_ended.set()

    async def _leave_when_idle(self) -> None:
        """Drain once no job can run any more: what is held back does not end by waiting."""
        while any(
            depth.running or ((depth.ready or depth.scheduled) and depth.name not in held_back(self.work))
            for depth in self.work.queues()
        ):
            self._job_has_ended = anyio.Event()
            with anyio.move_on_after(FIGURES_S):  # what a person discards ends no job
                await self._job_has_ended.wait()
        self.waiting = held_back(self.work)
        for why in self.waiting.values():
            log.error("until-idle: %s", why)
        self.drain.request("idle")

    # --- what the flows tell ------------------------------------------------------------------------------------

    def _began(self, _ticket: Ticket) -> None:
        self.systemd.reloading()

    def _heard(self, report: ReloadReport, document: Document | None) -> None:
        if report.outcome in (Outcome.APPLIED, Outcome.UNCHANGED):
            self.started.degraded = None
        try:
            self._remember(report, document)
        finally:  # READY follows RELOADING whatever fails here, or `systemctl reload` waits for ever
            if report.outcome is not Outcome.REFUSED:
                self.systemd.reloaded(report)
        self._feed.publish("reload", report.to_dict())

    def _remember(self, report: ReloadReport, document: Document | None) -> None:
        if document is not None and report.outcome is Outcome.APPLIED:
            self.records.write_behind(lambda: self.started.last_known_good.keep(document.raw))
        self.started.redactor.release({self.generation, *self.work.generations()})
        self.watch.nudge()
        self.drain.budget_changed()
        if not self.guest:
            logs.set_level(self._own.log_level)
        self.records.keep_reload(report)
        self.metrics.observe_reload(report)
        self.recovering.reloaded()

    def _entered(self, phase: Phase) -> None:
        if phase is Phase.QUIESCING:
            self.started.start_up.end()
            self.recovering.stop()
            self._edges.retire()
            if self.started.store is not None:
                self.started.store.stop_claims()
        self.systemd.entered(phase)
        drain = self.drain.report.to_dict() if phase is Phase.STOPPED and self.drain.report else self.drain.progress()
        self._feed.publish("drain", drain)

    def _mark(self, within_s: float) -> None:
        drain, store = self.drain, self.started.store
        if drain.deadline is not None and store is not None:
            since_ms = store.now_ms() - round((time.monotonic() - drain.deadline.started) * 1000)
            store.mark_draining(within_s, DrainMark(drain.id, drain.reason or "", since_ms, drain.deadline.total_s))

    async def _tend(self) -> None:
        while True:
            await anyio.sleep(TEND_S)
            self.drain.tend()
            self._signals.take_back()
            early.take_back()

    async def _publish_figures(self) -> None:
        while True:
            await anyio.sleep(FIGURES_S)
            if self._feed.wanted:
                drain = self.drain.progress()
                name, data = ("status", self.status()) if drain is None else ("drain", drain)
                self._feed.publish(name, data)

    @property
    def _own(self) -> HotreloadSettings:
        return self.started.snapshots.current.own
