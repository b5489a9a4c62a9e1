"""PURE: input trees (what JSON holds) and the places in them where a model looks for its fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, NamedTuple, cast

from hotreload.config.document import Keys
from hotreload.config.fields import Node

ABSENT: Final = object()
SCALARS: Final = frozenset({str, int, float, bool, type(None)})


class Met(NamedTuple):
    """A value in an input tree: its path, its keys in the input, and the place in the model, None for an unknown key.

    `section` is the place of the section it stands in.
    """

    keys: Keys
    loc: Keys
    node: Node | None
    value: object
    section: Node


def copied(tree: object) -> Any:
    """Return a tree with maps and lists of its own."""
    if type(tree) in SCALARS:
        return tree
    if isinstance(tree, Mapping):
        return {key: copied(value) for key, value in cast("Mapping[str, object]", tree).items()}
    return [copied(value) for value in cast("list[object]", tree)] if isinstance(tree, list) else tree


def get(tree: object, keys: Keys) -> object:
    """Return what stands at these keys, ABSENT where nothing does."""
    for key in keys:
        if isinstance(tree, Mapping) and key in tree:
            tree = cast("Mapping[str | int, object]", tree)[key]
        elif isinstance(tree, list) and isinstance(key, int) and key < len(cast("list[object]", tree)):
            tree = cast("list[object]", tree)[key]
        else:
            return ABSENT
    return tree


def put(tree: Any, keys: Keys, value: object) -> bool:
    """Set a value, sections made as needed; False where something that is not a section or list is in the way."""
    for key, following in pairwise(keys):
        inner: Any = get(tree, (key,))
        if inner is ABSENT or inner is None:
            inner = [] if isinstance(following, int) else {}
            if not put(tree, (key,), inner):
                return False
        tree = inner
    key = keys[-1]
    if isinstance(tree, list) and isinstance(key, int) and key <= len(cast("list[object]", tree)):
        tree[key : key + 1] = [value]
    elif isinstance(tree, dict):
        tree[key] = value
    else:
        return False
    return True


def remove(tree: object, keys: Keys) -> None:
    """Take out what stands at these keys; of a list only the last entry, or the others would move."""
    above, key = get(tree, keys[:-1]), keys[-1]
    if isinstance(above, dict):
        cast("dict[str | int, object]", above).pop(key, None)
    elif isinstance(above, list) and key == len(cast("list[object]", above)) - 1:
        above.pop()


def places_of(node: Node | None, key: str | int) -> tuple[Keys, ...]:
    """Return where the value of a key may stand below its section, in the order a model looks."""
    inner = node.child(key) if node is not None else None
    return inner.places if inner is not None and inner.places else ((key,),)


def locate(tree: object, root: Node | None, path: Keys) -> Keys:
    """Return the keys in the input of a path: where its parts stand, else where a model looks first."""
    loc: Keys = ()
    node, here = root, tree
    for key in path:
        places = places_of(node, key)
        place = next((each for each in places if get(here, each) is not ABSENT), places[0])
        loc, here = (*loc, *place), get(here, place)
        node = node.child(key) if node is not None else None
    return loc


def find(tree: object, root: Node | None, path: Keys) -> object:
    """Return what the input says of a path, ABSENT where it says nothing."""
    return get(tree, locate(tree, root, path))


def assign(tree: Any, root: Node | None, path: Keys, value: object) -> bool:
    """Say in the input, in place, what the value of a path is, or with ABSENT nothing; False where it cannot be."""
    loc, node = locate(tree, root, path), root
    for key in path[:-1]:
        node = node.child(key) if node is not None else None
    places = places_of(node, path[-1])
    used = next(place for place in places if loc[len(loc) - len(place) :] == place)
    above = loc[: len(loc) - len(used)]
    for place in places:
        if (value is ABSENT or place != used) and not isinstance(place[0], int):  # no entry of a list of sections
            remove(tree, (*above, *place))
    return value is ABSENT or put(tree, loc, value)


def pin(tree: Any, other: Mapping[str, Any], root: Node | None, path: Keys) -> None:
    """Say in the input, in place, the same of a path as the other does.

    What the other does not have is taken out, and with it a section that is empty then and not in the other either.
    """
    for count in range(1, len(path)):
        above = find(other, root, path[:count])
        if above is not ABSENT and not isinstance(above, (Mapping, list)):
            assign(tree, root, path[:count], above)
            return
        if above is not ABSENT and not isinstance(find(tree, root, path[:count]), (Mapping, list)):
            assign(tree, root, path[:count], {} if isinstance(above, Mapping) else [])
    value = find(other, root, path)
    assign(tree, root, path, copied(value))
    for count in range(len(path) - 1, 0, -1):
        if value is not ABSENT or find(tree, root, path[:count]) != {}:
            return
        if find(other, root, path[:count]) is not ABSENT:
            return
        assign(tree, root, path[:count], ABSENT)


def visit(
    tree: Mapping[str, Any], section: Node, keys: Keys = (), loc: Keys = (), *, known: bool = True
) -> Iterator[Met]:
    """Yield what an input tree says, leaf by leaf (with `known`), and the keys that no model knows."""
    if not tree:
        return
    for key, node in section.fields.items():
        for place in node.places:
            value = tree.get(cast(str, place[0]), ABSENT) if len(place) == 1 else get(tree, place)
            if value is not ABSENT:
                if node.fields or node.entries is not None:
                    yield from _visit_inside(Met((*keys, key), (*loc, *place), node, value, section), known)
                elif known:
                    yield Met((*keys, key), (*loc, *place), node, value, section)
                break
    for key in () if tree.keys() <= section.heads else [key for key in tree if key not in section.heads]:
        met = Met((*keys, key), (*loc, key), section.entries, tree[key], section)
        yield from _visit_inside(met, known) if section.entries is not None else (met,)


def _visit_inside(met: Met, known: bool) -> Iterator[Met]:
    node, value = cast(Node, met.node), met.value
    if node.fields and isinstance(value, Mapping):
        yield from visit(cast("Mapping[str, Any]", value), node, met.keys, met.loc, known=known)
        return
    entries: Sequence[tuple[str | int, object]] = ()
    if node.entries is not None and isinstance(value, Mapping):
        entries = list(cast("Mapping[str | int, object]", value).items())
    elif node.entries is not None and isinstance(value, list):
        entries = list(enumerate(cast("list[object]", value)))
    for key, inner in entries:
        yield from _visit_inside(Met((*met.keys, key), (*met.loc, key), node.child(key), inner, node), known)
    if not entries and known:
        yield met


def meaning(root: Node, loc: Keys) -> tuple[Keys, Node | None]:
    """Return the path of keys in the input, and its place in the model, None for what no model knows."""
    keys: Keys = ()
    node, left = root, loc
    while left:
        places = ((key, inner, place) for key, inner in node.fields.items() for place in inner.places)
        step = next((each for each in places if left[: len(each[2])] == each[2]), None)
        if step is None and node.entries is None:
            return (*keys, *left), None
        key, node, place = step or (left[0], cast(Node, node.child(left[0])), left[:1])
        keys, left = (*keys, key), left[len(place) :]
    return keys, node
