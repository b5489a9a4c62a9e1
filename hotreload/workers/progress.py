"""PURE: what a checkpoint keeps."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(slots=True)
class Progress:
    """The cursor, how far each `resume` loop came, the results of finished steps; `version` is that of the cursor."""

    version: int = 1
    cursor: Any = None
    positions: dict[str, int] = field(default_factory=dict[str, int])
    steps: dict[str, Any] = field(default_factory=dict[str, Any])

    @classmethod
    def stored(cls, value: Any) -> Progress:
        """Read it back from a job's row."""
        return cls(value.get("version", 1), value["cursor"], dict(value["positions"]), dict(value["steps"]))

    def at(self, cursor: Any, place: tuple[str, int] | None) -> Progress:
        """Return the progress of a checkpoint: a new cursor, and the place in the current loop."""
        positions = {**self.positions, place[0]: place[1]} if place else self.positions
        return replace(self, cursor=cursor, positions=positions)

    def with_step(self, name: str, result: Any) -> Progress:
        """Return the progress with a finished step."""
        return replace(self, steps={**self.steps, name: result})

    def to_json(self, cursor: Any) -> dict[str, Any]:
        """Return it as a JSON value, with the cursor as one."""
        return {"version": self.version, "cursor": cursor, "positions": self.positions, "steps": self.steps}
