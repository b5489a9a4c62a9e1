"""The plan is the difference in meaning, field by field; pinning puts running values back."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hotreload.config.fields import Effect, FieldRule
from hotreload.reload.plan import Plan, make_plan, pin, same, with_values
from hotreload.reload.report import Change, PendingRestart

EFFECTS = {"l": Effect.LIVE, "r": Effect.RESTART, "x": Effect.REFUSED}
NAMES = st.text("lrx", min_size=1, max_size=2)
VALUES = st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from([0.0, 1.0, 2.5, "a", "b"])
JSON = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2))
LEAVES = st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map(".".join), JSON, max_size=6)
TREES = st.dictionaries(
    NAMES, st.recursive(VALUES, lambda inner: st.dictionaries(NAMES, inner, max_size=3), max_leaves=6), max_size=4
)


def rule(path: str) -> FieldRule:
    return FieldRule(path, EFFECTS[path[0]], secret=path.endswith("l"), reason="because" if path == "r" else None)


def show(path: str, value: object, known: FieldRule) -> object:
    return "hidden" if known.secret else value


def plan(running: dict[str, object], candidate: dict[str, object]) -> Plan:
    return make_plan(running, candidate, rule, show, lambda path: f"owner of {path}")


def test_each_difference_goes_where_its_rule_says() -> None:
    made = plan({"l.a": 1, "r": 1, "r2": 1, "x": 1, "same": 1}, {"l.a": 2, "r": 2, "r2": 2, "x": 2, "same": 1})
    assert made.changes == (
        Change("l.a", 1, 2, Effect.LIVE, "owner of l.a"),
        Change("x", 1, 2, Effect.REFUSED, "owner of x"),
    )
    assert made.pending_restart == (
        PendingRestart("r", 1, 2, "because"),
        PendingRestart("r2", 1, 2, "needs a restart"),
    )
    assert made.pinned == ("r", "r2")
    assert made.live == ("l.a",)
    assert [problem.path for problem in made.refused] == ["x"]


def test_values_are_shown_redacted_and_owners_may_be_unknown() -> None:
    made = make_plan({"l": 1}, {"l": 2}, rule, show)
    assert made.changes == (Change("l", "hidden", "hidden", Effect.LIVE, None),)


def test_a_spelling_is_no_change() -> None:
    assert plan({"l": 4, "r": {"a": 1, "b": [1]}}, {"l": 4.0, "r": {"b": [1.0], "a": 1}}) == Plan()
    assert plan({"l": 1}, {"l": True}) != Plan()
    assert plan({"l": None}, {}) == Plan()


def test_a_section_appears_and_vanishes_whole() -> None:
    absent, present = {"l": None, "x": 0}, {"l.a": 1, "l.b": 2, "x": 0}
    assert [(c.path, c.old, c.new) for c in make_plan(absent, present, rule, lambda _p, v, _r: v).changes] == [
        ("l", None, {"a": 1, "b": 2})
    ]
    assert plan(present, absent).live == ("l",)


@given(LEAVES, LEAVES)
def test_a_plan_is_empty_only_between_equals_and_turns_round(one: dict[str, object], other: dict[str, object]) -> None:
    assert plan(one, dict(one)) == Plan()
    there, back = plan(one, other), plan(other, one)
    assert [c.path for c in there.changes] == [c.path for c in back.changes]
    assert there.pinned == back.pinned
    assert [(c.old, c.new) for c in there.changes] == [(c.new, c.old) for c in back.changes]
    paths = [*(c.path for c in there.changes), *there.pinned]
    assert len(paths) == len(set(paths))
    assert sorted(there.live) == list(there.live)


@given(JSON, JSON)
def test_same_is_an_equality(one: object, other: object) -> None:
    assert same(one, one)
    assert same(one, other) == same(other, one)
    if same(one, other):
        assert one == other


def get(tree: Any, path: str) -> Any:
    for key in path.split("."):
        if not isinstance(tree, dict) or key not in tree:
            return "absent"
        tree = tree[key]
    return tree


def shape(tree: dict[str, Any], above: str = "") -> list[str]:
    inner = [(f"{above}{key}", value) for key, value in tree.items()]
    return [path for path, _ in inner] + [
        deeper for path, value in inner if isinstance(value, dict) for deeper in shape(value, f"{path}.")
    ]


@given(TREES, TREES, st.data())
def test_pinning_puts_back_what_ran_and_nothing_else(
    new: dict[str, Any], old: dict[str, Any], data: st.DataObject
) -> None:
    paths = data.draw(st.lists(st.sampled_from([*shape(new), *shape(old), "lll.rrr"]), max_size=3))
    before = repr((new, old))
    pinned = pin(new, old, paths)
    assert repr((new, old)) == before
    for path in paths:
        assert get(pinned, path) == get(old, path)
    untouched = [path for path in new if not any(p == path or p.startswith(f"{path}.") for p in paths)]
    assert all(pinned[path] == new[path] for path in untouched)
    assert pin(pinned, old, paths) == pinned


def test_pinning_removes_what_did_not_run_and_the_section_it_empties() -> None:
    assert pin({"r": {"a": 1, "b": 2}}, {}, ["r.a"]) == {"r": {"b": 2}}
    assert pin({"r": {"a": 1}}, {}, ["r.a"]) == {}
    assert pin({"r": {"a": 1}}, {"r": {}}, ["r.a"]) == {"r": {}}
    assert pin({}, {"r": {"a": 1, "b": 2}}, ["r.a"]) == {"r": {"a": 1}}
    assert pin({"r": {"a": 1}}, {"r": None}, ["r"]) == {"r": None}
    assert pin({"l": 1}, {}, ["r.a"]) == {"l": 1}


def test_values_are_laid_into_a_copy() -> None:
    tree = {"a": {"b": 1}, "c": 2}
    assert with_values(tree, {"a.d": 3, "c.e": 4}) == {"a": {"b": 1, "d": 3}, "c": {"e": 4}}
    assert tree == {"a": {"b": 1}, "c": 2}
