"""trigger → load → validate → plan → apply → report: one reload at a time, one verdict for all who asked."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from dataclasses import replace

import anyio

from hotreload.config.document import Document
from hotreload.errors import Problem
from hotreload.lifecycle import Lifecycle
from hotreload.reload.attempt import Attempt, Confirm, Draft, Flow
from hotreload.reload.bounded import Step
from hotreload.reload.report import Outcome, PendingRestart, ReloadReport, Trigger

log = logging.getLogger(__name__)


class Ticket:
    """A reload asked for. Several callers may hold the same; leaving it does not stop the reload."""

    def __init__(
        self,
        ticket_id: str,
        trigger: Trigger,
        *,
        dry_run: bool,
        if_match: int | None,
        draft: Draft | None = None,
        confirm: Confirm | None = None,
    ) -> None:
        self.id = ticket_id
        self.trigger = trigger
        self.dry_run = dry_run
        self.if_match = if_match
        self.draft = draft
        self.confirm = confirm
        self.report: ReloadReport | None = None
        self._done = anyio.Event()

    def finish(self, report: ReloadReport) -> None:
        """Give everyone who waits the verdict."""
        self.report = report
        self._done.set()

    async def wait(self) -> ReloadReport:
        """Return the verdict; may be cancelled and called again."""
        await self._done.wait()
        assert self.report is not None
        return self.report


class ReloadCoordinator:
    """Serves requests for reloads: at most one runs and one of each kind waits, and later callers share it.

    `began` and `heard` are called around each reload that is not a dry run, `heard` before its callers wake, with
    the file as it was read. An applied reload is told of at its swap; what it replaced is retired afterwards.
    """

    def __init__(
        self,
        flow: Flow,
        lifecycle: Lifecycle,
        *,
        began: Callable[[Ticket], None],
        heard: Callable[[ReloadReport, Document | None], None],
        pending_restart: tuple[PendingRestart, ...] = (),
    ) -> None:
        self._flow = flow
        self._lifecycle = lifecycle
        self._began = began
        self._heard = heard
        self._waiting: dict[tuple[bool, int | None, Draft | None, Confirm | None], Ticket] = {}
        self._asked = anyio.Event()
        self._running: Ticket | None = None
        self._closed = False
        self._serving: anyio.CancelScope | None = None  # made in `run`: a coordinator may be made before its loop is
        self._ended: anyio.Event | None = None
        self._not_undone: dict[str, str] = {}
        self._applied: ReloadReport | None = None
        self.pending_restart = pending_restart

    def submit(
        self,
        trigger: Trigger,
        *,
        dry_run: bool = False,
        if_match: int | None = None,
        draft: Draft | None = None,
        confirm: Confirm | None = None,
        ticket_id: str | None = None,
    ) -> Ticket:
        """Ask for a reload and return its ticket; never waits.

        A request joins the waiting reload of its kind, which will read the file after this call: the verdict is
        on content at least as new as the request. `ticket_id` names a new ticket, not one that is joined. A `draft`
        is checked instead of the file, always as a dry run. With `confirm` the reload is prepared, and applied only
        where that allows it (see `Confirm`); it is not called where the file is refused, and in no dry run.
        """
        dry_run = dry_run or draft is not None
        kind = (dry_run, if_match, draft, confirm)
        ticket = self._waiting.get(kind)
        if ticket is None:
            ticket = Ticket(
                ticket_id or uuid.uuid4().hex,
                trigger,
                dry_run=dry_run,
                if_match=if_match,
                draft=draft,
                confirm=confirm,
            )
            if self._closed:
                ticket.finish(self._refusal(ticket) or self._ended_report(ticket))
            else:
                self._waiting[kind] = ticket
                self._asked.set()
        return ticket

    async def run(self) -> None:
        """Serve tickets, oldest first, until closed or cancelled; no caller is left asleep then."""
        self._ended = anyio.Event()
        try:
            with anyio.CancelScope() as self._serving:
                if not self._closed:
                    await self._serve_all()
        finally:
            try:
                self._refuse_all()
            finally:
                self._ended.set()

    async def close(self, within_s: float) -> None:
        """Cut the reload that runs and give everybody who waits a verdict; a second call does nothing.

        What was prepared is undone; that is not waited for longer than `within_s` seconds.
        """
        if self._serving is not None:
            self._serving.cancel()
        with anyio.move_on_after(within_s, shield=True):
            if self._ended is not None:
                await self._ended.wait()
        self._refuse_all()

    async def _serve_all(self) -> None:
        while True:
            while self._waiting:
                self._running = self._waiting.pop(next(iter(self._waiting)))
                await self._serve(self._running)
            self._asked = anyio.Event()
            await self._asked.wait()

    def _refuse_all(self) -> None:
        self._closed = True
        left = [ticket for ticket in (self._running, *self._waiting.values()) if ticket is not None]
        self._waiting.clear()
        for ticket in left:
            if ticket.report is None:
                self._conclude(ticket, self._ended_report(ticket), None)

    async def _serve(self, ticket: Ticket) -> None:
        attempt = self._new_attempt(ticket)
        report = self._refusal(ticket) or await self._run(attempt, ticket)
        if ticket.report is None:  # else it was cut, and its callers were told
            self._conclude(ticket, report, attempt.document)
        if attempt.committed:
            Step(attempt.retire)

    def _conclude(self, ticket: Ticket, report: ReloadReport, document: Document | None) -> None:
        """Tell all the same: the log, the listeners of reloads, the callers that wait."""
        good = report.outcome in (Outcome.APPLIED, Outcome.UNCHANGED, Outcome.VALID)
        log.log(
            logging.INFO if good else logging.ERROR,
            "reload.%s id=%s trigger=%s generation=%d%s",
            report.outcome.value,
            report.id,
            report.trigger.kind.value,
            report.generation,
            report.detail(),
        )
        if not ticket.dry_run:
            self._heard(report, document)
        ticket.finish(report)

    async def _run(self, attempt: Attempt, ticket: Ticket) -> ReloadReport:
        if not ticket.dry_run:
            self._began(ticket)
        try:
            report = await attempt.run()
        except Exception as error:
            log.exception("reload.defect id=%s", ticket.id)
            report = attempt.report(Outcome.ROLLED_BACK, [Problem("", f"defect in a reload: {type(error).__name__}")])
        if report.outcome is Outcome.APPLIED:
            self._applied = report
        elif report.outcome is Outcome.UNCHANGED:
            report = replace(report, in_force=self._applied)
        for part in attempt.committed:
            self._not_undone.pop(part.part, None)
        for part, reason in attempt.not_undone:
            self._not_undone[part] = reason
        if not ticket.dry_run:
            self.pending_restart = report.pending_restart
        return report

    @property
    def impaired(self) -> str | None:
        """Which parts could not take back a change, each until a reload that it takes part in is applied."""
        if not self._not_undone:
            return None
        return f"a reload could not be taken back in {'; '.join(map(': '.join, self._not_undone.items()))}"

    def _refusal(self, ticket: Ticket) -> ReloadReport | None:
        """Refuse by state: draining (`errors[0].path` is `phase`) or the generation moved on (`generation`)."""
        if self._lifecycle.draining:
            return self._ended_report(ticket)
        generation = self._flow.snapshots.current.generation
        if ticket.if_match is None or ticket.if_match == generation:
            return None
        moved = Problem("generation", f"If-Match asks for generation {ticket.if_match}, {generation} is running")
        return self._new_attempt(ticket).report(Outcome.REFUSED, [moved])

    def _ended_report(self, ticket: Ticket) -> ReloadReport:
        draining = Problem("phase", "the service is draining", hint="the file is read again at the next start")
        return self._new_attempt(ticket).report(Outcome.REFUSED, [draining])

    def _new_attempt(self, ticket: Ticket) -> Attempt:
        return Attempt(
            self._flow, ticket.id, ticket.trigger, ticket.dry_run, self.pending_restart, ticket.draft, ticket.confirm
        )
