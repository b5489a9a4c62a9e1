"""What a settings model makes of a file: the merged input tree, and the validated settings with their leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Generic, TypeVar, cast

from pydantic import BaseModel, RootModel, SecretBytes, SecretStr
from pydantic_core import to_jsonable_python

from hotreload.config.fields import key_of
from hotreload.errors import Problem

S_co = TypeVar("S_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Merged:
    """The input tree of all sources, in their precedence, and which source each leaf came from.

    `errors` name what a source has and cannot give; the tree is then without it and not to be used.
    """

    data: Mapping[str, Any] = field(repr=False)
    provenance: Mapping[str, str]
    warnings: Sequence[Problem] = ()
    errors: Sequence[Problem] = ()


@dataclass(frozen=True, slots=True)
class Validated(Generic[S_co]):
    """What a model made of an input tree: `leaves` maps dotted paths to plain values, defaults included."""

    settings: S_co
    leaves: Mapping[str, object] = field(repr=False)
    warnings: Sequence[Problem] = ()


def leaf_values(
    settings: BaseModel, above: tuple[str, ...] = (), seen: tuple[type, ...] = ()
) -> dict[tuple[str, ...], object]:
    """Return the plain value of every leaf of an instance, by keys; a section that is None is one leaf."""
    found: dict[tuple[str, ...], object] = {}
    model = type(settings)
    pairs = [(key_of(name, info), getattr(settings, name)) for name, info in model.model_fields.items()]
    for key, value in (*pairs, *(settings.model_extra or {}).items()):
        if isinstance(value, BaseModel) and not isinstance(value, RootModel) and type(value) not in (*seen, model):
            found.update(leaf_values(value, (*above, key), (*seen, model)))
        else:
            found[(*above, key)] = plain(cast("object", value))
    return found


def plain(value: object) -> object:
    """Return a value as JSON knows it, secrets in clear."""
    if isinstance(value, (SecretStr, SecretBytes)):
        return plain(value.get_secret_value())
    if isinstance(value, BaseModel):
        return _plain_model(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    return _plain_container(value)


def _plain_model(value: BaseModel) -> object:
    if isinstance(value, RootModel):
        return plain(cast("RootModel[object]", value).root)
    pairs = {key_of(name, info): getattr(value, name) for name, info in type(value).model_fields.items()}
    return plain({**pairs, **(value.model_extra or {})})


def _plain_container(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in cast("Mapping[object, object]", value).items()}
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in cast("Sequence[object]", value)]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in cast("frozenset[object]", value)), key=repr)
    return value if value is None or type(value) in (str, int, float, bool) else _jsonable(value)


def _jsonable(value: object) -> object:
    return to_jsonable_python(value, fallback=repr, inf_nan_mode="constants")
