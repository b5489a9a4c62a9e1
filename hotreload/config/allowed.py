"""PURE: say in plain words what a field takes, from its type and its limits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import NoneType
from typing import Any, Final, Literal, get_args, get_origin

import annotated_types as at
from pydantic import BaseModel, RootModel, SecretBytes, SecretStr
from pydantic.fields import FieldInfo

from hotreload.config.fields import alternatives

NAMES: Final[Mapping[type, str]] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    SecretStr: "text",
    SecretBytes: "text",
    bytes: "text",
    NoneType: "null",
    Path: "a path",
    BaseModel: "an object",
}


def allowed(info: FieldInfo) -> str | None:
    """Return for instance `a whole number from 1 to 1024, or null`; None where the type has no plain name."""
    named = [_name(kind) for kind in alternatives(info.annotation)]
    names = list(dict.fromkeys(name for name in named if name is not None))
    if len(names) < len(set(named)):
        return None
    limits = _limits(info.metadata)
    head = [name for name in names if name != "null"]
    text = " or ".join(head) + (f" {limits}" if limits else "")
    return f"{text}, or null" if len(head) < len(names) and head else text or "null"


def choices(info: FieldInfo) -> list[str]:
    """Return the texts a field may be, where they are listed."""
    return [str(value) for kind in alternatives(info.annotation) for value in _listed(kind) if isinstance(value, str)]


def is_path(annotation: Any) -> bool:
    """Tell whether a type is a path, perhaps among others."""
    return any(isinstance(kind, type) and issubclass(kind, Path) for kind in alternatives(annotation))


def _name(kind: Any) -> str | None:
    if listed := _listed(kind):
        shown = [json.dumps(value, ensure_ascii=False, default=str) for value in listed]
        return f"one of {', '.join(shown)}" if len(shown) > 1 else shown[0]
    origin = get_origin(kind) or kind
    if not isinstance(origin, type):
        return None
    if issubclass(origin, (list, tuple, set, frozenset)):
        inner = next(iter(get_args(kind)), None)
        name = _name(inner) if inner is not None else None
        return f"a list, each {name}" if name else "a list"
    if issubclass(origin, Mapping):
        return "an object"
    if issubclass(origin, RootModel):
        return allowed(origin.model_fields["root"])
    return next((name for known, name in NAMES.items() if issubclass(origin, known)), None)


def _listed(kind: Any) -> Sequence[object]:
    if get_origin(kind) is Literal:
        return get_args(kind)
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [member.value for member in kind]
    return ()


def _limits(metadata: Sequence[Any]) -> str:
    ge, gt, le, lt = (_limit(metadata, kind) for kind in ("ge", "gt", "le", "lt"))
    if ge is not None and le is not None:
        return f"from {ge} to {le}"
    words = (("from", ge), ("above", gt), ("up to", le), ("below", lt))
    parts = [f"{word} {value}" for word, value in words if value is not None]
    shortest, longest = _limit(metadata, "min_length"), _limit(metadata, "max_length")
    if shortest:
        parts.append(f"of at least {shortest}")
    if longest is not None:
        parts.append(f"of at most {longest}")
    return " and ".join(parts)


def _limit(metadata: Sequence[Any], name: str) -> Any:
    for item in metadata:
        parts = list(item) if isinstance(item, at.GroupedMetadata) else [item]
        for part in parts:
            if (value := getattr(part, name, None)) is not None:
                return value
    return None
