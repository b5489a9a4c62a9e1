"""PURE: what a change of each field means, as data.

A settings model marks its fields, `Annotated[int, Live]`; a field nobody marked needs a restart (the safe
default: PostgreSQL's `pg_settings.context` is the model). A mark on a section holds for all fields below
that have none of their own. A foreign model keeps the same rules in a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import lru_cache
from types import UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, RootModel, SecretBytes, SecretStr
from pydantic.fields import FieldInfo

from hotreload.config.masking import looks_secret


class Effect(StrEnum):
    """When a changed value takes effect."""

    LIVE = "live"
    RESTART = "restart"
    REFUSED = "refused"


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
    """What is known of one leaf: `path` is dotted, `reason` says why it is not live."""

    path: str
    effect: Effect = Effect.RESTART
    secret: bool = False
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Leaf:
    """One leaf of a settings model: the keys that lead to it, its rule, and pydantic's account of it.

    `guessed` is true where it counts as secret by its name alone.
    """

    keys: tuple[str, ...]
    rule: FieldRule
    info: FieldInfo
    guessed: bool = False


def leaf_rules(model: type[BaseModel]) -> dict[str, FieldRule]:
    """Return the rule of every leaf, by dotted path; a list or a map is one leaf."""
    return {path: leaf.rule for path, leaf in leaves(model).items()}


def leaves(model: type[BaseModel]) -> dict[str, Leaf]:
    """Return every leaf of a model, by dotted path; where a union gives one path twice, the stricter rule holds."""
    # a model under construction may get other fields yet; afterwards it never changes, and a reload asks several times
    return dict(_leaves_once(model) if model.__pydantic_complete__ else _leaves(model))


def _leaves(model: type[BaseModel]) -> dict[str, Leaf]:
    found: dict[str, Leaf] = {}
    for leaf in _walk(model, (), Mark(), ()):
        path, earlier = leaf.rule.path, found.get(leaf.rule.path)
        found[path] = replace(leaf, rule=_stricter(path, [earlier.rule, leaf.rule])) if earlier else leaf
    return found


_leaves_once = lru_cache(maxsize=64)(_leaves)


def unmarked_secrets(model: type[BaseModel]) -> list[str]:
    """Return the leaves that look secret by name and carry neither a mark nor a secret type: each a mistake."""
    return [path for path, leaf in leaves(model).items() if leaf.guessed]


def rule_for(rules: Mapping[str, FieldRule], path: str) -> FieldRule:
    """Return the rule of a path: its own, of the leaf it lies in, or the strictest of the leaves below it.

    A path nobody knows needs a restart, and is secret if its name looks so.
    """
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        if rule := rules.get(".".join(parts[:count])):
            return rule if rule.path == path else replace(rule, path=path)
    below = [rule for known, rule in rules.items() if known.startswith(f"{path}.")]
    return _stricter(path, below) if below else FieldRule(path, secret=looks_secret(parts[-1]))


def key_of(name: str, info: FieldInfo) -> str:
    """Return the key a field is written under: its alias, or its name."""
    return info.validation_alias if isinstance(info.validation_alias, str) else info.alias or name


def is_section(kind: Any) -> bool:
    """Tell whether a type is a model whose fields are leaves of their own."""
    return isinstance(kind, type) and issubclass(kind, BaseModel) and not issubclass(kind, RootModel)


def alternatives(annotation: Any) -> list[Any]:
    """Return the members of a union, Annotated taken off; a lone type is its only member."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return alternatives(get_args(annotation)[0])
    if origin in (Union, UnionType):
        return [kind for member in get_args(annotation) for kind in alternatives(member)]
    return [annotation]


def _walk(model: type[BaseModel], above: tuple[str, ...], inherited: Mark, seen: tuple[type, ...]) -> Iterator[Leaf]:
    for name, info in model.model_fields.items():
        keys = (*above, key_of(name, info))
        mark = _combine(inherited, [*_marks(info.metadata), *_marks_inside(info.annotation)])
        kinds = [kind for kind in alternatives(info.annotation) if kind is not type(None)]
        sections = [kind for kind in kinds if is_section(kind) and kind not in (*seen, model)]
        for section in sections:
            yield from _walk(section, keys, mark, (*seen, model))
        if len(sections) < len(kinds) or not kinds:
            yield _leaf(keys, mark, info)


def _leaf(keys: tuple[str, ...], mark: Mark, info: FieldInfo) -> Leaf:
    path = ".".join(keys)
    known = mark.secret if mark.secret is not None else holds_secret(info.annotation) or None
    guessed = known is None and looks_secret(keys[-1]) and not _is_plain(keys[-1], info.annotation)
    rule = FieldRule(path, mark.effect or Effect.RESTART, known or guessed, mark.reason)
    return Leaf(keys, rule, info, guessed)


def _marks(metadata: Any) -> list[Mark]:
    return [item for item in metadata if isinstance(item, Mark)]


def _marks_inside(annotation: Any) -> list[Mark]:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return [*_marks(args[1:]), *_marks_inside(args[0])]
    return [mark for arg in args for mark in _marks_inside(arg)] if origin in (Union, UnionType) else []


def _combine(inherited: Mark, own: list[Mark]) -> Mark:
    result = inherited
    for mark in own:
        effect = mark.effect or result.effect
        reason = mark.reason or (result.reason if mark.effect is None else None)
        result = Mark(effect, result.secret if mark.secret is None else mark.secret, reason)
    return result


def holds_secret(annotation: Any, seen: tuple[Any, ...] = ()) -> bool:
    """Tell whether a type is secret or holds one somewhere inside (`dict[str, SecretStr]`, a list of models)."""
    if isinstance(annotation, type) and issubclass(annotation, (SecretStr, SecretBytes)):
        return True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in seen:
        inside = annotation.model_fields.values()
        return any(
            holds_secret(info.annotation, (*seen, annotation)) or any(mark.secret for mark in _marks(info.metadata))
            for info in inside
        )
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return any(mark.secret for mark in _marks(args[1:])) or holds_secret(args[0], seen)
    return any(holds_secret(arg, seen) for arg in args)


def _is_plain(name: str, annotation: Any) -> bool:
    """Tell whether a type says that a secret-looking name is none: flags, and numbers of tokens or keys."""
    kinds = [kind for kind in alternatives(annotation) if kind is not type(None)]
    numbers = (bool, int, float) if name.lower().endswith(("tokens", "keys")) else (bool,)
    return all(kind in numbers for kind in kinds)


def _stricter(path: str, rules: list[FieldRule]) -> FieldRule:
    order = (Effect.REFUSED, Effect.RESTART, Effect.LIVE)
    strictest = min(rules, key=lambda rule: order.index(rule.effect))
    return FieldRule(path, strictest.effect, any(rule.secret for rule in rules), strictest.reason)
