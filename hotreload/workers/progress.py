"""PURE: what a checkpoint keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

MARK: Final = "#"
"""`pages#3/lines` is the loop `lines` inside the item 3 of the loop `pages`."""


@dataclass(slots=True)
class Progress:
    """The cursor, how far each `resume` loop came, the results of finished steps; `version` is that of the cursor."""

    version: int = 1
    cursor: Any = None
    positions: dict[str, int] = field(default_factory=dict[str, int])
    steps: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def stored(cls, value: Any, steps: Mapping[str, tuple[int, Any]]) -> Progress:
        """Read it back from a job's row and the (version, result) of its steps; those of another version are left."""
        version = value.get("version", 1)
        done = {name: result for name, (of_version, result) in steps.items() if of_version == version}
        return cls(version, value["cursor"], dict(value["positions"]), done)

    def at(self, cursor: Any, places: Mapping[str, int]) -> Progress:
        """Return the progress of a checkpoint: a new cursor, and how far loops are.

        What was kept of loops inside an item that is passed by now is dropped.
        """
        positions = {**self.positions, **places}
        if positions:
            positions = {loop: at for loop, at in positions.items() if not _passed(loop, positions)}
        return Progress(self.version, cursor, positions, self.steps)

    def to_json(self, cursor: Any) -> dict[str, Any]:
        """Return it as a JSON value, with the cursor as one and without the steps: each of those is kept by itself."""
        return {"version": self.version, "cursor": cursor, "positions": self.positions}


class Places:
    """Where the `resume` loops of one run are: those it is in, outermost first, and those it came to the end of."""

    def __init__(self) -> None:
        self._inside: tuple[tuple[str, int], ...] = ()
        self._begun: set[str] = set()
        self._ended: dict[str, int] = {}

    def begin(self, loop: str) -> Loop:
        """Enter a loop; ValueError for a name with `#`, or that a loop at this place of this run had already."""
        if MARK in loop:
            raise ValueError(f"{loop!r}: the name of a loop has no {MARK!r}")
        outside = self._inside
        name = f"{outside[-1][0]}{MARK}{outside[-1][1]}/{loop}" if outside else loop
        if name in self._begun:
            raise ValueError(f"two `resume` loops are named {name!r}: give each a name of its own, with loop=…")
        self._begun.add(name)
        return Loop(self, outside, name)

    def now(self) -> dict[str, int]:
        """Return from which item each loop goes on after a checkpoint made now."""
        found = dict(self._ended)
        found.update(self._inside)
        if self._inside:
            name, index = self._inside[-1]
            found[name] = index + 1
        return found

    def move(self, inside: tuple[tuple[str, int], ...]) -> None:
        """Be in these loops from now on."""
        self._inside = inside

    def leave(self, loop: Loop, items: int | None) -> None:
        """Be where `loop` began; `items` is how many it had where it came to its end."""
        if self._inside[: len(loop.here)] == loop.here:
            self._inside = loop.outside
        if items is not None:
            self._ended[loop.name] = items


class Loop:
    """One loop of one run: `outside` are the loops around it, `here` those and itself."""

    def __init__(self, places: Places, outside: tuple[tuple[str, int], ...], name: str) -> None:
        self._places = places
        self.outside = outside
        self.here = outside
        self.name = name

    def item(self, index: int) -> None:
        """Come to an item."""
        self.here = (*self.outside, (self.name, index))
        self._places.move(self.here)

    def leave(self, items: int | None) -> None:
        """End it."""
        self._places.leave(self, items)


def _passed(loop: str, positions: Mapping[str, int]) -> bool:
    """Say whether a loop is inside an item, of a loop around it, that is done."""
    end = -1
    while (end := loop.find(MARK, end + 1)) >= 0:
        item = loop[end + 1 :].split("/", 1)[0]
        if int(item) < positions.get(loop[:end], 0):
            return True
    return False
