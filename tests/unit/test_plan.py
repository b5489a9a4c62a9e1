"""The plan is the difference in meaning, path by path; pinning puts back in an input what ran."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hotreload.config.document import Keys
from hotreload.config.fields import Effect, FieldRule
from hotreload.config.trees import ABSENT, assign, copied, find, pin
from hotreload.reload.plan import FOLLOWS, Difference, Plan, differences, make_plan, narrowed, same
from hotreload.reload.report import Change, PendingRestart

EFFECTS = {"l": Effect.LIVE, "r": Effect.RESTART, "x": Effect.REFUSED}
NAMES = st.text("lrx", min_size=1, max_size=2)
VALUES = st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from([0.0, 1.0, 2.5, "a", "b"])
JSON = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2))
LEAVES = st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map(tuple), JSON, max_size=6)
TREES = st.dictionaries(
    NAMES, st.recursive(VALUES, lambda inner: st.dictionaries(NAMES, inner, max_size=3), max_leaves=6), max_size=4
)


def rule(path: Keys) -> FieldRule:
    last = str(path[-1])
    return FieldRule(path, EFFECTS[last[0]], secret=last.endswith("s"), reason="because" if path == ("r",) else None)


def show(path: str, value: object, known: FieldRule) -> object:
    return "hidden" if known.secret else value


def keyed(leaves: Mapping[str, object]) -> dict[Keys, object]:
    return {tuple(path.split(".")): value for path, value in leaves.items()}


def plan(running: Mapping[str, object], candidate: Mapping[str, object]) -> Plan:
    found = differences(keyed(running), keyed(candidate))
    waiting = [each for each in found if rule(each.keys).effect is Effect.RESTART]
    changed = [each for each in found if each not in waiting]
    return make_plan(changed, waiting, rule, show, lambda path: f"owner of {path[-1]}")


def test_each_difference_goes_where_its_rule_says() -> None:
    made = plan({"a.l": 1, "r": 1, "r2": 1, "x": 1, "same": 1}, {"a.l": 2, "r": 2, "r2": 2, "x": 2, "same": 1})
    assert made.changes == (
        Change("a.l", 1, 2, Effect.LIVE, "owner of l"),
        Change("x", 1, 2, Effect.REFUSED, "owner of x"),
    )
    assert made.pending_restart == (
        PendingRestart("r", 1, 2, "because"),
        PendingRestart("r2", 1, 2, "needs a restart"),
    )
    assert made.pinned == (("r",), ("r2",))
    assert made.live == (("a", "l"),)
    assert [problem.path for problem in made.refused] == ["x"]


def test_values_are_shown_redacted_and_owners_may_be_unknown() -> None:
    made = make_plan([Difference(("ls",), 1, 2)], [Difference(("l",), 3, 4)], rule, show)
    assert made.changes == (Change("ls", "hidden", "hidden", Effect.LIVE, None),)
    assert made.pending_restart == (PendingRestart("l", 3, 4, FOLLOWS),)


def test_a_spelling_is_no_change() -> None:
    assert plan({"l": 4, "r": {"a": 1, "b": [1]}}, {"l": 4.0, "r": {"b": [1.0], "a": 1}}) == Plan()
    assert plan({"l": 1}, {"l": True}) != Plan()
    assert differences({("l",): None}, {}, missing=None) == []
    assert differences({("l",): None}, {}) == [Difference(("l",), None, None)]


def test_a_key_with_a_dot_is_one_key() -> None:
    assert differences({("a.l",): 1}, {("a", "l"): 1}) == [
        Difference(("a",), None, {"l": 1}),
        Difference(("a.l",), 1, None),
    ]


def test_a_section_appears_and_vanishes_whole() -> None:
    absent, present = {"l": None, "x": 0}, {"l.a": 1, "l.b": 2, "x": 0}
    assert [(c.path, c.old, c.new) for c in plan(absent, present).changes] == [("l", None, {"a": 1, "b": 2})]
    assert plan(present, absent).live == (("l",),)


def test_a_list_of_another_length_is_one_difference() -> None:
    one = {("l", 0, "a"): 1, ("l", 1, "a"): 2}
    assert differences(one, {("l", 0, "a"): 3, ("l", 1, "a"): 2}) == [Difference(("l", 0, "a"), 1, 3)]
    assert differences(one, {("l", 0, "a"): 2}) == [Difference(("l",), [{"a": 1}, {"a": 2}], [{"a": 2}])]
    assert differences(one, {("l",): []}) == [Difference(("l",), [{"a": 1}, {"a": 2}], [])]
    assert differences({("l", "b"): 1}, {("l", 0, "a"): 1}) == [Difference(("l",), {"b": 1}, [{"a": 1}])]


def test_of_a_long_value_only_what_differs_is_shown() -> None:
    many = {f"t{n}": {"n": n} for n in range(1000)}
    assert narrowed(many, {**many, "t7": {"n": 8}}) == ({"t7": {"n": 7}}, {"t7": {"n": 8}})
    numbers = list(range(1000))
    assert narrowed(numbers, [*numbers[:999], 5, 6]) == ({"999": 999, "1000": None}, {"999": 5, "1000": 6})
    assert narrowed([1], [2]) == ([1], [2])


@given(LEAVES, LEAVES)
def test_differences_are_none_only_between_equals_and_turn_round(
    one: dict[Keys, object], other: dict[Keys, object]
) -> None:
    assert differences(one, dict(one)) == []
    there, back = differences(one, other), differences(other, one)
    assert [(each.keys, each.old, each.new) for each in there] == [(each.keys, each.new, each.old) for each in back]
    paths = [each.keys for each in there]
    assert len(paths) == len(set(paths))
    assert not any(path[:count] in paths for path in paths for count in range(len(path)))


@given(JSON, JSON)
def test_same_is_an_equality(one: object, other: object) -> None:
    assert same(one, one)
    assert same(one, other) == same(other, one)
    if same(one, other):
        assert one == other


def shape(tree: dict[str, Any], above: Keys = ()) -> list[Keys]:
    inner = [((*above, key), value) for key, value in tree.items()]
    return [path for path, _ in inner] + [
        deeper for path, value in inner if isinstance(value, dict) for deeper in shape(value, path)
    ]


@given(TREES, TREES, st.data())
def test_pinning_puts_back_what_ran_and_nothing_else(
    new: dict[str, Any], old: dict[str, Any], data: st.DataObject
) -> None:
    paths = data.draw(st.lists(st.sampled_from([*shape(new), *shape(old), ("lll", "rrr")]), max_size=3))
    before = repr(old)
    pinned = copied(new)
    for path in paths:
        pin(pinned, old, None, path)
    assert repr(old) == before
    for path in paths:
        assert find(pinned, None, path) == find(old, None, path)
    untouched = [key for key in new if not any(path[0] == key for path in paths)]
    assert all(pinned[key] == new[key] for key in untouched)
    again = copied(pinned)
    for path in paths:
        pin(again, old, None, path)
    assert again == pinned


def pinned(new: dict[str, Any], old: dict[str, Any], *path: str | int) -> dict[str, Any]:
    pin(new, old, None, path)
    return new


def test_pinning_removes_what_did_not_run_and_the_section_it_empties() -> None:
    assert pinned({"r": {"a": 1, "b": 2}}, {}, "r", "a") == {"r": {"b": 2}}
    assert pinned({"r": {"a": 1}}, {}, "r", "a") == {}
    assert pinned({"r": {"a": 1}}, {"r": {}}, "r", "a") == {"r": {}}
    assert pinned({}, {"r": {"a": 1, "b": 2}}, "r", "a") == {"r": {"a": 1}}
    assert pinned({"r": {"a": 1}}, {"r": None}, "r") == {"r": None}
    assert pinned({"l": 1}, {}, "r", "a") == {"l": 1}
    assert pinned({"l": [{"a": 1}, 2]}, {"l": [{"a": 3}, 4]}, "l", 0, "a") == {"l": [{"a": 3}, 2]}


def test_values_are_set_in_place_where_they_can_be() -> None:
    tree: dict[str, Any] = {"a": {"b": 1}, "c": 2, "n": None}
    assert assign(tree, None, ("a", "d"), 3)
    assert assign(tree, None, ("n", "m"), 4)
    assert assign(tree, None, ("list", 0, "k"), 5)
    assert not assign(tree, None, ("c", "e"), 6)
    assert assign(tree, None, ("a", "b"), ABSENT)
    assert tree == {"a": {"d": 3}, "c": 2, "n": {"m": 4}, "list": [{"k": 5}]}


def test_two_values_that_are_not_a_number_are_the_same() -> None:
    assert same(float("nan"), float("nan"))
    assert not same(float("nan"), float("inf"))
