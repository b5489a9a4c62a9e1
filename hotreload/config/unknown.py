"""PURE: keys of an input tree that no model knows, each with the nearest it does know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Any, cast, get_args

from pydantic import BaseModel

from hotreload.config.document import MOST, dotted
from hotreload.config.fields import alternatives, is_section, key_of
from hotreload.errors import Problem


def unknown_keys(
    model: type[BaseModel], data: Mapping[str, Any], known_paths: Sequence[str], above: str = ""
) -> list[Problem]:
    """Warn of the keys the model would pass over, at most `MOST`.

    `known_paths` are all leaves: a key in the wrong section is named its right one.
    """
    start = (above,) if above else ()
    return [
        Problem(dotted(loc), f"unknown key{_suggestion(loc, siblings, known_paths, start)}")
        for loc, siblings in islice(_walk([model], data, start), MOST)
    ]


def _walk(
    models: Sequence[type[BaseModel]], data: Mapping[str, Any], loc: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], list[str]]]:
    known: dict[str, list[Any]] = {}
    for model in models:
        by_name = _by_name(model)
        for name, info in model.model_fields.items():
            key = key_of(name, info)
            known.setdefault(key, []).append(info.annotation)
            if by_name and name != key:
                known.setdefault(name, []).append(info.annotation)
    open_ended = any(model.model_config.get("extra") in ("allow", "forbid") for model in models)
    for key, value in data.items():
        if key in known:
            yield from _inside(known[key], value, (*loc, key))
        elif not open_ended:
            yield (*loc, key), list(known)


def _inside(
    annotations: Sequence[Any], value: object, loc: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], list[str]]]:
    if not isinstance(value, (Mapping, list)):
        return
    kinds = [kind for annotation in annotations for kind in alternatives(annotation)]
    models = [kind for kind in kinds if is_section(kind)]
    if isinstance(value, Mapping) and models:
        yield from _walk(models, cast("Mapping[str, Any]", value), loc)
    else:
        inner = [arg for kind in kinds for arg in get_args(kind)]
        items = (
            cast("Mapping[str, object]", value).items()
            if isinstance(value, Mapping)
            else enumerate(cast("list[object]", value))
        )
        for key, item in items:
            yield from _inside(inner, item, (*loc, key))


def _by_name(model: type[BaseModel]) -> bool:
    return bool(model.model_config.get("populate_by_name") or model.model_config.get("validate_by_name"))


def _suggestion(
    loc: tuple[str | int, ...], siblings: Sequence[str], known_paths: Sequence[str], start: tuple[str, ...]
) -> str:
    key = str(loc[-1])
    if near := get_close_matches(key, siblings, n=1, cutoff=0.7):
        return f"; did you mean {dotted((*loc[:-1], near[0]))}?"
    elsewhere = [path for path in known_paths if path.split(".")[-1] == key]
    return f"; did you mean {dotted((*start, elsewhere[0]))}?" if len(elsewhere) == 1 else ""
