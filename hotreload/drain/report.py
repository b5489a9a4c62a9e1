"""What a drain says of itself: kept in the store and readable after the restart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Any, cast

from hotreload.clock import iso
from hotreload.drain.deadline import Deadline
from hotreload.lifecycle import Flushed, Phase


@dataclass(frozen=True, slots=True)
class DrainReport:
    """The verdict on one drain; `elapsed_s` and `overshoot_ms` count from the first request, monotonic.

    `phase` is the last one reached: `stopped` for a drain that went through, `interrupting` or `flushing` for
    one that was cut. Lists hold job ids (see `hotreload.lifecycle.Flushed`); `lost` must be 0. `flushed` is false
    where the flush failed: the `unflushed` are claimed in the store then, and the next start puts them back. `forced`
    is true where the last resort's thread flushed instead of a blocked event loop, `reconstructed` where this report
    was made at the next start.
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

    def summary(self) -> str:
        """Return the drain in one line."""
        counts = ", ".join(f"{count} {what}" for what, count in self.counts().items() if what != "seconds")
        left = "" if self.flushed else f", {len(self.unflushed)} not flushed (the next start puts them back)"
        return f"drained ({self.reason}): {counts}{left}, {self.elapsed_s:.2f} s"

    def counts(self) -> dict[str, float]:
        """Return how many jobs finished, are checkpointed, requeued and lost, and the seconds it took."""
        told = {"finished": len(self.finished), "checkpointed": len(self.checkpointed), "requeued": len(self.requeued)}
        return {**told, "lost": self.lost, "seconds": round(self.elapsed_s, 3)}

    def to_dict(self) -> dict[str, Any]:
        """Return the drain report as JSON values, every key always there."""
        said: dict[str, Any] = {one.name: _plain(getattr(self, one.name)) for one in fields(self)}
        said["elapsed_s"] = round(self.elapsed_s, 3)
        said["overshoot_ms"] = round(self.overshoot_ms, 1)
        said["timings_ms"] = {phase: round(ms, 3) for phase, ms in self.timings_ms.items()}
        return said


def _plain(value: Any) -> Any:
    return list(cast("Sequence[str]", value)) if isinstance(value, (list, tuple)) else value


@dataclass(frozen=True, slots=True)
class Course:
    """How a drain went, as it is about to be flushed: `marks` are the monotonic instants at which phases began.

    `stuck` is the stack of a blocked event loop, empty where it was not blocked.
    """

    id: str
    reason: str
    deadline: Deadline
    phase: Phase
    marks: Mapping[str, float]
    stuck: Sequence[str] = ()


def drain_report(course: Course, flushed: Flushed, now: float, now_ms: int) -> DrainReport:
    """PURE: make the report of a drain whose flush ends at the monotonic instant `now`."""
    deadline = course.deadline
    marks = sorted({Phase.QUIESCING.value: deadline.started, **course.marks, "end": now}.items(), key=lambda m: m[1])
    return DrainReport(
        id=course.id,
        reason=course.reason,
        deadline_s=deadline.total_s,
        elapsed_s=now - deadline.started,
        phase=(course.phase if course.stuck else Phase.STOPPED).value,
        finished=flushed.finished,
        failed=flushed.failed,
        checkpointed=flushed.checkpointed,
        requeued=flushed.requeued,
        abandoned=flushed.abandoned,
        lost=flushed.lost,
        overshoot_ms=max(0.0, (now - deadline.ends) * 1000),
        timings_ms={phase: (later - at) * 1000 for (phase, at), (_, later) in pairwise(marks)},
        stuck=[*course.stuck, *flushed.stuck],
        forced=bool(course.stuck),
        ended_at=iso(now_ms),
    )
