"""One monotonic deadline from the first request; every phase lives inside it.

requested ├──── grace ────┤── interrupt ──┤── flush and leave (reserve) ──┤ ends
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """What a drain may take, in seconds: `grace_s` None is derived, `leave_s` is needed to leave after the flush."""

    deadline_s: float
    grace_s: float | None = None
    leave_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Deadline:
    """Instants on the monotonic clock, in seconds: `started` ≤ `grace_ends` ≤ `flush_at` ≤ `ends`.

    Nothing but flushing and leaving happens after `flush_at`: the reserve between it and `ends` is protected.
    """

    started: float
    grace_ends: float
    flush_at: float
    ends: float

    @classmethod
    def starting(cls, started: float, budget: Budget) -> Deadline:
        """Divide the budget: a tenth (0.25 to 2 s) to flush and `leave_s` to leave, a fifth (up to 5 s) to interrupt,
        the rest is grace.

        A `grace_s` of the operator's shortens the grace, or lengthens it at the cost of the time to interrupt, of
        which a fifth of a second stays. A deadline too short for all of it keeps the reserve first.
        """
        total_s = budget.deadline_s
        ends = started + total_s
        flush_at = ends - min(min(max(total_s * 0.1, 0.25), 2.0) + budget.leave_s, total_s * 0.8)
        if budget.grace_s is None:
            grace_ends = flush_at - min(max(total_s * 0.2, 0.25), 5.0)
        else:
            grace_ends = min(started + budget.grace_s, flush_at - 0.2)
        return cls(started=started, grace_ends=max(started, grace_ends), flush_at=flush_at, ends=ends)

    @property
    def exit_at(self) -> float:
        """When the process is ended that did not leave: before `ends`, as busy threads may be slow to let it go."""
        return self.ends - (self.ends - self.flush_at) * 0.3

    @property
    def total_s(self) -> float:
        """Seconds from the first request to the end."""
        return self.ends - self.started
