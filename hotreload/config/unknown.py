"""PURE: keys of an input tree that no model knows, each with the nearest it does know."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from itertools import islice
from typing import Any, Final

from hotreload.config.document import MOST, Keys, dotted
from hotreload.config.fields import ENTRY, Node
from hotreload.config.trees import visit
from hotreload.errors import Problem

LONGEST: Final = 64
"""Longer names are not compared: the time that takes grows with their product."""
COMPARED: Final = 1000
"""Of more names only so many are compared."""
ANNOTATIONS: Final = ("$", "//", "_comment")
"""How keys begin that are meant for people and tools: JSON Schema's own, and what stands for the missing comment."""


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name most like this one, None where none is."""
    if len(name) > LONGEST:
        return None
    return next(iter(get_close_matches(name, list(islice(known, COMPARED)), n=1, cutoff=cutoff)), None)


def unknown_keys(root: Node, data: Mapping[str, Any], above: str = "") -> list[Problem]:
    """Warn of the keys the model would pass over, at most `MOST`; one in a wrong section is named its right one."""
    start: Keys = (above,) if above else ()
    elsewhere = cache(lambda: _by_name(root))  # made once where a key is unknown, and else not at all
    strangers = (met for met in visit(data, root, known=False) if met.node is None and not met.section.open)
    return [
        Problem(dotted((*start, *met.loc)), f"unknown key{_suggestion(met.loc, _names(met.section), elsewhere, start)}")
        for met in islice((met for met in strangers if not str(met.loc[-1]).startswith(ANNOTATIONS)), MOST)
    ]


def _names(section: Node) -> list[str]:
    return [str(place[0]) for node in section.fields.values() for place in node.places]


def _by_name(root: Node) -> dict[str, list[Keys]]:
    found: dict[str, list[Keys]] = {}
    for node in root.walk():
        if node.leaf is not None and ENTRY not in node.keys:
            found.setdefault(str(node.keys[-1]), []).append(node.keys)
    return found


def _suggestion(
    loc: Keys, siblings: Sequence[str], elsewhere: Callable[[], Mapping[str, Sequence[Keys]]], start: Keys
) -> str:
    key = str(loc[-1])
    if near := nearest(key, siblings, 0.7):
        return f"; did you mean {dotted((*start, *loc[:-1], near))}?"
    found = elsewhere().get(key, ())
    return f"; did you mean {dotted((*start, *found[0]))}?" if len(found) == 1 else ""
