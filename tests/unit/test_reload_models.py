"""No value changes in silence, whatever the model: aliases, unions, containers, factories, validators that move keys.

Models and two files for each are drawn. What a reload says is compared with what happened, found by walking the
instances themselves; the effect of a path is computed from what was drawn, not from the model.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, create_model, model_validator

from hotreload.config.document import Keys, parse
from hotreload.config.fields import Effect, Live, Mark, Refused, Restart
from hotreload.config.secrets import Redactor
from hotreload.config.settings import LiveSettings, SettingsModel
from hotreload.config.store import Snapshot
from hotreload.errors import ConfigInvalid
from hotreload.reload.validate import Resolved, Source, build_candidate, first_snapshot, resolve
from tests.counts import counted

CONF = Path("/etc/service/ov.conf")
REDACTOR = Redactor(b"k" * 32)
NUMBERS = itertools.count()
MARKS: list[Mark | None] = [None, None, Live, Live, Live, Restart, Refused]
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
            "choices": [(f"{self.name}_new",), (f"{self.name}_old",)],
            "path": [(f"{self.name}_box", 0)],
        }
        return [*known[self.naming], *([(self.name,)] if self.by_name else []), *([self.before] if self.moved else [])]

    @property
    def before(self) -> Keys:
        return (f"{self.name}_release_1",)


LEAVES = ["int", "text", "ints", "numbers", "set", "made"]
SECTIONS = ["section", "optional", "either", "many", "map", "pair", "deep"]


@st.composite
def fields(draw: st.DrawFn, depth: int = 2) -> tuple[Drawn, ...]:
    by_name = draw(st.booleans())
    found: list[Drawn] = []
    for index in range(draw(st.integers(1, 3))):
        kind = draw(st.sampled_from(LEAVES + (SECTIONS if depth else [])))
        members = 0 if kind in LEAVES else 2 if kind == "either" else 1
        inside = tuple(draw(fields(depth - 1)) for _ in range(members))
        naming = draw(st.sampled_from(["name", "name", "alias", "choices", "path", "dotted"]))
        moved = kind == "int" and draw(st.booleans())
        found.append(Drawn(f"f{index}", kind, draw(st.sampled_from(MARKS)), naming, inside, moved, by_name))
    return tuple(found)


def model(drawn: tuple[Drawn, ...], base: type[BaseModel] = BaseModel, *, derives: bool = False) -> type[Any]:
    """Build the model of fields that were drawn."""
    known: dict[str, Any] = {each.name: _field(each) for each in drawn}
    validators: dict[str, Any] = {}
    if any(each.moved for each in drawn):
        validators["move"] = model_validator(mode="before")(classmethod(_mover(drawn)))
    ints = [each.name for each in drawn if each.kind == "int"]
    if derives and len(ints) > 1:
        validators["derive"] = model_validator(mode="after")(_deriver(ints[0], ints[-1]))
    named = type("Named", (base,), {"model_config": ConfigDict(populate_by_name=drawn[0].by_name)})
    return create_model("Drawn", __base__=named, __validators__=validators, **known)


def _mover(drawn: tuple[Drawn, ...]) -> Callable[[Any, Any], Any]:
    def move(_cls: Any, data: Any) -> Any:
        made = dict(data) if isinstance(data, dict) else data
        for each in drawn:
            if each.moved and isinstance(made, dict) and each.before[0] in made:
                value = made.pop(each.before[0])
                made[each.places[0][0]] = [value] if each.naming == "path" else value
        return made

    return move


def _deriver(one: str, other: str) -> Callable[[Any], Any]:
    def derive(self: Any) -> Any:
        self.__dict__[other] = getattr(self, one) * 10
        return self

    return derive


def _field(each: Drawn) -> Any:
    inside = [model(one) for one in each.inside]
    kinds: dict[str, Any] = {"int": int, "text": str, "ints": list[int], "numbers": dict[str, int], "set": set[int]}
    kinds["made"] = int
    if inside:
        first: Any = inside[0]
        kinds |= {"section": first, "optional": first | None, "either": first | inside[-1], "many": list[first]}
        kinds |= {"map": dict[str, first], "pair": tuple[int, first], "deep": dict[str, list[first]]}
    kind = kinds[each.kind]
    aliases = {
        "alias": each.key,
        "dotted": each.key,
        "choices": AliasChoices(f"{each.name}_new", f"{each.name}_old"),
        "path": AliasPath(f"{each.name}_box", 0),
    }
    default: dict[str, Any] = {
        "int": lambda: 0,
        "text": str,
        "ints": list,
        "numbers": dict,
        "set": set,
        "made": lambda: next(NUMBERS),
        "optional": lambda: None,
        "many": list,
        "map": dict,
        "deep": dict,
    }
    if inside:
        default |= {"section": inside[0], "either": inside[0], "pair": lambda: (0, inside[0]())}
    info = Field(default_factory=default[each.kind], validation_alias=aliases.get(each.naming))
    return (Annotated[kind, each.mark] if each.mark else kind, info)


def values(each: Drawn) -> st.SearchStrategy[Any]:
    number = st.integers(0, 2)
    plain: dict[str, st.SearchStrategy[Any]] = {
        "int": number,
        "made": number,
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
        "many": st.lists(one, max_size=2),
        "map": st.dictionaries(names, one, max_size=2),
        "pair": st.tuples(number, one).map(list),
        "deep": st.dictionaries(names, st.lists(one, max_size=2), max_size=2),
    }[each.kind]


@st.composite
def files(draw: st.DrawFn, drawn: tuple[Drawn, ...]) -> dict[str, Any]:
    """Draw what a file says of a section: each field under one of its names, or not at all."""
    tree: dict[str, Any] = {}
    for each in drawn:
        if draw(st.booleans()):
            place, value = draw(st.sampled_from(each.places)), draw(values(each))
            tree[str(place[0])] = [value] if len(place) > 1 else value
    return tree


@st.composite
def edited(draw: st.DrawFn, drawn: tuple[Drawn, ...], tree: dict[str, Any]) -> dict[str, Any]:
    """Draw another version of a file: of each field as it was, or as in a file of its own."""
    other = draw(files(drawn))
    made = dict(tree)
    for each in drawn:
        if draw(st.booleans()):
            heads = {str(place[0]) for place in each.places}
            made = {key: value for key, value in made.items() if key not in heads}
            made |= {key: value for key, value in other.items() if key in heads}
    return made


def flat(value: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Yield every last value inside an instance, by path; an empty container is one."""
    inside: list[tuple[str | int, Any]] = []
    if isinstance(value, BaseModel):
        aliases = {name: info.validation_alias for name, info in type(value).model_fields.items()}
        inside = [
            (str(alias) if isinstance(alias, str) else name, getattr(value, name)) for name, alias in aliases.items()
        ]
    elif isinstance(value, Mapping):
        inside = list(value.items())
    elif isinstance(value, (list, tuple)):
        inside = list(enumerate(value))
    elif isinstance(value, set):
        value = sorted(value)
    for key, inner in inside:
        yield from flat(inner, (*keys, key))
    if not inside:
        yield keys, value


def changed(one: Any, other: Any) -> set[Keys]:
    """Return the paths of the last values that differ."""
    left, right = dict(flat(one)), dict(flat(other))
    return {
        keys
        for keys in left.keys() | right.keys()
        if keys not in left or keys not in right or left[keys] != right[keys]
    }


def covers(tops: Mapping[Keys, Any] | set[Keys] | tuple[Keys, ...], path: Keys) -> bool:
    """Tell whether a path is one of these, below one, or above one."""
    return any(path[: len(top)] == top or top[: len(path)] == path for top in tops)


def effect(drawn: tuple[Drawn, ...], path: Keys, inherited: Effect = Effect.RESTART) -> Effect:
    """Return what the marks that were drawn say of a path."""
    found = [each for each in drawn if each.key == path[0] and (len(path) == 1 or each.inside)]
    effects = [
        _effect(each, path[1:], each.mark.effect if each.mark and each.mark.effect else inherited) for each in found
    ]
    return min(effects, key=STRICT.index) if effects else Effect.RESTART


def _effect(each: Drawn, path: Keys, own: Effect) -> Effect:
    steps = {"many": 1, "map": 1, "pair": 1, "deep": 2}.get(each.kind, 0)
    below = path[steps:]
    if not each.inside or (each.kind == "pair" and path[:1] == (0,)):
        return own
    if below:
        found = [effect(drawn, below, own) for drawn in each.inside if any(f.key == below[0] for f in drawn)]
        return min(found, key=STRICT.index) if found else own
    if (each.kind == "map" and len(path) <= 1) or (each.kind == "deep" and len(path) <= 1):
        return own
    return (
        min([own, *(_strictest(drawn, own) for drawn in each.inside)], key=STRICT.index)
        if each.kind
        in (
            "many",
            "deep",
            "pair",
        )
        else min((_strictest(drawn, own) for drawn in each.inside), key=STRICT.index)
    )


def _strictest(drawn: tuple[Drawn, ...], inherited: Effect) -> Effect:
    return min((effect(drawn, (each.key,), inherited) for each in drawn), key=STRICT.index)


def reload(source: Source[Any], before: Snapshot[Any], tree: dict[str, Any]) -> tuple[Any, Resolved[Any]]:
    document = parse(CONF, json.dumps(tree).encode())
    candidate = build_candidate(document, source, running=before)
    return candidate.target.settings, resolve(candidate, before, source, REDACTOR)


@given(st.data())
@settings(max_examples=counted("MODELS", 100), deadline=None, suppress_health_check=list(HealthCheck))
def test_no_value_changes_in_silence(data: st.DataObject) -> None:
    drawn = data.draw(fields())
    kind = model(drawn, LiveSettings, derives=data.draw(st.booleans()))
    source = Source(CONF, SettingsModel(kind, environ={}))
    first = data.draw(files(drawn))
    second = data.draw(edited(drawn, first))
    try:
        before = first_snapshot(build_candidate(parse(CONF, json.dumps(first).encode()), source), REDACTOR)
        on_disk, made = reload(source, before, second)
    except ConfigInvalid:
        assume(False)
        return
    plan, after = made.plan, made.snapshot
    if after is None:
        event("refused")
        assert made.errors
        assert all(problem.path for problem in made.errors)
        return
    event("live" if plan.live else "nothing live")
    event("pending" if plan.pinned else "nothing pending")
    differs = changed(before.settings, after.settings)
    assert all(covers(plan.live, path) for path in differs), "a value changed and is not reported"
    assert all(covers(differs, path) for path in plan.live), "a change is reported and did not happen"
    assert all(effect(drawn, path) is Effect.LIVE for path in plan.live), "what is not live changed"
    waits = changed(after.settings, on_disk)
    assert all(covers(plan.pinned, path) for path in waits), "the file says something else, and that is not reported"
    assert all(covers(waits, path) for path in plan.pinned), "what is reported to wait does not differ"
    _, again = reload(source, after, second)
    assert again.snapshot is not None
    assert not again.plan.changes, "the same file again changes something"
    assert again.plan.pinned == plan.pinned
