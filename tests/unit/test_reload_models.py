"""No value changes in silence, whatever the model: aliases, unions, containers, factories, validators that move keys.

A model and several versions of its file are drawn. The file is read, started from and reloaded as a process does it.
What the reports say is compared with what happened, found by walking the instances themselves; the effect of a path is
computed from what was drawn, and the offered settings are pydantic's own.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    RootModel,
    ValidationError,
    create_model,
    model_validator,
)

from hotreload.config.document import Keys, dotted
from hotreload.config.fields import Effect, Live, Mark, Refused, Restart
from hotreload.config.secrets import Redactor
from hotreload.config.settings import LiveSettings, SettingsModel
from hotreload.config.store import SnapshotStore
from hotreload.reload.attempt import Attempt, Flow
from hotreload.reload.first import first_candidate
from hotreload.reload.load import Reader
from hotreload.reload.report import Outcome, ReloadReport, Trigger, TriggerKind
from hotreload.reload.validate import Source, first_snapshot
from tests.counts import counted, patience_s

MODELS = counted("MODELS", 60)
MADE = 1000
"""Where the numbers begin that a default factory makes."""
NONE_MADE = 1 << 62
NUMBERS = itertools.count(MADE)
SIGNAL = Trigger(TriggerKind.SIGNAL, "SIGHUP", 0)
MARKS: list[Mark | None] = [None, None, *[Live] * 8, Restart, Refused]
STRICT = [Effect.REFUSED, Effect.RESTART, Effect.LIVE]


@dataclass(frozen=True)
class Drawn:
    """One field as it was drawn: what it holds, its mark, how the file may name it, the sections inside."""

    name: str
    kind: str
    mark: Mark | None
    naming: str
    inside: tuple[tuple[Drawn, ...], ...] = ()
    moved: bool = False
    by_name: bool = False

    @property
    def key(self) -> str:
        return {"alias": f"{self.name}Alias", "dotted": f"{self.name}.key"}.get(self.naming, self.name)

    @property
    def places(self) -> list[Keys]:
        known: dict[str, list[Keys]] = {
            "name": [(self.name,)],
            "alias": [(f"{self.name}Alias",)],
            "dotted": [(f"{self.name}.key",)],
            "choices": [(f"{self.name}_new",), ("box", f"{self.name}_old")],
            "path": [(f"{self.name}_box", 0)],
            "boxed": [("box", self.name)],
        }
        return [*known[self.naming], *([(self.name,)] if self.by_name else []), *([self.before] if self.moved else [])]

    @property
    def before(self) -> Keys:
        return (f"{self.name}_release_1",)


LEAVES = ["int", "few", "text", "ints", "numbers", "set", "made"]
SECTIONS = ["section", "optional", "either", "mixed", "many", "rows", "root", "map", "maybes", "pair", "deep"]


@st.composite
def fields(draw: st.DrawFn, depth: int = 2) -> tuple[Drawn, ...]:
    by_name = draw(st.booleans())
    found: list[Drawn] = []
    for index in range(draw(st.integers(1, 1 + depth))):
        kind = draw(st.sampled_from(LEAVES + (SECTIONS if depth else [])))
        members = 0 if kind in LEAVES else 2 if kind in ("either", "rows") else 1
        inside = tuple(draw(fields(depth - 1)) for _ in range(members))
        naming = draw(st.sampled_from(["name", "name", "alias", "choices", "path", "boxed", "dotted"]))
        moved = kind == "int" and draw(st.booleans())
        found.append(Drawn(f"f{index}", kind, draw(st.sampled_from(MARKS)), naming, inside, moved, by_name))
    return tuple(found)


def model(drawn: tuple[Drawn, ...], base: type[BaseModel] = BaseModel, across: str = "") -> type[Any]:
    """Build the model of fields that were drawn."""
    known: dict[str, Any] = {each.name: _field(each) for each in drawn}
    validators: dict[str, Any] = {}
    if any(each.moved for each in drawn):
        validators["move"] = model_validator(mode="before")(classmethod(_mover(drawn)))
    ints = [each.name for each in drawn if each.kind == "int"]
    if across and len(ints) > 1:
        after = _deriver if across == "derives" else _orderer
        validators["across"] = model_validator(mode="after")(after(ints[0], ints[-1]))
    named = type("Named", (base,), {"model_config": ConfigDict(populate_by_name=drawn[0].by_name)})
    return create_model("Drawn", __base__=named, __validators__=validators, **known)


def _mover(drawn: tuple[Drawn, ...]) -> Callable[[Any, Any], Any]:
    def move(_cls: Any, data: Any) -> Any:
        made = dict(data) if isinstance(data, dict) else data
        for each in drawn:
            if each.moved and isinstance(made, dict) and each.before[0] in made:
                put(made, each.places[0], made.pop(each.before[0]))
        return made

    return move


def _deriver(one: str, other: str) -> Callable[[Any], Any]:
    def derive(self: Any) -> Any:
        self.__dict__[other] = getattr(self, one) * 10
        return self

    return derive


def _orderer(one: str, other: str) -> Callable[[Any], Any]:
    def in_order(self: Any) -> Any:
        if getattr(self, one) > getattr(self, other):
            raise ValueError(f"{one} must not be above {other}")
        return self

    return in_order


def put(tree: dict[str, Any], place: Keys, value: Any) -> None:
    """Say a value at a place, which is a key, an entry of a list of its own, or a key of a map that others share."""
    head = str(place[0])
    if len(place) == 1:
        tree[head] = value
    else:
        tree[head] = [value] if place[1] == 0 else {**tree.get(head, {}), str(place[1]): value}


def _field(each: Drawn) -> Any:
    inside = [model(one) for one in each.inside]
    kinds: dict[str, Any] = {"int": int, "text": str, "ints": list[int], "numbers": dict[str, int], "set": set[int]}
    kinds |= {"made": int, "few": Annotated[int, Field(le=1)]}
    if inside:
        first: Any = inside[0]
        kinds |= {"section": first, "optional": first | None, "either": first | inside[-1], "many": list[first]}
        kinds |= {"map": dict[str, first], "pair": tuple[int, first], "deep": dict[str, list[first]]}
        kinds |= {"mixed": int | first, "rows": list[first | inside[-1]], "root": RootModel[list[first]]}
        kinds |= {"maybes": dict[str, first | None]}
    kind = kinds[each.kind]
    aliases = {
        "alias": each.key,
        "dotted": each.key,
        "choices": AliasChoices(f"{each.name}_new", AliasPath("box", f"{each.name}_old")),
        "path": AliasPath(f"{each.name}_box", 0),
        "boxed": AliasPath("box", each.name),
    }
    default: dict[str, Any] = {
        "int": int,
        "few": int,
        "mixed": int,
        "text": str,
        "ints": list,
        "numbers": dict,
        "set": set,
        "made": lambda: next(NUMBERS),
        "optional": lambda: None,
        "many": list,
        "rows": list,
        "map": dict,
        "maybes": dict,
        "deep": dict,
    }
    if inside:
        default |= {"section": inside[0], "either": inside[0], "pair": lambda: (0, inside[0]())}
        default |= {"root": lambda: kinds["root"]([])}
    info = Field(default_factory=default[each.kind], validation_alias=aliases.get(each.naming))
    return (Annotated[kind, each.mark] if each.mark else kind, info)


def values(each: Drawn) -> st.SearchStrategy[Any]:
    number = st.integers(0, 2)
    plain: dict[str, st.SearchStrategy[Any]] = {
        "int": number,
        "made": number,
        "few": st.sampled_from([0, 0, 0, 1, 1, 1, 2]),
        "text": st.sampled_from(["a", "b"]),
        "ints": st.lists(number, max_size=2),
        "set": st.lists(number, max_size=2, unique=True),
        "numbers": st.dictionaries(st.sampled_from(["a", "b.c"]), number, max_size=2),
    }
    if each.kind in plain:
        return plain[each.kind]
    one = st.one_of([files(drawn) for drawn in each.inside])
    names = st.sampled_from(["m", "n.o"])
    return {
        "section": one,
        "either": one,
        "optional": st.none() | one,
        "mixed": number | one,
        "many": st.lists(one, max_size=2),
        "rows": st.lists(one, max_size=2),
        "root": st.lists(one, max_size=2),
        "map": st.dictionaries(names, one, max_size=2),
        "maybes": st.dictionaries(names, st.none() | one, max_size=2),
        "pair": st.tuples(number, one).map(list),
        "deep": st.dictionaries(names, st.lists(one, max_size=2), max_size=2),
    }[each.kind]


def said(drawn: tuple[Drawn, ...]) -> st.SearchStrategy[dict[str, tuple[Keys, Any]]]:
    """Draw what a file says of the fields of a section: a place and a value of each, or nothing."""
    each = {field.name: st.tuples(st.sampled_from(field.places), values(field)) for field in drawn}
    return st.fixed_dictionaries({}, optional=each)


def written(fields: Mapping[str, tuple[Keys, Any]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for place, value in fields.values():
        put(tree, place, value)
    return tree


def files(drawn: tuple[Drawn, ...]) -> st.SearchStrategy[dict[str, Any]]:
    return said(drawn).map(written)


@st.composite
def versions(draw: st.DrawFn, drawn: tuple[Drawn, ...]) -> list[dict[str, Any]]:
    """Draw the versions of a file: in each some fields are as in the one before, others as in a file of its own."""
    now = draw(said(drawn))
    found = [written(now)]
    for _ in range(draw(st.integers(1, 3))):
        other = draw(said(drawn))
        kept = {each.name for each in drawn if draw(st.booleans())}
        now = {name: value for name, value in now.items() if name in kept} | {
            name: value for name, value in other.items() if name not in kept
        }
        found.append(written(now))
    return found


def inside(value: Any) -> dict[str | int, Any]:
    """Return what lies in a section, or in a list or map that holds more than numbers; of any last value nothing."""
    if isinstance(value, RootModel):
        return inside(value.root)
    if isinstance(value, BaseModel):
        aliases = {name: info.validation_alias for name, info in type(value).model_fields.items()}
        return {alias if isinstance(alias, str) else name: getattr(value, name) for name, alias in aliases.items()}
    found = dict(value) if isinstance(value, Mapping) else {}
    if isinstance(value, (list, tuple)):
        found = dict(enumerate(value))
    return {} if all(isinstance(inner, int) for inner in found.values()) else found


def plain(value: Any, most: int) -> Any:
    """Return a value as JSON has it; numbers above `most` are all the same."""
    if entries := inside(value):
        return {key: plain(inner, most) for key, inner in entries.items()}
    if isinstance(value, RootModel):
        return plain(value.root, most)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return min(value, most) if isinstance(value, int) else value


def apart(one: Any, other: Any, most: int = MADE, keys: Keys = ()) -> Iterator[Keys]:
    """Yield the paths where two instances differ; what only one has, and a list of another length, is one.

    Without `most` all that factories made counts as the same.
    """
    left, right = inside(one), inside(other)
    if not left and not right:
        if plain(one, most) != plain(other, most):
            yield keys
    elif not left or not right or (left.keys() != right.keys() and (0 in left or 0 in right)):
        yield keys
    else:
        for key in dict.fromkeys((*left, *right)):
            if key in left and key in right:
                yield from apart(left[key], right[key], most, (*keys, key))
            else:
                yield (*keys, key)


def effect(drawn: tuple[Drawn, ...], path: Keys, inherited: Effect = Effect.RESTART) -> Effect:
    """Return what the marks that were drawn say of a path."""
    found = [each for each in drawn if _has(each, path)]
    effects = [
        _effect(each, path[1:], each.mark.effect if each.mark and each.mark.effect else inherited) for each in found
    ]
    return min(effects, key=STRICT.index) if effects else Effect.RESTART


def _has(each: Drawn, path: Keys) -> bool:
    """Tell whether a path is that of a field, or leads into it: into a list by numbers only."""
    of_list = each.kind in ("many", "rows", "root", "pair")
    return each.key == path[0] and (len(path) == 1 or bool(each.inside and (not of_list or isinstance(path[1], int))))


def _effect(each: Drawn, path: Keys, own: Effect) -> Effect:
    steps = {"many": 1, "rows": 1, "root": 1, "map": 1, "maybes": 1, "pair": 1, "deep": 2}.get(each.kind, 0)
    below = path[steps:]
    if not each.inside or (each.kind == "pair" and path[:1] == (0,)):
        return own
    if below:
        found = [effect(drawn, below, own) for drawn in each.inside if any(_has(one, below) for one in drawn)]
        return min(found, key=STRICT.index) if found else own
    if each.kind in ("map", "maybes", "deep") and len(path) <= 1:
        return own
    whole = [] if each.kind in ("section", "optional", "either") else [own]
    return min([*whole, *(_strictest(drawn, own) for drawn in each.inside)], key=STRICT.index)


def _strictest(drawn: tuple[Drawn, ...], inherited: Effect) -> Effect:
    return min((effect(drawn, (each.key,), inherited) for each in drawn), key=STRICT.index)


class Process:
    """What a process does with its file: it starts from it, and reloads it whenever it is asked to."""

    def __init__(self, path: Path, kind: type[LiveSettings]) -> None:
        self._source = Source(path, SettingsModel(kind, environ={}))
        self._redactor = Redactor(b"k" * 32)
        self._reader = Reader(rest_s=0)
        self._flow: Flow | None = None

    def save(self, tree: dict[str, Any]) -> None:
        new = self._source.path.with_suffix(".new")
        new.write_text(json.dumps(tree))
        new.replace(self._source.path)

    async def start(self) -> None:
        inputs = await self._reader.settled(self._source.files())
        candidate, _, _ = first_candidate(self._source, inputs)
        snapshots = SnapshotStore(first_snapshot(candidate, self._redactor))
        self._flow = Flow(self._source, snapshots, (), self._redactor, reader=self._reader)

    async def reload(self) -> ReloadReport:
        assert self._flow is not None
        return await Attempt(self._flow, "id", SIGNAL, dry_run=False, pending_restart=()).run()

    @property
    def settings(self) -> Any:
        assert self._flow is not None
        return self._flow.snapshots.current.settings

    def close(self) -> None:
        self._reader.thread.close()


def offered(kind: type[BaseModel], tree: dict[str, Any]) -> BaseModel | None:
    """Return what pydantic alone makes of a file, or None; after a validator only lax rules will do."""
    for strict in (True, False):
        with suppress(ValidationError):
            return kind.model_validate_json(json.dumps(tree), strict=strict)
    return None


@pytest.mark.timeout(patience_s(400, MODELS, 60))  # Hypothesis may make a failure smaller for five minutes
@given(st.data())
@settings(max_examples=MODELS, phases=set(Phase) - {Phase.explain}, suppress_health_check=list(HealthCheck))
def test_no_value_changes_in_silence(tmp_path: Path, data: st.DataObject) -> None:
    drawn = data.draw(fields())
    across = data.draw(st.sampled_from(["", "", "derives", "in order"]))
    asyncio.run(reloads(tmp_path / "ov.conf", drawn, across, data.draw(versions(drawn))))


async def reloads(path: Path, drawn: tuple[Drawn, ...], across: str, trees: list[dict[str, Any]]) -> None:
    bare, process = model(drawn, across=across), Process(path, model(drawn, LiveSettings, across))
    while trees and offered(bare, trees[0]) is None:
        trees = trees[1:]
    try:
        for tree in trees[:1]:
            process.save(tree)
            await process.start()
        for tree in trees[1:]:
            process.save(tree)
            before = process.settings
            report = await process.reload()
            event(report.outcome.value)
            judge(drawn, across, before, offered(bare, tree), process.settings, report)
            again = await process.reload()
            assert again.outcome in (Outcome.UNCHANGED, Outcome.REJECTED), "the same file again changes something"
            assert again.errors == report.errors
            if not report.errors:
                waits = [each.path for each in report.pending_restart]
                assert [each.path for each in again.pending_restart] == waits
    finally:
        process.close()


def judge(
    drawn: tuple[Drawn, ...], across: str, before: Any, wanted: Any | None, after: Any, report: ReloadReport
) -> None:
    """Compare a report with what was offered and what runs before and after it."""
    named = {problem.path for problem in report.errors}
    if wanted is None:
        assert report.outcome is Outcome.REJECTED
        assert after is before
        assert across == "in order" or all(named)  # a rule across fields has no path
        assert named
        return
    found = {path: effect(drawn, path) for path in apart(before, wanted)}
    forbidden = {dotted(path) for path, known in found.items() if known is Effect.REFUSED}
    if report.outcome is Outcome.REJECTED:
        assert after is before
        waiting = {dotted(path) for path, known in found.items() if known is Effect.RESTART}
        allowed = named == forbidden if forbidden else across or named <= waiting
        assert allowed, "refused without a reason, or the reason is not named"
        assert across == "in order" or all(named)  # a rule across fields has no path
        assert named
        return
    assert not forbidden, "what may not change is not refused"
    changes = set(apart(before, after, NONE_MADE))
    waits = set(apart(after, wanted))
    assert {change.path for change in report.changes} == {dotted(path) for path in changes}, "a change in silence"
    assert {each.path for each in report.pending_restart} == {dotted(path) for path in waits}, "not told to wait"
    assert all(change.effect is Effect.LIVE for change in report.changes)
    assert all(effect(drawn, path) is Effect.LIVE for path in changes), "what is not live changed"
    if not across and Effect.RESTART not in found.values():
        assert changes == {path for path, known in found.items() if known is Effect.LIVE}, "a live field waits"
    assert report.outcome is (Outcome.APPLIED if changes else Outcome.UNCHANGED)
