"""How a limit is divided: never more than it, fairly, whatever the order in which nodes come, go, ask and begin."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hotreload.queue.fleet import Ask, Grant
from hotreload.queue.postgres.permits import Share, fair, grant

NAMES = ("a", "b", "c", "d")
WANTS = st.dictionaries(st.sampled_from(NAMES), st.integers(0, 40), min_size=1)


@given(st.integers(0, 60), WANTS, st.integers(0, 9))
def test_a_division_is_whole_wanted_and_even(whole: int, wants: dict[str, int], turn: int) -> None:
    parts = fair(whole, wants, turn)
    assert sum(parts.values()) == min(whole, sum(wants.values()))
    assert all(0 <= parts[name] <= wants[name] for name in wants)
    least = [parts[name] for name in wants if parts[name] < wants[name]]
    assert not least or max(parts.values()) - min(least) <= 1


def test_what_is_left_over_goes_round() -> None:
    given_to = [fair(1, {"a": 9, "b": 1, "c": 9}, turn) for turn in range(3)]
    assert [max(parts, key=lambda name: parts[name]) for parts in given_to] == ["a", "b", "c"]


def test_one_that_alone_has_work_has_the_whole_limit() -> None:
    idle = [Share("b", 0, 0, 16), Share("c", 0, 0, 16)]
    assert grant(Ask("l", 16, 0, 40), "a", idle) == Grant(16, 16, short=False)


def test_what_others_hold_is_waited_for() -> None:
    assert grant(Ask("l", 16, 0, 16), "a", [Share("b", 16, 16, 16)]) == Grant(0, 0, short=True)
    assert grant(Ask("l", 16, 16, 16), "b", [Share("a", 0, 16, 16)]) == Grant(16, 8, short=False)


def test_the_lowest_value_holds_and_nothing_begins_while_more_is_held() -> None:
    assert grant(Ask("l", 16, 8, 16), "a", [Share("b", 8, 16, 4)]) == Grant(8, 0, short=True)


def test_what_an_ended_node_held_counts_and_its_value_does_not() -> None:
    assert grant(Ask("l", 16, 0, 16), "a", [Share("b", 6)]) == Grant(10, 10, short=False)


@dataclass
class Node:
    """What one process knows; `jobs` are those that have begun."""

    value: int = 8
    jobs: int = 0
    usable: int = 0
    wants: int = 0
    asked: Ask | None = None


@dataclass
class Table:
    """What the store holds: each node's permits, wants and value."""

    rows: dict[str, Share] = field(default_factory=dict[str, Share])


class Fleet(RuleBasedStateMachine):
    """Nodes that ask, begin and end jobs, change their value and die, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()
        self.nodes = {name: Node() for name in NAMES[:3]}
        self.lowered = False

    @rule(name=st.sampled_from(NAMES[:3]), wants=st.integers(0, 12))
    def asks(self, name: str, wants: int) -> None:
        node = self.nodes[name]
        node.wants = max(node.jobs, wants)
        node.usable = min(node.usable, node.wants)
        node.asked = Ask("l", node.value, max(node.jobs, node.usable), node.wants)

    @rule(name=st.sampled_from(NAMES[:3]), turn=st.integers(0, 3))
    def is_answered(self, name: str, turn: int) -> None:
        node = self.nodes[name]
        if node.asked is None:
            return
        ask, node.asked = node.asked, None
        others = [share for owner, share in self.table.rows.items() if owner != name]
        got = grant(ask, name, others, turn)
        self.table.rows[name] = Share(name, got.permits, ask.wants, ask.value)
        node.usable = min(node.usable, got.usable) if node.value != ask.value else got.usable

    @rule(name=st.sampled_from(NAMES[:3]))
    def begins(self, name: str) -> None:
        node = self.nodes[name]
        if node.jobs < node.usable:
            node.jobs += 1

    @rule(name=st.sampled_from(NAMES[:3]))
    def ends(self, name: str) -> None:
        node = self.nodes[name]
        node.jobs = max(0, node.jobs - 1)

    @rule(name=st.sampled_from(NAMES[:3]))
    def dies_and_is_taken_over(self, name: str) -> None:
        self.nodes[name] = Node(value=self.nodes[name].value)
        self.table.rows.pop(name, None)

    @precondition(lambda self: not self.lowered)
    @rule(value=st.integers(0, 8))
    def all_are_lowered(self, value: int) -> None:
        self.lowered = True
        for node in self.nodes.values():
            node.value, node.usable = value, min(node.usable, node.jobs)

    @invariant()
    def no_more_jobs_than_permits(self) -> None:
        for name, node in self.nodes.items():
            held = self.table.rows[name].permits if name in self.table.rows else 0
            assert node.jobs <= max(held, node.usable)
            assert node.usable <= held

    @invariant()
    def never_above_the_limit(self) -> None:
        assert sum(node.jobs for node in self.nodes.values()) <= 8


TestFleet = Fleet.TestCase
