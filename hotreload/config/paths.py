"""PURE but for the home folder: relative paths in a configuration are relative to the folder of the file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel

from hotreload.config.allowed import is_path
from hotreload.config.fields import Leaf, alternatives
from hotreload.config.problems import get
from hotreload.config.sources import put

M = TypeVar("M", bound=BaseModel)


def path_leaves(leaves: Mapping[str, Leaf]) -> list[Leaf]:
    """Return the leaves that hold a path somewhere."""
    return [leaf for leaf in leaves.values() if _holds_path(leaf.info.annotation)]


def anchor_input(data: Mapping[str, Any], leaves: Iterable[Leaf], folder: Path) -> dict[str, Any]:
    """Return the input tree with the relative paths in these leaves made absolute: validators see the real ones."""
    result = deepcopy(dict(data))
    for leaf in leaves:
        if (value := get(result, leaf.keys)) is not None:
            put(result, leaf.keys, _map_texts(value, lambda text: str(_anchored(Path(text), folder))))
    return result


def anchor_defaults(settings: M, folder: Path) -> M:
    """Return the instance with the relative paths of its defaults made absolute."""
    changed: dict[str, object] = {}
    for name in type(settings).model_fields:
        old = getattr(settings, name)
        new = _anchor(old, folder)
        if new is not old:
            changed[name] = new
    if not changed:
        return settings
    given = settings.model_fields_set
    copy = settings.model_copy(update=changed)
    copy.__pydantic_fields_set__ = set(given)
    return copy


def _anchor(value: object, folder: Path) -> object:
    if isinstance(value, Path):
        return value if value.is_absolute() else _anchored(value, folder)
    return anchor_defaults(value, folder) if isinstance(value, BaseModel) else value


def _anchored(path: Path, folder: Path) -> Path:
    return folder / (path.expanduser() if path.parts[:1] == ("~",) else path)


def _holds_path(annotation: Any) -> bool:
    if str in alternatives(annotation):
        return False
    return is_path(annotation) or any(_holds_path(arg) for arg in get_args(annotation))


def _map_texts(value: object, change: Callable[[str], str]) -> object:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_texts(item, change) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        return {key: _map_texts(item, change) for key, item in cast("dict[str, object]", value).items()}
    return value
