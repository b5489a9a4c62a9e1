"""Where each value and key of a JSON text stands, by tree-sitter; built only when somebody asks."""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import tree_sitter_json
from tree_sitter import Language, Node, Parser

STRING_OR_NUMBER = re.compile(r'"(?:[^"\\]|\\.)*"|-?(?:\d[\d.eE+-]*|NaN\b|Infinity\b)')
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
MAX_INT_DIGITS = 4300


@dataclass(frozen=True, slots=True)
class Place:
    """A stretch of text in characters, and the keys and indices that lead to it."""

    loc: tuple[str | int, ...]
    start: int
    end: int


class Positions:
    """Find places in a text that `json` accepts (NaN and Infinity included); offsets are characters."""

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def _source(self) -> bytes:
        """The text in a form tree-sitter takes, each character still one: its grammar knows no `1e+16` and no NaN."""
        text = STRING_OR_NUMBER.sub(_digits, self._text)
        return LONE_SURROGATE.sub("?", text).encode()

    @cached_property
    def _root(self) -> Node:
        tree = Parser(Language(tree_sitter_json.language())).parse(self._source)
        return tree.root_node.named_children[0]

    def value(self, loc: Sequence[str | int]) -> Place:
        """Return the place of the value at `loc`, or of the nearest value above it that exists."""
        node, found = self._root, 0
        for part in loc:
            child = self._child(node, part)
            if child is None:
                break
            node, found = child, found + 1
        return self._place(node, tuple(loc[:found]))

    def key(self, loc: Sequence[str | int]) -> Place | None:
        """Return the place of the key that `loc` ends with; None if no such key is written."""
        above = self._node(loc[:-1])
        if above is None or not loc:
            return None
        pairs = [pair for pair in self._pairs(above) if self._name(pair) == loc[-1]]
        key = pairs[-1].child_by_field_name("key") if pairs else None
        return self._place(key, tuple(loc)) if key else None

    def at(self, offset: int) -> Place:
        """Return the innermost value around a character, a key counting as part of its pair's value."""
        node = self._root
        loc: list[str | int] = []
        while (found := self._around(node, offset)) is not None:
            node = found[1]
            loc.append(found[0])
        return self._place(node, tuple(loc))

    def _around(self, node: Node, offset: int) -> tuple[str | int, Node] | None:
        byte = self._starts[offset]
        for part, child, whole in self._children(node):
            if whole.start_byte <= byte < whole.end_byte:
                return part, child
        return None

    def duplicates(self) -> Iterator[Place]:
        """Yield the place of every key that repeats an earlier one of the same object."""
        for node, loc in self._walk(self._root, ()):
            seen: set[str] = set()
            for pair in self._pairs(node):
                name, key = self._name(pair), pair.child_by_field_name("key")
                if name in seen and key is not None:
                    yield self._place(key, (*loc, name))
                seen.add(name)

    def unusable(self) -> Iterator[tuple[Place, str]]:
        """Yield numbers that are not finite or too long, and strings that no UTF-8 can hold, with the reason."""
        for node, loc in self._walk(self._root, ()):
            place = self._place(node, loc)
            if reason := _reason(node.type, self._text[place.start : place.end]):
                yield place, reason

    def _node(self, loc: Sequence[str | int]) -> Node | None:
        node: Node | None = self._root
        for part in loc:
            node = self._child(node, part) if node else None
        return node

    def _child(self, node: Node, part: str | int) -> Node | None:
        found = [child for name, child, _ in self._children(node) if name == part]
        return found[-1] if found else None

    def _children(self, node: Node) -> Iterator[tuple[str | int, Node, Node]]:
        """Yield name or index, value, and the whole entry (a pair with its key)."""
        for pair in self._pairs(node):
            value = pair.child_by_field_name("value")
            if value is not None:
                yield self._name(pair), value, pair
        if node.type == "array":
            for index, item in enumerate(node.named_children):
                yield index, item, item

    def _walk(self, node: Node, loc: tuple[str | int, ...]) -> Iterator[tuple[Node, tuple[str | int, ...]]]:
        yield node, loc
        for name, child, _ in self._children(node):
            yield from self._walk(child, (*loc, name))

    @staticmethod
    def _pairs(node: Node) -> list[Node]:
        return [child for child in node.named_children if child.type == "pair"] if node.type == "object" else []

    def _name(self, pair: Node) -> str:
        key = pair.child_by_field_name("key")
        return json.loads(self._source[key.start_byte : key.end_byte]) if key else ""

    @cached_property
    def _starts(self) -> Sequence[int]:
        """The byte at which each character starts, and the end; a range where bytes are characters."""
        if self._source.isascii():
            return range(len(self._source) + 1)
        widths = (len(character.encode()) for character in self._source.decode())
        return [0, *accumulate(widths)]

    def _chars(self, byte: int) -> int:
        return bisect_left(self._starts, byte)

    def _place(self, node: Node, loc: tuple[str | int, ...]) -> Place:
        return Place(loc, self._chars(node.start_byte), self._chars(node.end_byte))


def _reason(kind: str, text: str) -> str | None:
    if kind == "string":
        return "holds half a character (a lone surrogate)" if LONE_SURROGATE.search(json.loads(text)) else None
    if kind != "number":
        return None
    if text.endswith(("N", "y")):
        return "is not a number JSON knows"
    if len(text) > MAX_INT_DIGITS:
        return "has too many digits"
    return "is too large for a number" if math.isinf(float(text)) else None


def _digits(match: re.Match[str]) -> str:
    text = match[0]
    return text if text.startswith('"') else "1" * len(text)
