"""The leaves of an ov.conf: what it says, and what holds where it says nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, cast

from pydantic import BaseModel

from hotreload.config.document import Keys, dotted
from hotreload.config.model import plain
from hotreload.openviking import fields
from hotreload.openviking.fields import PARSERS


def join(above: str, path: str) -> str:
    """Return a path below a section."""
    return f"{above}.{path}" if above else path


def as_written(path: str) -> str:
    """Return where a field of `OpenVikingConfig` stands in the file."""
    return f"parsers.{path}" if path.partition(".")[0] in PARSERS else path


def keys_of(path: str) -> Keys:
    """Return the keys of a dotted path of a model, none for an empty one."""
    return tuple(path.split(".")) if path else ()


def by_keys(data: Mapping[str, Any], above: Keys = ()) -> dict[Keys, object]:
    """Return what a file says, leaf by leaf; a list and an empty object are one leaf."""
    found: dict[Keys, object] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            found.update(by_keys(cast("Mapping[str, Any]", value), (*above, key)))
        else:
            found[(*above, key)] = value
    return found


def written_leaves(data: Mapping[str, Any]) -> dict[str, object]:
    """Return what a file says, by dotted path."""
    return {dotted(keys): value for keys, value in by_keys(data).items()}


def default_leaves(config: BaseModel, server: BaseModel, data: Mapping[str, Any]) -> dict[str, object]:
    """Return the values in force that the file does not say, leaving out what OpenViking derives by itself."""
    found: dict[str, object] = {}
    for path, value in _unset(config, ""):
        top = path.partition(".")[0]
        found[f"parsers.{path}" if top in PARSERS and top not in data else path] = value
    found.update(_unset(server, "server"))
    return {path: value for path, value in found.items() if not fields.is_derived(path)}


def _unset(model: BaseModel, above: str) -> Iterator[tuple[str, object]]:
    for name in type(model).model_fields:
        value: Any = getattr(model, name)
        path = join(above, name)
        if isinstance(value, BaseModel):
            yield from _unset(value, path)
        elif dataclasses.is_dataclass(value):  # the parsers: they do not tell what was set
            yield from ((f"{path}.{each.name}", plain(getattr(value, each.name))) for each in dataclasses.fields(value))
        elif name not in model.model_fields_set:
            yield path, plain(value)
