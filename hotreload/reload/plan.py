"""PURE, stage 3: the field-level difference between what runs and a candidate.

Values are compared as what they mean, not as they are spelled: 4 and 4.0 are one number, `true` is none. The cost is
linear in the leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from hotreload.config.document import Keys, dotted
from hotreload.config.fields import Effect, FieldRule
from hotreload.config.trees import ABSENT
from hotreload.errors import Problem
from hotreload.reload.report import Change, PendingRestart

NEEDS_RESTART: Final = "needs a restart"
FOLLOWS: Final = "follows from a field that needs a restart"
SHOWN_WHOLE: Final = 50
"""Of a list or map with more entries only those that differ are shown."""

Rules = Callable[[Keys], FieldRule]
Show = Callable[[str, object, FieldRule], object]
Owner = Callable[[Keys], str | None]


@dataclass(frozen=True, slots=True)
class Difference:
    """One path whose value is not the same on both sides; None where a side has none."""

    keys: Keys
    old: object
    new: object


@dataclass(frozen=True, slots=True)
class Plan:
    """What a candidate changes. Values are redacted already; all parts are sorted by path.

    `changes` are the live and the refused fields; `live` are the paths parts are told of; `pinned` are those that
    keep their running value until the restart; `refused` says of each field that may not change why, and a plan
    that has any is not to be applied.
    """

    changes: tuple[Change, ...] = ()
    pending_restart: tuple[PendingRestart, ...] = ()
    refused: tuple[Problem, ...] = ()
    live: tuple[Keys, ...] = ()
    pinned: tuple[Keys, ...] = ()


def no_owner(_path: Keys) -> None:
    """Name no owner."""


def make_plan(
    changed: Sequence[Difference], waiting: Sequence[Difference], rule: Rules, show: Show, owner: Owner = no_owner
) -> Plan:
    """Return the plan that changes some paths and lets others wait for a restart."""
    changes: list[Change] = []
    refused: list[Problem] = []
    for each in changed:
        known, path = rule(each.keys), dotted(each.keys)
        changes.append(Change(path, *_shown(each, path, known, show), known.effect, owner(each.keys)))
        if known.effect is Effect.REFUSED:
            refused.append(Problem(path, "cannot be changed here", hint=known.reason))
    pending = [_pending(each, rule(each.keys), show) for each in waiting]
    live = tuple(each.keys for each in changed if rule(each.keys).effect is Effect.LIVE)
    return Plan(tuple(changes), tuple(pending), tuple(refused), live, tuple(each.keys for each in waiting))


def _pending(each: Difference, known: FieldRule, show: Show) -> PendingRestart:
    path = dotted(each.keys)
    reason = FOLLOWS if known.effect is Effect.LIVE else known.reason or NEEDS_RESTART
    return PendingRestart(path, *_shown(each, path, known, show), reason)


def _shown(each: Difference, path: str, known: FieldRule, show: Show) -> tuple[object, object]:
    old, new = (each.old, each.new) if known.secret else narrowed(each.old, each.new)
    return show(path, old, known), show(path, new, known)


def narrowed(old: object, new: object) -> tuple[object, object]:
    """Return two values, of long lists and maps only the entries that differ, those of lists under their number."""
    left, right = _entries(old), _entries(new)
    if left is None or right is None or max(len(left), len(right)) <= SHOWN_WHOLE:
        return old, new
    pairs = [(key, left.get(key), right.get(key)) for key in dict.fromkeys((*left, *right))]
    kept = {key: narrowed(one, other) for key, one, other in pairs if not same(one, other)}
    return {key: pair[0] for key, pair in kept.items()}, {key: pair[1] for key, pair in kept.items()}


def _entries(value: object) -> Mapping[str, object] | None:
    if isinstance(value, Mapping):
        return cast("Mapping[str, object]", value)
    if isinstance(value, list):
        return {str(index): item for index, item in enumerate(cast("list[object]", value))}
    return None


class _Inside(dict[str | int, object]):
    """What lies below one path: a section, or the entries of a list or map."""

    @property
    def is_list(self) -> bool:
        return any(isinstance(key, int) for key in self)


def differences(
    running: Mapping[Keys, object], candidate: Mapping[Keys, object], *, missing: object = ABSENT
) -> list[Difference]:
    """Compare the leaves of two configurations; the result is sorted by path.

    A section that appears, vanishes or turns into something else (a list of sections) is one difference, under its own
    path, and so is a list of sections that gets longer or shorter: neither can change by halves. `missing` stands for a
    key that a side does not have; None where that is the same as null.
    """
    tops = {each[0] for each, value in running.items() if not same(value, candidate.get(each, ABSENT))}
    tops |= {each[0] for each in candidate.keys() - running.keys()}
    if not tops:
        return []
    old, new = ({each: value for each, value in side.items() if each[0] in tops} for side in (running, candidate))
    return sorted(_compare(_nested(old), _nested(new), (), missing), key=lambda each: dotted(each.keys))


def _nested(leaves: Mapping[Keys, object]) -> _Inside:
    root = _Inside()
    for keys, value in leaves.items():
        node = root
        for key in keys[:-1]:
            inner = node.get(key)
            if not isinstance(inner, _Inside):
                inner = node[key] = _Inside()
            node = inner
        if not isinstance(node.get(keys[-1]), _Inside):
            node[keys[-1]] = value
    return root


def _compare(old: object, new: object, keys: Keys, missing: object) -> Iterator[Difference]:
    if isinstance(old, _Inside) and isinstance(new, _Inside):
        if (old.is_list or new.is_list) and old.keys() != new.keys():
            yield Difference(keys, _whole(old), _whole(new))
            return
        for key in dict.fromkeys((*old, *new)):
            yield from _compare(old.get(key, missing), new.get(key, missing), (*keys, key), missing)
    elif isinstance(old, _Inside) or isinstance(new, _Inside) or not same(old, new):
        yield Difference(keys, _whole(old), _whole(new))


def _whole(value: object) -> object:
    if not isinstance(value, _Inside):
        return None if value is ABSENT else value
    if value.is_list:
        return [_whole(inner) for inner in value.values()]
    return {key: _whole(inner) for key, inner in value.items()}


def same(one: object, other: object) -> bool:
    """Tell whether two JSON values mean the same."""
    if one is other:
        return True
    if type(one) is str:
        return one == other
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        left, right = cast("Mapping[str, object]", one), cast("Mapping[str, object]", other)
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(one, list) and isinstance(other, list):
        first, second = cast("list[object]", one), cast("list[object]", other)
        return len(first) == len(second) and all(map(same, first, second))
    return one == other or (one != one and other != other)  # two that are not a number


def joined(paths: Sequence[Keys], others: Sequence[Keys]) -> list[Keys]:
    """Return the highest paths that have some of the first below them, and none of the others.

    What holds for all that differs below a path is then done once, not for each of thousands.
    """
    mixed = {path[:count] for path in others for count in range(len(path) + 1)} | {()}
    tops = (next(path[:count] for count in range(1, len(path) + 1) if path[:count] not in mixed) for path in paths)
    return list(dict.fromkeys(tops))


def is_below(path: Keys, tops: frozenset[Keys]) -> bool:
    """Tell whether a path is one of these or lies below one."""
    return any(path[:count] in tops for count in range(1, len(path) + 1))
