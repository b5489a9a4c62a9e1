"""What a drain says of itself: kept in the store and readable after the restart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class DrainReport:
    """The verdict on one drain; `elapsed_s` and `overshoot_ms` count from the first request, monotonic.

    `phase` is the last one reached: `stopped` for a drain that went through, `interrupting` or `flushing` for
    one that was cut. Lists hold job ids (see `hotreload.lifecycle.Flushed`); `lost` must be 0. `flushed` is false
    where the flush failed: the `unflushed` are claimed in the store then, and the next start puts them back. `forced`
    is true where the process ended itself from the watchdog thread, `reconstructed` where this report was made at the
    next start.
    """

    id: str
    reason: str
    deadline_s: float
    elapsed_s: float
    phase: str
    finished: Sequence[str] = ()
    failed: Sequence[str] = ()
    checkpointed: Sequence[str] = ()
    requeued: Sequence[str] = ()
    abandoned: Sequence[str] = ()
    flushed: bool = True
    unflushed: Sequence[str] = ()
    lost: int = 0
    overshoot_ms: float = 0.0
    timings_ms: Mapping[str, float] = field(default_factory=dict[str, float])
    stuck: Sequence[str] = ()
    forced: bool = False
    reconstructed: bool = False
    ended_at: str | None = None

    @property
    def whole(self) -> bool:
        """True where everything that did not finish is back in the queue."""
        return self.flushed and not self.lost

    def to_dict(self) -> dict[str, Any]:
        """Return the drain report as JSON values, every key always there."""
        return {
            "id": self.id,
            "reason": self.reason,
            "deadline_s": self.deadline_s,
            "elapsed_s": round(self.elapsed_s, 3),
            "phase": self.phase,
            "finished": list(self.finished),
            "failed": list(self.failed),
            "checkpointed": list(self.checkpointed),
            "requeued": list(self.requeued),
            "abandoned": list(self.abandoned),
            "flushed": self.flushed,
            "unflushed": list(self.unflushed),
            "lost": self.lost,
            "overshoot_ms": round(self.overshoot_ms, 1),
            "timings_ms": {phase: round(ms, 3) for phase, ms in self.timings_ms.items()},
            "stuck": list(self.stuck),
            "forced": self.forced,
            "reconstructed": self.reconstructed,
            "ended_at": self.ended_at,
        }
