"""One reload, read from the top: load → validate → plan → apply → report."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from hotreload.config.document import Document
from hotreload.config.secrets import Redactor, secrets_in
from hotreload.config.sources import Beside
from hotreload.config.store import Snapshot, SnapshotStore
from hotreload.errors import ConfigError, Problem
from hotreload.reload.apply import (
    Limits,
    PartFailed,
    Ready,
    Reloadable,
    commit,
    owner_of,
    prepare,
    retire,
    undo,
    warnings_of,
)
from hotreload.reload.load import REST_S, Inputs, Reader, with_lines
from hotreload.reload.plan import Plan
from hotreload.reload.reading import Version
from hotreload.reload.report import Converging, Outcome, PendingRestart, ReloadReport, Trigger
from hotreload.reload.validate import Resolved, Source, build_candidate, resolve

log = logging.getLogger(__name__)


def _nobody_asks(_versions: Mapping[Path, Version]) -> None:
    """Tell nothing."""


@dataclass(frozen=True, slots=True)
class Flow:
    """What every reload of a process works on. `parts` take part in the order given.

    `taken` is told which versions of the files a reload has read, `warnings` what is to be said whatever the file says.
    """

    source: Source[Any]
    snapshots: SnapshotStore[Any]
    parts: Sequence[Reloadable]
    redactor: Redactor
    converging: Callable[[], Sequence[Converging]] = tuple
    taken: Callable[[Mapping[Path, Version]], None] = _nobody_asks
    warnings: Callable[[], Sequence[Problem]] = tuple
    reader: Reader = field(default_factory=Reader)
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Draft:
    """A file that is to be checked and stands nowhere yet: its name and its bytes.

    Without `expands` its variables stay as they are written: a caller from elsewhere must not read this process's.
    """

    name: str
    raw: bytes = field(repr=False)
    expands: bool = True


Confirm = Callable[[ReloadReport], Awaitable[str | None]]
"""Asked once everything is prepared and nothing is applied, with what is so far known (`valid`).

None applies it; a text says why not, and all that was prepared is undone. No other reload is served meanwhile.
"""


@dataclass(slots=True)
class Attempt:
    """One reload under way; `pending_restart` is what was pending before it, until its own plan is made.

    Afterwards `committed` has the parts that run on the new settings and what they replaced (see `retire`),
    `not_undone` those that could not take their change back, each with the reason.
    """

    flow: Flow
    id: str
    trigger: Trigger
    dry_run: bool
    pending_restart: tuple[PendingRestart, ...]
    draft: Draft | None = None
    confirm: Confirm | None = None
    document: Document | None = None
    committed: Sequence[Ready] = ()
    not_undone: Sequence[tuple[str, str]] = ()
    _began: float = field(default_factory=time.perf_counter)
    _timings: dict[str, float] = field(default_factory=dict[str, float])
    _warnings: tuple[Problem, ...] = ()
    _plan: Plan = field(default_factory=Plan)
    _raw: bytes = b""
    _before: Snapshot[Any] = field(init=False)

    def __post_init__(self) -> None:
        self._before = self.flow.snapshots.current

    async def run(self) -> ReloadReport:
        """Reload and return the verdict. Cancelled, it undoes what it prepared; nothing is applied."""
        try:
            judged = await self._judged()
        except ConfigError as error:
            return self.report(Outcome.REJECTED, error.problems)
        self._timings.update(judged.timings)
        self._warnings = (*self.flow.warnings(), *judged.warnings)
        self._plan, new = judged.resolved.plan, judged.resolved.snapshot
        if new is None:
            if self.dry_run:  # a reload that is refused leaves what was pending; here the plan is asked for
                self.pending_restart = self._plan.pending_restart
            return self.report(Outcome.REJECTED, judged.resolved.errors)
        self.pending_restart = self._plan.pending_restart
        if self.dry_run:
            return self.report(Outcome.VALID)
        self.flow.redactor.remember(judged.secrets, generation=new.generation)
        if not self._plan.live:
            if (refused := await self._confirmed(())) is not None:
                return refused
            self.flow.snapshots.relabel(new)
            return self.report(Outcome.UNCHANGED)
        return await self._apply(new)

    async def _judged(self) -> _Judged:
        """Load, validate and plan, in one call of a thread: validators are the user's, and a large file takes time."""
        source, draft, made = self.flow.source, self.draft, list[_Judged]()
        path = source.path if draft is None else source.path.with_name(draft.name)

        def judge(document: Document, inputs: Inputs) -> None:
            loaded = {"load": (time.perf_counter() - self._began) * 1000}
            made.append(_judge(self.flow, document, inputs.beside, self._before, loaded))

        inputs = await self.flow.reader.settled(
            [path, *source.files_beside()],
            given=None if draft is None else draft.raw,
            environ=None if draft is None or draft.expands else {},
            dialect=source.dialect,
            absent_s=REST_S,
            then=judge,
        )
        if not self.dry_run:
            self.flow.taken(inputs.versions)
        self._raw = inputs.raw
        self.document = inputs.document
        return made[0]

    async def _apply(self, new: Snapshot[Any]) -> ReloadReport:
        try:
            with self._stage("prepare"):
                ready = await prepare(
                    self.flow.parts,
                    self._before.settings,
                    new.settings,
                    self._plan.live,
                    new.generation,
                    self.flow.limits,
                )
            told = chain.from_iterable(warnings_of(each.prepared) for each in ready)
            self._warnings = (*self._warnings, *told)
            if (refused := await self._confirmed(ready)) is not None:
                return refused
            with self._stage("commit"):
                await commit(ready, lambda: self.flow.snapshots.swap(new))
        except PartFailed as failure:
            log.error("reload.part_failed id=%s part=%s", self.id, failure.part, exc_info=failure.__cause__)
            return self.report(Outcome.ROLLED_BACK, self._told(failure))
        self.committed = ready
        return self.report(Outcome.APPLIED)  # nothing is awaited between the swap and this verdict

    async def _confirmed(self, ready: Sequence[Ready]) -> ReloadReport | None:
        """Return None where what is prepared may be applied; else undo it, also where the question is cancelled."""
        if self.confirm is None:
            return None
        try:
            reason = await self.confirm(self.report(Outcome.VALID))
        except BaseException:
            await undo(ready)
            raise
        if reason is None:
            return None
        scrub = self.flow.redactor.scrub
        self.not_undone = [(left.part, scrub(left.reason)) for left in await undo(ready)]
        left = [Problem("", f"{part}: {reason}") for part, reason in self.not_undone]
        return self.report(Outcome.ROLLED_BACK, [Problem("", reason, hint="nothing was applied here"), *left])

    def _told(self, failure: PartFailed) -> list[Problem]:
        scrub = self.flow.redactor.scrub
        self.not_undone = [(left.part, scrub(left.reason)) for left in failure.not_undone]
        if not self.not_undone:
            return [Problem("", scrub(str(failure)), hint="everything is as it was; the log has the details")]
        hint = "it may not be as it was; the log has the details"
        left = [Problem("", f"{part}: {reason}", hint=hint) for part, reason in self.not_undone]
        return [Problem("", scrub(str(failure))), *left]

    async def retire(self) -> None:
        """End what this reload replaced, once its verdict is out; what goes wrong is logged."""
        for line in await retire(self.committed):
            log.warning("reload.not_retired id=%s %s", self.id, self.flow.redactor.scrub(line))

    def report(self, outcome: Outcome, errors: Sequence[Problem] = ()) -> ReloadReport:
        """Return the verdict as things are now."""
        now = self.flow.snapshots.current
        return ReloadReport(
            id=self.id,
            outcome=outcome,
            dry_run=self.dry_run,
            trigger=self.trigger,
            generation=now.generation,
            previous_generation=self._before.generation,
            fingerprint=now.fingerprint,
            changes=self._plan.changes,
            pending_restart=self.pending_restart,
            errors=with_lines(errors, self._file_name, self._raw, self.flow.redactor.scrub),
            warnings=self._warnings,
            converging=tuple(self.flow.converging()),
            timings_ms={**self._timings, "total": (time.perf_counter() - self._began) * 1000},
        )

    @property
    def _file_name(self) -> str:
        return self.draft.name if self.draft else self.flow.source.path.name

    def _stage(self, name: str) -> AbstractContextManager[None]:
        return _stage(self._timings, name)


@dataclass(slots=True)
class _Judged:
    """What is known of a file once it is valid."""

    resolved: Resolved[Any]
    secrets: frozenset[str]
    warnings: tuple[Problem, ...]
    timings: dict[str, float]


def _judge(flow: Flow, document: Document, beside: Beside, before: Snapshot[Any], timings: dict[str, float]) -> _Judged:
    with _stage(timings, "validate"):
        candidate = build_candidate(document, flow.source, beside, before)
    flow.redactor.remember(candidate.secrets)
    with _stage(timings, "plan"):
        owner = partial(owner_of, parts=flow.parts)
        resolved = resolve(candidate, before, flow.source, flow.redactor, owner)
    found = candidate.secrets
    if resolved.snapshot is not None and resolved.snapshot.leaves is not candidate.leaves:
        found = secrets_in(resolved.snapshot.leaves, flow.source.rule)
        flow.redactor.remember(found)
    return _Judged(resolved, found, candidate.warnings, timings)


@contextmanager
def _stage(timings: dict[str, float], name: str) -> Generator[None]:
    began = time.perf_counter()
    try:
        yield
    finally:
        timings[name] = (time.perf_counter() - began) * 1000
