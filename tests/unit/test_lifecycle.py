"""The phases of a process: the drawing is the only way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotreload.drain.deadline import Budget, Deadline
from hotreload.lifecycle import MOVES, ORDER, IllegalMove, Lifecycle, Phase


@given(st.lists(st.sampled_from(Phase)))
def test_only_drawn_moves_are_made_and_a_drain_never_goes_back(wanted: list[Phase]) -> None:
    lifecycle = Lifecycle()
    entered: list[Phase] = []
    lifecycle.listen(entered.append)
    for phase in wanted:
        before = lifecycle.phase
        if phase in MOVES[before]:
            lifecycle.move(phase)
        else:
            with pytest.raises(IllegalMove, match=f"{before} → {phase}"):
                lifecycle.move(phase)
            assert lifecycle.phase is before
    assert entered == sorted(entered, key=ORDER.index)
    assert lifecycle.draining == (lifecycle.phase not in (Phase.STARTING, Phase.RUNNING))


def test_every_phase_of_a_drain_leads_to_the_end() -> None:
    for phase in Phase:
        reached, frontier = {phase}, {phase}
        while frontier:
            frontier = {to for one in frontier for to in MOVES[one]} - reached
            reached |= frontier
        assert Phase.STOPPED in reached


seconds = st.floats(0.05, 86_400, allow_nan=False)


@given(deadline_s=seconds, grace_s=st.none() | seconds, leave_s=st.floats(0, 5), started=st.floats(0, 1e6))
def test_every_phase_lives_inside_the_deadline(
    deadline_s: float, grace_s: float | None, leave_s: float, started: float
) -> None:
    deadline = Deadline.starting(started, Budget(deadline_s, grace_s, leave_s))
    assert started <= deadline.grace_ends
    assert deadline.flush_at < deadline.ends
    assert deadline.grace_ends <= max(deadline.flush_at, started)
    assert deadline.ends - deadline.flush_at >= min(0.25, deadline_s * 0.5)
    assert deadline.total_s == pytest.approx(deadline_s, abs=1e-6)


def test_the_usual_deadline_is_mostly_grace() -> None:
    deadline = Deadline.starting(0, Budget(25))
    assert (deadline.grace_ends, deadline.flush_at, deadline.ends) == (18, 23, 25)


def test_what_leaving_needs_comes_out_of_the_grace() -> None:
    plain, leaving = Deadline.starting(0, Budget(10)), Deadline.starting(0, Budget(10, leave_s=1.2))
    assert plain.grace_ends - leaving.grace_ends == pytest.approx(1.2)
