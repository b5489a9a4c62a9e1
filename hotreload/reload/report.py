"""What a reload says of itself: frozen records, one `to_dict` at the edge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from hotreload.clock import iso
from hotreload.config.fields import Effect
from hotreload.errors import Problem

LISTED: Final = 10
"""Of more changes only so many are in a line, and how many more there are."""
LONGEST: Final = 80
"""Characters of a value in a line."""


class Outcome(StrEnum):
    """How a reload ended."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    VALID = "valid"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"
    REFUSED = "refused"


class TriggerKind(StrEnum):
    """Where a request for a reload came from."""

    SIGNAL = "signal"
    FILE = "file"
    HTTP = "http"
    CLI = "cli"


@dataclass(frozen=True, slots=True)
class Trigger:
    """Who asked and when; `principal` is as exact as the system tells (`pid 812 uid 0`, `root key`)."""

    kind: TriggerKind
    principal: str
    at_ms: int

    def to_dict(self) -> dict[str, Any]:
        """Return the `trigger` object of a report."""
        return {"kind": self.kind.value, "principal": self.principal, "at": iso(self.at_ms)}


@dataclass(frozen=True, slots=True)
class Change:
    """One leaf that differs; `old` and `new` are redacted already; `owner` names the part that applies it."""

    path: str
    old: object
    new: object
    effect: Effect
    owner: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return one entry of `changes`."""
        return {"path": self.path, "old": self.old, "new": self.new, "effect": self.effect.value, "owner": self.owner}


@dataclass(frozen=True, slots=True)
class PendingRestart:
    """A restart field whose value on disk is not the running one; values are redacted already."""

    path: str
    running: object
    on_disk: object
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Return one entry of `pending_restart`."""
        return {"path": self.path, "running": self.running, "on_disk": self.on_disk, "reason": self.reason}


@dataclass(frozen=True, slots=True)
class Converging:
    """A pool that still runs more jobs than its new limit; in every report for as long as it is so."""

    owner: str
    limit: int
    running: int

    def to_dict(self) -> dict[str, Any]:
        """Return one entry of `converging`."""
        return {"owner": self.owner, "limit": self.limit, "running": self.running}


@dataclass(frozen=True, slots=True)
class ReloadReport:
    """The one verdict on one reload: the same id, outcome and generation wherever it is shown.

    `timings_ms` has `load, validate, plan, prepare, commit, total`; a stage that did not run is absent.
    `fingerprint` and `generation` are those in force afterwards. Of an unchanged one `in_force` is the reload that
    made that generation, where this process made it: often the watch took the file before a person asked.
    """

    id: str
    outcome: Outcome
    dry_run: bool
    trigger: Trigger
    generation: int
    previous_generation: int
    fingerprint: str
    changes: tuple[Change, ...] = ()
    pending_restart: tuple[PendingRestart, ...] = ()
    errors: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    converging: tuple[Converging, ...] = ()
    timings_ms: Mapping[str, float] = field(default_factory=dict[str, float])
    in_force: ReloadReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the reload report as JSON values, every key always there."""
        return {
            "id": self.id,
            "outcome": self.outcome.value,
            "dry_run": self.dry_run,
            "trigger": self.trigger.to_dict(),
            "generation": self.generation,
            "previous_generation": self.previous_generation,
            "fingerprint": self.fingerprint,
            "changes": [change.to_dict() for change in self.changes],
            "pending_restart": [pending.to_dict() for pending in self.pending_restart],
            "errors": [problem_to_dict(error) for error in self.errors],
            "warnings": [problem_to_dict(warning) for warning in self.warnings],
            "converging": [converging.to_dict() for converging in self.converging],
            "timings_ms": {stage: round(ms, 3) for stage, ms in self.timings_ms.items()},
            "in_force": None if self.in_force is None else self.in_force.made(),
        }

    def made(self) -> dict[str, Any]:
        """Return what an unchanged reload says of the one that made the generation in force."""
        changes = [change.to_dict() for change in self.changes]
        return {"id": self.id, "generation": self.generation, "trigger": self.trigger.to_dict(), "changes": changes}

    def summary(self) -> str:
        """Return one line a person can read: outcome, id, generation and the first reason."""
        return f"reload {self.outcome.value} (id {self.id}), generation {self.generation}{self.detail()}"

    def detail(self) -> str:
        """Return what a summary says after the generation: the first reason, or the changes, and what is pending."""
        text = ""
        if self.errors:
            text = f": {self.errors[0]}"
        elif self.outcome in (Outcome.APPLIED, Outcome.VALID) and self.changes:
            told = [f"{each.path} {_cut(each.old)} → {_cut(each.new)}" for each in self.changes[:LISTED]]
            text = f": {_listed(told, len(self.changes))}"
        if self.pending_restart:
            paths = [pending.path for pending in self.pending_restart[:LISTED]]
            text += f"; pending restart: {_listed(paths, len(self.pending_restart))}"
        return text


def _listed(texts: Sequence[str], count: int) -> str:
    more = count - len(texts)
    return ", ".join(texts) + (f" and {more:,} more" if more else "")


def _cut(value: object) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def problem_to_dict(problem: Problem) -> dict[str, Any]:
    """Return a problem as an entry of `errors` or `warnings`, keys without a value left out."""
    keys = ("path", "file", "line", "column", "message", "input", "hint", "source")
    return {key: value for key in keys if (value := getattr(problem, key)) is not None}
