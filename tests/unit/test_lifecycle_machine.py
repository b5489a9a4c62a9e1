"""The phases against a small model, over any order of wishes; HOTRELOAD_EXAMPLES says how many runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hotreload.lifecycle import IllegalMove, Lifecycle, Phase
from tests.counts import counted

WAY = ("starting", "running", "quiescing", "grace", "interrupting", "flushing", "stopped")
LEAPS = {"starting": {"quiescing"}, "quiescing": {"interrupting", "flushing"}, "grace": {"flushing"}}


class LifecycleMachine(RuleBasedStateMachine):
    """The model is a place on the way, and where one may leap from there."""

    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.lifecycle = Lifecycle()
        self.heard: list[list[Phase]] = []
        self.entered: list[Phase] = []
        self.place = 0

    @rule()
    def listen(self) -> None:
        heard = list(self.entered)
        self.heard.append(heard)
        self.lifecycle.listen(heard.append)

    @rule(to=st.sampled_from(Phase))
    def move(self, to: Phase) -> None:
        here = WAY[self.place]
        allowed = WAY.index(to) == self.place + 1 or to in LEAPS.get(here, set())
        try:
            self.lifecycle.move(to)
        except IllegalMove:
            assert not allowed
        else:
            assert allowed
            self.place = WAY.index(to)
            self.entered.append(to)

    @invariant()
    def agrees(self) -> None:
        LifecycleMachine.steps += 1
        assert self.lifecycle.phase == WAY[self.place]
        assert self.lifecycle.draining == (self.place >= WAY.index("quiescing"))
        assert all(heard == self.entered for heard in self.heard)


class TestLifecycleMachine(LifecycleMachine.TestCase):
    """Runs it, and prints how far it went."""

    settings = settings(max_examples=counted("EXAMPLES", 100), stateful_step_count=40, deadline=None)

    @pytest.fixture(autouse=True)
    def told(self, figures: Callable[[str], None]) -> Iterator[None]:
        yield
        assert LifecycleMachine.steps > 1_000
        figures(f"{LifecycleMachine.steps:,} steps agreed with the model")
