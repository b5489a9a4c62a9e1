"""PURE: where each value and key of a JSON text stands; scanned once, and only when asked."""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]]|[^\s{}\[\],:"]+')
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
MAX_INT_DIGITS = 4300

Part = str | int


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of text in characters, and the keys and indices that lead to it."""

    loc: tuple[Part, ...]
    start: int
    end: int


@dataclass(slots=True, eq=False)
class _Node:
    """A value and what leads to it: `entry` and `key_end` are its key's, or both where it begins itself in a list."""

    parent: _Node | None
    name: Part
    entry: int
    key_end: int
    start: int
    end: int
    children: dict[Part, _Node]

    def place(self, *, of_key: bool = False) -> Place:
        parts: list[Part] = []
        node = self
        while node.parent is not None:
            parts.append(node.name)
            node = node.parent
        where = (self.entry, self.key_end) if of_key else (self.start, self.end)
        return Place(tuple(reversed(parts)), *where)


class Positions:
    """Find places in a text that `json` accepts (NaN and Infinity included); offsets are characters."""

    def __init__(self, text: str) -> None:
        self._text = text

    def value(self, loc: Sequence[Part]) -> Place:
        """Return the place of the value at `loc`, or of the nearest value above it that exists."""
        node = self._nodes[0]
        for part in loc:
            if (child := node.children.get(part)) is None:
                break
            node = child
        return node.place()

    def key(self, loc: Sequence[Part]) -> Place | None:
        """Return the place of the key that `loc` ends with; None if no such key is written."""
        node: _Node | None = self._nodes[0]
        for part in loc:
            node = node.children.get(part) if node else None
        return node.place(of_key=True) if node and node.key_end > node.entry else None

    def at(self, offset: int) -> Place:
        """Return the innermost value around a character, a key counting as part of its pair's value."""
        node = self._nodes[max(0, bisect_right(self._nodes, offset, key=lambda node: node.entry) - 1)]
        while offset >= node.end and node.parent is not None:
            node = node.parent
        return node.place()

    def duplicates(self) -> Iterator[Place]:
        """Yield the place of every key that repeats an earlier one of the same object."""
        seen: set[tuple[int, Part]] = set()
        for node in self._nodes[1:]:
            name = id(node.parent), node.name
            if name in seen:
                yield node.place(of_key=True)
            seen.add(name)

    def unusable(self) -> Iterator[tuple[Place, str]]:
        """Yield numbers that are not finite or too long, and keys and texts that no UTF-8 can hold, with the reason."""
        for node in self._nodes:
            if node.key_end > node.entry and (reason := _reason(self._text[node.entry : node.key_end])):
                yield node.place(of_key=True), reason
            if reason := _reason(self._text[node.start : node.end]):
                yield node.place(), reason

    @cached_property
    def _nodes(self) -> Sequence[_Node]:
        """All values in the order in which they are written, the whole first; of equal keys the last is a child."""
        nodes: list[_Node] = []
        above: _Node | None = None
        key: tuple[int, int] | None = None
        for match in TOKEN.finditer(self._text):
            start, end = match.span()
            sign = self._text[start]
            if sign in "}]":
                assert above is not None
                above.end, above = end, above.parent
            elif sign == '"' and key is None and above is not None and self._text[above.start] == "{":
                key = start, end
            else:
                node = _Node(above, self._name(above, key), *(key or (start, start)), start, end, {})
                nodes.append(node)
                if above is not None:
                    above.children[node.name] = node
                above, key = (node if sign in "{[" else above), None
        return nodes

    def _name(self, above: _Node | None, key: tuple[int, int] | None) -> Part:
        if key is None:
            return 0 if above is None else len(above.children)
        text = self._text[slice(*key)]
        return json.loads(text) if "\\" in text else text[1:-1]


def _reason(text: str) -> str | None:
    if text[0] == '"':
        lone = ("\\u" in text or not text.isascii()) and LONE_SURROGATE.search(json.loads(text))
        return "holds half a character (a lone surrogate)" if lone else None
    if text[0] in "{[tfn":
        return None
    if text.endswith(("N", "y")):
        return "is not a number JSON knows"
    if len(text) > MAX_INT_DIGITS:
        return "has too many digits"
    return "is too large for a number" if math.isinf(float(text)) else None
