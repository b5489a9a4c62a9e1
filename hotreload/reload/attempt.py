"""One reload, read from the top: load → validate → plan → apply → report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hotreload.config.document import Document, parse
from hotreload.config.redact import Redactor
from hotreload.config.sources import Beside
from hotreload.config.store import Snapshot, SnapshotStore
from hotreload.errors import ConfigError, Problem
from hotreload.reload.apply import PartFailed, Ready, Reloadable, commit, owner_of, prepare, retire
from hotreload.reload.beside import contents, load_beside
from hotreload.reload.load import SETTLE_S, Reading, load, read_in_thread
from hotreload.reload.plan import Plan
from hotreload.reload.report import Converging, Outcome, PendingRestart, ReloadReport, Trigger
from hotreload.reload.validate import Source, build_candidate, pinned_snapshot, plan_for

log = logging.getLogger(__name__)


def _nobody_asks(_versions: Mapping[Path, tuple[object, ...]]) -> None:
    """Tell nobody."""


@dataclass(frozen=True, slots=True)
class Flow:
    """What every reload of a process works on. `parts` take part in the order given.

    `taken` is told which version of the file a reload has read, `warnings` what is to be said whatever the file says.
    """

    source: Source[Any]
    snapshots: SnapshotStore[Any]
    parts: Sequence[Reloadable]
    redactor: Redactor
    converging: Callable[[], Sequence[Converging]] = tuple
    taken: Callable[[Mapping[Path, tuple[object, ...]]], None] = _nobody_asks
    warnings: Callable[[], Sequence[Problem]] = tuple


@dataclass(frozen=True, slots=True)
class Draft:
    """A file that is to be checked and stands nowhere yet: its name and its bytes."""

    name: str
    raw: bytes = field(repr=False)


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
    document: Document | None = None
    committed: Sequence[Ready] = ()
    not_undone: Sequence[tuple[str, str]] = ()
    _began: float = field(default_factory=time.perf_counter)
    _timings: dict[str, float] = field(default_factory=dict[str, float])
    _warnings: tuple[Problem, ...] = ()
    _plan: Plan = field(default_factory=Plan)
    _reading: Reading | None = None
    _before: Snapshot[Any] = field(init=False)

    def __post_init__(self) -> None:
        self._before = self.flow.snapshots.current

    async def run(self) -> ReloadReport:
        """Reload and return the verdict. Cancelled, it undoes what it prepared; nothing is applied."""
        try:
            with self._stage("load"):
                document = self.document = await self._load()
                beside = await self._load_beside()
            with self._stage("validate"):
                candidate = build_candidate(document, self.flow.source, beside)
            self.flow.redactor.learn(candidate.leaves, self.flow.source.rule)
            self._warnings = (*self.flow.warnings(), *candidate.warnings)
            with self._stage("plan"):
                self._plan = plan_for(candidate, self._before, self.flow.source, self.flow.redactor, self._owner)
                if self.dry_run:  # a reload that is refused leaves what was pending; here the plan is asked for
                    self.pending_restart = self._plan.pending_restart
                new = pinned_snapshot(candidate, self._before, self._plan, self.flow.source, self.flow.redactor)
            self.flow.redactor.learn(new.leaves, self.flow.source.rule, generation=new.generation)
        except ConfigError as error:
            return self.report(Outcome.REJECTED, error.problems)
        self.pending_restart = self._plan.pending_restart
        if self.dry_run:
            return self.report(Outcome.VALID)
        if not self._plan.live:
            self.flow.snapshots.relabel(new.provenance)
            return self.report(Outcome.UNCHANGED)
        return await self._apply(new)

    async def _load(self) -> Document:
        source = self.flow.source
        if self.draft is not None:
            return parse(source.path.with_name(self.draft.name), self.draft.raw, duplicates=source.duplicates)
        try:
            return await load(
                source.path, duplicates=source.duplicates, absent_s=SETTLE_S, twice=False, read=self._read
            )
        finally:
            if not self.dry_run and self._reading is not None and not self._reading.absent:
                self.flow.taken({source.path: self._reading.version})

    async def _load_beside(self) -> Beside:
        readings = await load_beside(self.flow.source.files_beside(), twice=False)
        if not self.dry_run:
            self.flow.taken({path: reading.version for path, reading in readings.items()})
        return contents(readings)

    async def _read(self, path: Path) -> Reading:
        self._reading = await read_in_thread(path)
        return self._reading

    async def _apply(self, new: Snapshot[Any]) -> ReloadReport:
        try:
            with self._stage("prepare"):
                ready = await prepare(
                    self.flow.parts, self._before.settings, new.settings, self._plan.live, new.generation
                )
            with self._stage("commit"):
                await commit(ready, lambda: self.flow.snapshots.swap(new))
        except PartFailed as failure:
            log.error("reload.part_failed id=%s part=%s", self.id, failure.part, exc_info=failure.__cause__)
            return self.report(Outcome.ROLLED_BACK, self._told(failure))
        self.committed = ready
        return self.report(Outcome.APPLIED)  # nothing is awaited between the swap and this verdict

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
            errors=tuple(errors),
            warnings=self._warnings,
            converging=tuple(self.flow.converging()),
            timings_ms={**self._timings, "total": (time.perf_counter() - self._began) * 1000},
        )

    def _owner(self, path: str) -> str | None:
        return owner_of(path, self.flow.parts)

    @contextmanager
    def _stage(self, name: str) -> Generator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._timings[name] = (time.perf_counter() - began) * 1000
