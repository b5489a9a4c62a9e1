"""PURE: what a change of each field means, as data.

A settings model marks its fields, `Annotated[int, Live]`; an unmarked field needs a restart (the safe
default: PostgreSQL's `pg_settings.context` is the model). A mark on a section holds for all fields below
that have none of their own, a mark on a list or map of sections for their entries as well. A foreign model keeps
the same rules in a table.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from enum import StrEnum
from functools import cached_property, lru_cache, reduce
from types import UnionType
from typing import Annotated, Any, Final, Union, cast, get_args, get_origin, get_type_hints

import pydantic
from pydantic import AliasChoices, AliasPath, BaseModel, RootModel, SecretBytes, SecretStr
from pydantic.fields import FieldInfo

from hotreload.config.document import Keys, dotted

ENTRY: Final = "*"
"""Stands for any entry of a list or map in the keys of a leaf."""
CHANGEABLE: Final = (deque, defaultdict, OrderedDict, Counter, bytearray)
"""What `hotreload.config.frozen` cannot make a snapshot of."""
SECRETS: Final = (pydantic.Secret, SecretStr, SecretBytes)
"""The types whose value pydantic hides."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PASSWORDS: Final = _words("password passwords passwd pwd passphrase pass secret secrets credential credentials")
SECRET_WORDS: Final = PASSWORDS | _words(
    "key keys apikey apikeys token tokens authorization cookie cookies auth bearer signature sig"
)
NOT_AFTER: Final = _words(
    "file files path paths dir directory folder name names id ids url uri endpoint env ttl s ms seconds minutes hours "
    "days bytes count limit limits size length len prefix suffix header type kind mode method algorithm budget "
    "version enabled required rotation expiry interval timeout rate minute second hour day ratio per field column "
    "provider"
)
NOT_BEFORE: Final = _words(
    "max min num total count public primary foreign sort partition cache dedup idempotency group routing shard input "
    "output prompt completion context page next continuation"
)
OWNERS: Final = _words(
    "access account admin api app auth bearer bot client csrf db deploy encryption hash hmac jwt license master mysql "
    "oauth pg postgres private redis refresh root secret service session shared signing smtp ssh ssl storage tls user "
    "webhook"
)
"""What a key, a token or a pass belongs to that is secret (`privatekey`, `db_pass`)."""
WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
GLUED: Final = re.compile(
    rf"(.*?)(passwords?|passwd|pwd|passphrase|secrets?|credentials?|tokens?)|({'|'.join(OWNERS)})(keys?|pass)"
)


@lru_cache(maxsize=4096)
def looks_secret(name: str, *, number: bool = False) -> bool:
    """Tell whether a field of this name should hold a secret (`api_key`, `dbpassword`; not `max_tokens`, `key_file`).

    Of a `number` only a password is secret, or a key or token that says whose it is; `key_0` and `tokens` are counts.
    """
    words = [part for word in WORD.findall(name) for part in _parted(word.lower())]
    return any(_is_secret_word(words, index, number) for index in range(len(words)))


def _parted(word: str) -> list[str]:
    """Return the words that are written as one: `dbpassword` is `db password`."""
    glued = GLUED.fullmatch(word) if word not in SECRET_WORDS else None
    return [part for part in glued.groups() if part] if glued else [word]


def _is_secret_word(words: Sequence[str], index: int, number: bool) -> bool:
    before = words[index - 1] if index else ""
    if words[index] not in SECRET_WORDS or before in NOT_BEFORE:
        return False
    if words[-1] in NOT_AFTER and words[-1] not in SECRET_WORDS:
        return False
    return not number or words[index] in PASSWORDS or (before in OWNERS and not words[index].endswith("s"))


class Effect(StrEnum):
    """When a changed value takes effect."""

    LIVE = "live"
    RESTART = "restart"
    REFUSED = "refused"


STRICTEST: Final = (Effect.REFUSED, Effect.RESTART, Effect.LIVE)


@dataclass(frozen=True, slots=True)
class Mark:
    """A mark for `Annotated[...]`; combine several: `Annotated[str, Live, Secret]`.

    `secret` None leaves it to the type (`SecretStr`) and the name.
    """

    effect: Effect | None = None
    secret: bool | None = None
    reason: str | None = None


Live: Final = Mark(effect=Effect.LIVE)
Restart: Final = Mark(effect=Effect.RESTART)
Refused: Final = Mark(effect=Effect.REFUSED)
Secret: Final = Mark(secret=True)
Public: Final = Mark(secret=False)


@dataclass(frozen=True, slots=True)
class FieldRule:
    """What is known of one path, with `*` for an entry of a list or map; `reason` says why it is not live."""

    path: Keys
    effect: Effect = Effect.RESTART
    secret: bool = False
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf of a settings model: the keys that lead to it, its rule, and pydantic's account of it.

    `guessed` is true where it counts as secret by its name alone.
    """

    keys: Keys
    rule: FieldRule
    info: FieldInfo
    guessed: bool = False


@dataclass(eq=False)
class Node:
    """One place of a configuration: a leaf, a section with fields, a list or map of sections, or several of these.

    `rule` is that of the place as a whole. `names` are those of its field, in any model of a union; `places` are the
    keys below the section where the model looks for it, in that order. `open` tells that unknown keys are the
    section's own matter. `positions` has the entries of a tuple that are not all alike. `made` tells that a factory
    makes its default. `wrong` says what a service cannot do with the place as it is declared.
    """

    keys: Keys
    rule: FieldRule
    leaf: Leaf | None = None
    fields: dict[str, Node] = field(default_factory=dict[str, "Node"])
    entries: Node | None = None
    positions: dict[int, Node] = field(default_factory=dict[int, "Node"])
    names: tuple[str, ...] = ()
    places: tuple[Keys, ...] = ()
    open: bool = False
    made: bool = False
    wrong: tuple[str, ...] = ()

    def child(self, key: str | int) -> Node | None:
        """Return the place below a key, None for one that no model knows."""
        return self.fields.get(cast(str, key)) or self.positions.get(cast(int, key)) or self.entries

    @cached_property
    def heads(self) -> frozenset[str | int]:
        """The keys a model looks at first for the fields of this section."""
        return frozenset(place[0] for node in self.fields.values() for place in node.places)

    def walk(self) -> Iterator[Node]:
        """Yield this place and all below."""
        yield self
        for inner in (*self.fields.values(), *filter(None, [self.entries])):
            yield from inner.walk()


def tree(model: type[BaseModel]) -> Node:
    """Return all places of a model; what it says of the same path in several members of a union is joined."""
    # a model under construction may get other fields yet; afterwards it never changes, and a reload asks several times
    return _tree_once(model) if model.__pydantic_complete__ else _section(model, (), Mark(), ())


def leaves(model: type[BaseModel]) -> dict[Keys, Leaf]:
    """Return every leaf of a model; `*` stands for any entry of a list or map of sections."""
    return {node.keys: node.leaf for node in tree(model).walk() if node.leaf is not None}


def leaf_rules(model: type[BaseModel]) -> dict[str, FieldRule]:
    """Return the rule of every leaf, by dotted path; a list or a map of plain values is one leaf."""
    return {dotted(keys): leaf.rule for keys, leaf in leaves(model).items()}


def unmarked_secrets(model: type[BaseModel]) -> list[str]:
    """Return the leaves that look secret by name and carry neither a mark nor a secret type: each a mistake."""
    return [dotted(keys) for keys, leaf in leaves(model).items() if leaf.guessed]


def rule_for(root: Node, path: Keys) -> FieldRule:
    """Return the rule of a path: of the leaf it is or lies in, else the strictest of all that may stand there.

    An unknown key has the mark of the section it stands in, and is secret if its name looks so.
    """
    node = root
    for index, key in enumerate(path):
        inner = node.child(key)
        if inner is None:
            inside = node.leaf is not None and not node.fields
            secret = node.rule.secret if inside else any(looks_secret(str(part)) for part in path[index:])
            effect = node.rule.effect if inside or node.open else Effect.RESTART
            return FieldRule(path, effect, secret, node.rule.reason if inside else None)
        node = inner
    return node.rule


def key_of(name: str, info: FieldInfo) -> str:
    """Return the key a field is reported under: its alias where it has one, or its name."""
    return info.validation_alias if isinstance(info.validation_alias, str) else info.alias or name


def is_section(kind: Any) -> bool:
    """Tell whether a type is a model whose fields are leaves of their own."""
    return isinstance(kind, type) and issubclass(kind, BaseModel) and not issubclass(kind, RootModel)


def _is_root(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, RootModel)


def alternatives(annotation: Any) -> list[Any]:
    """Return the members of a union, Annotated and named types taken off; a lone type is its only member."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return alternatives(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [kind for member in get_args(annotation) for kind in alternatives(member)]
    if hasattr(annotation, "__value__"):
        return alternatives(annotation.__value__)
    return [annotation]


def _section(model: type[BaseModel], keys: Keys, mark: Mark, seen: tuple[type, ...]) -> Node:
    found = Node(keys, FieldRule(keys), open=model.model_config.get("extra") in ("allow", "forbid"))
    for name, info in model.model_fields.items():
        key = key_of(name, info)
        own = _combine(mark, [*_marks(info.metadata), *_marks_inside(info.annotation)])
        inner = _node(info.annotation, (*keys, key), own, info, (*seen, model))
        inner.names, inner.places = (name,), places(name, info, model)
        inner.wrong += tuple(_changeable(info.annotation))
        inner.made = info.default_factory is not None and not info.default_factory_takes_validated_data
        if key in found.fields:
            inner.wrong += (f"{name} is read from the same key as another field",)
            inner = _joined(found.fields[key], inner)
        found.fields[key] = inner
    if seen and hasattr(model, "settings_customise_sources"):
        found.wrong += ("it has sources of its own, which no reload reads; derive it from BaseModel",)
    found.rule = _of_section(found, mark)
    return found


@lru_cache(maxsize=64)
def _tree_once(model: type[BaseModel]) -> Node:
    return _section(model, (), Mark(), ())


def _of_section(node: Node, mark: Mark) -> FieldRule:
    """Return the rule of a section as a whole: it cannot change by halves, so it is the strictest of all below."""
    below = [inner.rule for inner in node.fields.values()]
    return _stricter(node.keys, below) if below else FieldRule(node.keys, mark.effect or Effect.RESTART)


def _node(annotation: Any, keys: Keys, mark: Mark, info: FieldInfo, seen: tuple[type, ...]) -> Node:
    kinds = [kind for kind in alternatives(annotation) if kind is not type(None)]
    structured = [(kind, _structured(kind, keys, mark, seen)) for kind in kinds]
    parts = [node for _, node in structured if node is not None]
    plain = [kind for kind, node in structured if node is None]
    if plain or not parts:
        parts.append(_leaf(keys, mark, info, plain))
    return reduce(_joined, parts)


def _structured(kind: Any, keys: Keys, mark: Mark, seen: tuple[type, ...]) -> Node | None:
    """Return what stands below a section, or a list or map of them; None for a type that is one leaf."""
    if is_section(kind):
        return None if kind in seen else _section(kind, keys, mark, seen)
    if _is_root(kind):
        return None if kind in seen else _root(kind, keys, mark, seen)
    inside, is_map = _entry_types(kind)
    if not any(_has_section(each, seen) for each in inside):
        return None
    entries = reduce(_joined, [_entry(each, (*keys, ENTRY), mark, seen) for each in inside])
    positions = {i: _entry(each, (*keys, i), mark, seen) for i, each in enumerate(inside)} if len(inside) > 1 else {}
    whole = FieldRule(keys, mark.effect or Effect.RESTART, entries.rule.secret, mark.reason)
    if is_map:  # an entry comes and goes as the mark of the map says; what changes inside one, its own marks say
        entries.rule = replace(whole, path=entries.keys)
        return Node(keys, whole, entries=entries)
    return Node(keys, _stricter(keys, [whole, entries.rule]), entries=entries, positions=positions)


def _entry(annotation: Any, keys: Keys, mark: Mark, seen: tuple[type, ...]) -> Node:
    info = FieldInfo.from_annotation(annotation)
    return _node(annotation, keys, _combine(mark, _marks_inside(annotation)), info, seen)


def _root(kind: Any, keys: Keys, mark: Mark, seen: tuple[type, ...]) -> Node | None:
    root = kind.model_fields["root"]
    if not _has_section(root.annotation, seen):
        return None
    own = _combine(mark, [*_marks(root.metadata), *_marks_inside(root.annotation)])
    return _node(root.annotation, keys, own, root, (*seen, kind))


def _entry_types(kind: Any) -> tuple[list[Any], bool]:
    """Return the types of the entries of a list or map, and whether it is a map; nothing for any other type."""
    origin, args = get_origin(kind), [arg for arg in get_args(kind) if arg is not ...]
    if not isinstance(origin, type) or not args:
        return [], False
    if issubclass(origin, Mapping):
        return args[-1:], True
    return (args, False) if issubclass(origin, (list, tuple, Sequence)) else ([], False)


def _has_section(annotation: Any, seen: tuple[type, ...]) -> bool:
    for kind in alternatives(annotation):
        if is_section(kind):
            if kind not in seen:
                return True
        elif _is_root(kind):
            if kind not in seen and _has_section(kind.model_fields["root"].annotation, (*seen, kind)):
                return True
        elif any(_has_section(each, seen) for each in _entry_types(kind)[0]):
            return True
    return False


def _joined(one: Node, other: Node) -> Node:
    """Join what several members of a union say of one place: the stricter rule holds."""
    fields_ = dict(one.fields)
    for key, inner in other.fields.items():
        fields_[key] = _joined(fields_[key], inner) if key in fields_ else inner
    entries = _joined(one.entries, other.entries) if one.entries and other.entries else one.entries or other.entries
    leaf = (
        replace(one.leaf, rule=_stricter(one.keys, [one.leaf.rule, other.leaf.rule]))
        if (one.leaf and other.leaf)
        else one.leaf or other.leaf
    )
    return Node(
        keys=one.keys,
        rule=_stricter(one.keys, [one.rule, other.rule]),
        leaf=leaf,
        fields=fields_,
        entries=entries,
        positions={**one.positions, **other.positions},
        names=tuple(dict.fromkeys((*one.names, *other.names))),
        places=tuple(dict.fromkeys((*one.places, *other.places))),
        open=one.open or other.open,
        made=one.made and other.made,
        wrong=(*one.wrong, *other.wrong),
    )


def places(name: str, info: FieldInfo, model: type[BaseModel]) -> tuple[Keys, ...]:
    """Return where a model looks for a field, as keys below its section, in the order it looks."""
    config, alias = model.model_config, info.validation_alias or info.alias
    found: list[Keys] = []
    if alias is not None and config.get("validate_by_alias", True):
        choices = alias.choices if isinstance(alias, AliasChoices) else [alias]
        found = [tuple(choice.path) if isinstance(choice, AliasPath) else (choice,) for choice in choices]
    if not found or config.get("populate_by_name") or config.get("validate_by_name"):
        found.append((name,))
    return tuple(dict.fromkeys(found))


def _leaf(keys: Keys, mark: Mark, info: FieldInfo, kinds: Sequence[Any]) -> Node:
    name = next((str(key) for key in reversed(keys) if key != ENTRY), "")
    known = mark.secret if mark.secret is not None else any(holds_secret(kind) for kind in kinds) or None
    guessed = known is None and looks_secret(name) and not _is_plain(name, info.annotation)
    rule = FieldRule(keys, mark.effect or Effect.RESTART, known or guessed, mark.reason)
    inside = [FieldRule(keys, each.effect, reason=each.reason) for each in _below(kinds) if each.effect]
    strict = _stricter(keys, [rule, *inside])
    hidden = [each.effect for each in _below(kinds, opaque=True) if each.effect not in (None, strict.effect)]
    wrong = [
        f"a mark inside its type ({effect}) has no effect; mark the field, or make the type a BaseModel"
        for effect in hidden
    ]
    return Node(keys, strict, Leaf(keys, strict, info, guessed), wrong=tuple(wrong))


def _below(kinds: Sequence[Any], *, opaque: bool = False) -> list[Mark]:
    return [mark for kind in kinds for mark in _marks_below(kind, (), opaque=opaque)]


def _marks_below(annotation: Any, seen: tuple[Any, ...], *, opaque: bool = False) -> Iterator[Mark]:
    """Yield the marks on fields somewhere inside a type that is one leaf; `opaque`: of no model that was met before."""
    for kind in alternatives(annotation):
        if kind in seen:
            continue
        fields_ = _fields_of(kind)
        if is_section(kind) and not opaque:
            infos = cast("type[BaseModel]", kind).model_fields.values()
            fields_ = [info.annotation for info in infos]
            yield from (mark for info in infos for mark in _marks(info.metadata))
        for each in (*fields_, *get_args(kind)):
            yield from _marks_inside(each)
            yield from _marks_below(each, (*seen, kind), opaque=opaque)


def _changeable(annotation: Any, seen: tuple[Any, ...] = ()) -> Iterator[str]:
    """Yield why values of a type cannot be a snapshot's, anywhere inside it; fields of models are asked themselves."""
    for kind in alternatives(annotation):
        of = get_origin(kind) or kind
        if of in (Iterable, Iterator):
            yield f"{of.__name__} can be read only once; use a list or tuple"
        elif isinstance(of, type) and issubclass(of, CHANGEABLE):
            yield f"{of.__name__} can be changed by a job; use a list, tuple or dict"
        elif kind not in seen:
            inside = (kind.model_fields["root"].annotation,) if _is_root(kind) else (*_fields_of(kind), *get_args(kind))
            for each in inside:
                yield from _changeable(each, (*seen, kind))


def _fields_of(kind: Any) -> Iterable[Any]:
    """Return the types of the fields of a dataclass, a TypedDict or a NamedTuple; of nothing else any."""
    kind = get_origin(kind) or kind
    if is_dataclass(kind) or (isinstance(kind, type) and hasattr(kind, "__annotations__") and _is_record(kind)):
        return get_type_hints(kind, include_extras=True).values()
    return ()


def _is_record(kind: type) -> bool:
    """Tell whether a type is a TypedDict or a NamedTuple."""
    return hasattr(kind, "__total__") or is_named_tuple(kind)


def is_named_tuple(kind: Any) -> bool:
    """Tell whether a type is a NamedTuple."""
    return hasattr(get_origin(kind) or kind, "_field_defaults")


def _marks(metadata: Any) -> list[Mark]:
    return [item for item in metadata if isinstance(item, Mark)]


def _marks_inside(annotation: Any) -> list[Mark]:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return [*_marks(args[1:]), *_marks_inside(args[0])]
    if hasattr(annotation, "__value__"):
        return _marks_inside(annotation.__value__)
    return [mark for arg in args for mark in _marks_inside(arg)] if origin in (Union, UnionType) else []


def _combine(inherited: Mark, own: list[Mark]) -> Mark:
    result = inherited
    for mark in own:
        effect = mark.effect or result.effect
        reason = mark.reason or (result.reason if mark.effect is None else None)
        result = Mark(effect, result.secret if mark.secret is None else mark.secret, reason)
    return result


def holds_secret(annotation: Any, seen: tuple[Any, ...] = ()) -> bool:
    """Tell whether a type is secret or holds one somewhere inside (`dict[str, SecretStr]`, a field of a dataclass).

    A field of a NamedTuple is secret if its name looks so as well: a report shows the values without their names.
    """
    if any(mark.secret for mark in _marks_inside(annotation)):
        return True
    return any(_holds_secret(kind, seen) for kind in alternatives(annotation) if kind not in seen)


def _holds_secret(kind: Any, seen: tuple[Any, ...]) -> bool:
    of: Any = get_origin(kind) or kind
    below = (*seen, kind)
    if isinstance(of, type) and issubclass(of, SECRETS):
        return True
    inside: list[Any] = [*_fields_of(kind), *get_args(kind)]
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        infos = kind.model_fields.values()
        inside += [info.annotation for info in infos]
        if any(mark.secret for info in infos for mark in _marks(info.metadata)):
            return True
    named: Sequence[str] = getattr(cast("object", of), "_fields", ()) if is_named_tuple(kind) else ()
    return any(map(looks_secret, named)) or any(holds_secret(each, below) for each in inside)


def _is_plain(name: str, annotation: Any) -> bool:
    """Tell whether a type says that a secret-looking name is not one: flags, and numbers of tokens or keys."""
    kinds = [kind for kind in alternatives(annotation) if kind is not type(None)]
    return all(kind is bool or (kind in (int, float) and not looks_secret(name, number=True)) for kind in kinds)


def _stricter(path: Keys, rules: Sequence[FieldRule]) -> FieldRule:
    strictest = min(rules, key=lambda rule: STRICTEST.index(rule.effect))
    return FieldRule(path, strictest.effect, any(rule.secret for rule in rules), strictest.reason)
