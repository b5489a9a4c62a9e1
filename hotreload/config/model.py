"""What a settings model makes of a file: the merged input tree, and the validated settings with their leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeVar, cast

from pydantic import BaseModel, RootModel
from pydantic_core import to_jsonable_python

from hotreload.config.document import Keys
from hotreload.config.fields import SECRETS, Node, key_of
from hotreload.config.trees import SCALARS
from hotreload.errors import Problem

S_co = TypeVar("S_co", covariant=True)


class Origin(NamedTuple):
    """Where a value comes from that the file does not say: the kind of source, and what a person calls it."""

    source: str
    name: str


def origin_of(provenance: Mapping[Keys, Origin], path: Keys) -> Origin | None:
    """Return where the value of a path, or of what it lies in, comes from; None: the file says it, or nothing."""
    tops = (provenance.get(path[:count]) for count in range(len(path), 0, -1)) if provenance else ()
    return next((origin for origin in tops if origin is not None), None)


@dataclass(frozen=True, slots=True)
class Merged:
    """The input tree of all sources, in their precedence; `provenance` has what is not from the file, by its path.

    `errors` name what a source has and cannot give; the tree is then without it and not to be used.
    """

    data: Mapping[str, Any] = field(repr=False)
    provenance: Mapping[Keys, Origin] = field(default_factory=dict[Keys, Origin])
    warnings: Sequence[Problem] = ()
    errors: Sequence[Problem] = ()


@dataclass(frozen=True, slots=True)
class Validated(Generic[S_co]):
    """What a model made of an input tree: `leaves` maps paths to plain values, defaults included."""

    settings: S_co
    leaves: Mapping[Keys, object] = field(repr=False)
    warnings: Sequence[Problem] = ()


def leaf_values(value: object, node: Node | None, keys: Keys = ()) -> dict[Keys, object]:
    """Return the plain value of every leaf of an instance; a section that is None and an empty list are one leaf."""
    found: dict[Keys, object] = {}
    _collect(value, node, keys, found)
    return found


def _collect(value: object, node: Node | None, keys: Keys, found: dict[Keys, object]) -> None:
    if type(value) in SCALARS:
        found[keys] = value
        return
    if isinstance(value, RootModel):
        value = cast("RootModel[object]", value).root
    inside = _inside(value, node) if node is not None and (node.fields or node.entries) else None
    if inside and node is not None:
        for key, inner in inside:
            if type(inner) in SCALARS:
                found[(*keys, key)] = inner
            else:
                _collect(inner, node.child(key), (*keys, key), found)
    else:
        found[keys] = plain(value)


def _inside(value: object, node: Node) -> list[tuple[str | int, object]] | None:
    """Return what lies in a section, or in a list or map of them; None for a value that is one leaf."""
    if node.fields and isinstance(value, BaseModel):
        return list(_fields(value).items())
    if node.entries is not None and isinstance(value, Mapping):
        entries = cast("Mapping[object, object]", value).items()
        return [(str(plain(key)), inner) for key, inner in entries]
    if node.entries is not None and isinstance(value, (list, tuple)):
        return list(enumerate(cast("Sequence[object]", value)))
    return None


def _fields(value: BaseModel) -> dict[str | int, object]:
    found: dict[str | int, object] = {key: getattr(value, name) for name, key in _keys_of(type(value))}
    found.update(value.model_extra or {})
    return found


@lru_cache(maxsize=1024)
def _keys_of(model: type[BaseModel]) -> list[tuple[str, str]]:
    return [(name, key_of(name, info)) for name, info in model.model_fields.items()]


def plain(value: object) -> object:
    """Return a value as JSON knows it, secrets in clear."""
    if type(value) in SCALARS:
        return value
    if isinstance(value, SECRETS):
        return plain(cast("object", value.get_secret_value()))
    if isinstance(value, RootModel):
        return plain(cast("RootModel[object]", value).root)
    if isinstance(value, BaseModel):
        return {str(key): plain(inner) for key, inner in _fields(value).items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    return _plain_container(value)


def _plain_container(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in cast("Mapping[object, object]", value).items()}
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in cast("Sequence[object]", value)]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in cast("frozenset[object]", value)), key=repr)
    return to_jsonable_python(value, fallback=repr, inf_nan_mode="constants")
