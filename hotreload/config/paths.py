"""Relative paths in a configuration are relative to the folder of the file, wherever in a model they stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

from pydantic import BaseModel

from hotreload.config.allowed import is_path
from hotreload.config.document import Keys, dotted
from hotreload.config.fields import Leaf, Node, alternatives, is_named_tuple
from hotreload.config.trees import SCALARS, copied, put, visit
from hotreload.errors import ConfigInvalid, Problem

T = TypeVar("T")


class _Wrong(ValueError):
    """What is wrong with a path in a field."""

    def __init__(self, keys: Keys, reason: str) -> None:
        super().__init__(reason)
        self.keys = keys


def path_leaves(leaves: Mapping[Keys, Leaf]) -> frozenset[Keys]:
    """Return the leaves that hold a path somewhere."""
    return frozenset(keys for keys, leaf in leaves.items() if _holds_path(leaf.info.annotation))


def anchored(text: str, folder: Path) -> Path:
    """Return the absolute path that a text stands for; ValueError with the reason where it stands for none."""
    if "\0" in text:
        raise ValueError("a path must not hold a NUL character")
    path = Path(text)
    if text.startswith("~"):
        try:
            path = path.expanduser()
        except RuntimeError:
            raise ValueError(f"no home folder is known for {path.parts[0]}; write an absolute path") from None
    return folder / path


def anchor_input(
    data: Mapping[str, Any], root: Node, leaves: frozenset[Keys], folder: Path
) -> tuple[dict[str, Any], list[Problem]]:
    """Return the input tree with the relative paths in these leaves made absolute: validators see the real ones.

    What cannot be a path is a problem, under its keys in the input; the folder stands for it.
    """
    problems: list[Problem] = []
    if not leaves:
        return dict(data), problems
    result: dict[str, Any] = copied(data)

    def absolute(text: str, loc: Keys) -> str:
        try:
            return str(anchored(text, folder))
        except ValueError as error:
            problems.append(Problem(dotted(loc), str(error)))
            return str(folder)

    for met in visit(data, root):
        if met.node is None or met.node.leaf is None or met.node.leaf.keys not in leaves:
            continue
        put(result, met.loc, _map_texts(met.value, met.loc, absolute))
    return result, problems


def anchor_defaults(value: T, folder: Path) -> T:
    """Return the value with the relative paths in it made absolute: those of defaults. ConfigInvalid as for input."""
    try:
        return cast(T, _anchor(value, folder))
    except _Wrong as error:
        problem = Problem(dotted(error.keys), f"its default: {error}")
    raise ConfigInvalid([problem])


def _anchor(value: object, folder: Path) -> object:
    if type(value) in SCALARS:
        return value
    if isinstance(value, Path):
        return value if value.is_absolute() else anchored(str(value), folder)
    if isinstance(value, BaseModel):
        return _anchor_model(value, folder)
    if is_dataclass(value) and not isinstance(value, type):
        changed = _changed({each.name: getattr(value, each.name) for each in fields(value) if each.init}, folder)
        return replace(value, **changed) if changed else value
    if isinstance(value, dict):
        return _anchor_dict(cast("dict[object, object]", value), folder)
    if is_named_tuple(type(value)):
        named: Any = value
        changed = _changed(named._asdict(), folder)
        return named._replace(**changed) if changed else value
    if type(value) in (list, tuple, set, frozenset):
        items = [(item, _anchor(item, folder)) for item in cast("list[object]", value)]
        changed = any(old is not new for old, new in items)
        return cast("type[list[object]]", type(value))(new for _, new in items) if changed else value
    return value


def _anchor_dict(value: dict[object, object], folder: Path) -> object:
    changed = {key: (_anchor(key, folder), _anchor(item, folder)) for key, item in value.items()}
    if all(key is new and value[key] is item for key, (new, item) in changed.items()):
        return value
    return type(value)(changed.values())


def _anchor_model(value: BaseModel, folder: Path) -> BaseModel:
    changed = _changed(value.__dict__, folder)
    if not changed:
        return value
    copy = value.model_copy(update=changed)
    copy.__pydantic_fields_set__ = set(value.model_fields_set)
    return copy


def _changed(values: Mapping[str, object], folder: Path) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for name, old in values.items():
        try:
            new = _anchor(old, folder)
        except ValueError as error:
            raise _Wrong((name, *(error.keys if isinstance(error, _Wrong) else ())), str(error)) from None
        if new is not old:
            changed[name] = new
    return changed


def _holds_path(annotation: Any) -> bool:
    if str in alternatives(annotation):
        return False
    return is_path(annotation) or any(_holds_path(arg) for kind in alternatives(annotation) for arg in get_args(kind))


def _map_texts(value: object, loc: Keys, change: Callable[[str, Keys], str]) -> object:
    if isinstance(value, str):
        return change(value, loc)
    if isinstance(value, list):
        items = enumerate(cast("list[object]", value))
        return [_map_texts(item, (*loc, index), change) for index, item in items]
    if isinstance(value, dict):
        pairs = cast("dict[str, object]", value).items()
        return {key: _map_texts(item, (*loc, key), change) for key, item in pairs}
    return value
