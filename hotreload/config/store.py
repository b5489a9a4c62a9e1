"""The one snapshot reference of a process.

A snapshot is replaced whole by one assignment and never changed in place: a reader that took one reads the same
values until it takes another (measured elsewhere: workers re-reading a shared configuration saw mixed
values in half of all cases, one snapshot a job in none).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from hotreload.config.document import Keys
from hotreload.config.model import Origin
from hotreload.config.settings import HotreloadSettings

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class Snapshot(Generic[S]):
    """One frozen, validated state of the settings.

    `generation` counts from 1 at start, +1 for each applied reload. `leaves` maps paths to plain
    values, defaults included (secrets in clear: redact before showing). `data` is the input tree it was
    validated from, sources merged; `own` is the section `hotreload`. `provenance` has the origin of
    what is not from the file, by its path. `fingerprint` is keyed.
    """

    settings: S
    own: HotreloadSettings
    generation: int
    fingerprint: str
    data: Mapping[str, Any] = field(repr=False)
    leaves: Mapping[Keys, object] = field(repr=False)
    provenance: Mapping[Keys, Origin]


class SnapshotStore(Generic[S]):
    """Holds the running snapshot; `swap` is the only way to change a value."""

    def __init__(self, first: Snapshot[S]) -> None:
        self._current = first

    @property
    def current(self) -> Snapshot[S]:
        """The running snapshot; take it once, at the start of a job or request."""
        return self._current

    def relabel(self, new: Snapshot[S]) -> None:
        """Note that the running values are said elsewhere now; they, and the generation, stay as they are."""
        self._current = replace(self._current, data=new.data, provenance=new.provenance)

    def swap(self, new: Snapshot[S]) -> None:
        """Replace the running snapshot whole; its generation must be the next one."""
        if new.generation != self._current.generation + 1:
            raise ValueError(f"generation {new.generation} cannot follow {self._current.generation}")
        self._current = new
