"""What a search for missing work found and did, as it goes on and when it has ended; its size is bounded."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from hotreload.config.secrets import mask_text

LISTED: Final = 10_000
"""Entries named in a report; more are counted only."""
FOLDERS: Final = 1_000
REST: Final = "(other folders)"
RANGES: Final = 10_000


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a search is asked for: below `uri` (None: everywhere), to queue its finds with `repair`.

    `retry` makes the dead jobs of missing work ready again; `per_s` bounds the entries looked at in a second.
    `account` limits it to one, where there are several.
    """

    uri: str | None = None
    repair: bool = True
    retry: bool = False
    per_s: float | None = None
    account: str | None = None

    def covers(self, entry: str) -> bool:
        """Say whether an entry is asked for: `uri` itself, with or without a slash at its end, or anything in it."""
        if self.uri is None:
            return True
        top = self.uri.rstrip("/")
        return entry == top or entry.startswith(f"{top}/")


@dataclass(frozen=True, slots=True)
class Making:
    """How far the work is that a search found: jobs `left` and `done`, and those that `failed`, by id and reason."""

    left: int
    done: int
    failed: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        failed = [{"id": entry, "error": error} for entry, error in self.failed.items()]
        return {"left": self.left, "done": self.done, "failed": failed}


@dataclass(slots=True)
class Findings:
    """What one search found; complete once `ended` is set.

    `missing` are the entries no job makes, with their reasons; `already_queued` counts those that are being made or
    wait for it; `dead` those of `missing` whose job failed for good and was left so; `refused` those that could not
    be queued, with the reason. `zombies` are tasks nothing works on, which a repair ends. `error` says why a search
    did not come to its end, `unknown` that what it was asked about does not exist.
    """

    id: str
    wanted: Wanted
    scrub: Callable[[str], str] = mask_text
    began: float = field(default_factory=time.monotonic)
    scanned: int = 0
    queued: int = 0
    already_queued: int = 0
    dead: int = 0
    passed_over: dict[str, str] = field(default_factory=dict[str, str])
    passed_over_count: int = 0
    refused: dict[str, str] = field(default_factory=dict[str, str])
    refused_count: int = 0
    zombies: dict[str, str] = field(default_factory=dict[str, str])
    zombies_count: int = 0
    missing: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    reasons: Counter[str] = field(default_factory=Counter[str])
    folders: Counter[str] = field(default_factory=Counter[str])
    jobs: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Ranges of the ids of the jobs that make what was found."""
    error: str | None = None
    unknown: bool = False
    ended: bool = False
    elapsed_s: float = 0.0

    def miss(self, entry: str, reason: str) -> None:
        """Note an entry that is missing and that no job makes."""
        if len(self.missing) < LISTED:
            self.missing.append((entry, reason))
        self.reasons[reason] += 1
        folder = entry.rpartition("/")[0] or "."
        self.folders[folder if folder in self.folders or len(self.folders) < FOLDERS else REST] += 1

    def pass_over(self, entry: str, reason: str) -> None:
        """Note an entry that cannot be looked at."""
        self.passed_over_count += 1
        if len(self.passed_over) < LISTED:
            self.passed_over[entry] = self.scrub(reason)

    def refuse(self, entry: str, reason: str) -> None:
        """Note a missing entry that could not be queued."""
        self.refused_count += 1
        if len(self.refused) < LISTED:
            self.refused[entry] = reason

    def bury(self, task: str, what: str) -> None:
        """Note a task nothing works on, and what it was about."""
        self.zombies_count += 1
        if len(self.zombies) < LISTED:
            self.zombies[task] = what

    def made_by(self, ids: Iterable[str]) -> None:
        """Note the jobs that make what was found; neighbours share a range, and the last one takes what is too much."""
        for number in sorted(map(int, ids)):
            first, last = self.jobs[-1] if self.jobs else (0, -1)
            if first <= number <= last + 1 or (len(self.jobs) >= RANGES and number > last):
                self.jobs[-1] = (first, max(last, number))
            elif len(self.jobs) < RANGES:
                self.jobs.append((number, number))

    def end(self, error: str | None = None) -> None:
        """Close the report."""
        self.error = error
        self.elapsed_s = time.monotonic() - self.began
        self.ended = True

    def summary(self) -> dict[str, Any]:
        """Return the figures alone, as JSON values."""
        elapsed_s = self.elapsed_s if self.ended else time.monotonic() - self.began
        return {
            "id": self.id,
            "uri": self.wanted.uri,
            "dry_run": not self.wanted.repair,
            "scanned": self.scanned,
            "missing": self.reasons.total(),
            "reasons": dict(self.reasons),
            "queued": self.queued,
            "already_queued": self.already_queued,
            "dead": self.dead,
            "passed_over": self.passed_over_count,
            "refused": self.refused_count,
            "zombies": self.zombies_count,
            "ended": self.ended,
            "error": self.error,
            "elapsed_s": round(elapsed_s, 3),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; of each list the first 10,000, with its whole length beside it."""
        return self.summary() | {
            "missing": [{"id": entry, "reason": reason} for entry, reason in self.missing],
            "missing_count": self.reasons.total(),
            "folders": dict(self.folders.most_common()),
            "passed_over": _listed(self.passed_over),
            "passed_over_count": self.passed_over_count,
            "refused": _listed(self.refused),
            "refused_count": self.refused_count,
            "zombies": _listed(self.zombies),
            "zombies_count": self.zombies_count,
        }

    def line(self) -> str:
        """Return the figures in one line, for people."""
        looked = f"{self.scanned} scanned, {self.reasons.total()} missing"
        return f"{looked}, {self.queued} queued, {self.already_queued} already queued"


def _listed(reasons: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"id": entry, "reason": reason} for entry, reason in reasons.items()]
