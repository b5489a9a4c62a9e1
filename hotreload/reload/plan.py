"""PURE, stage 3: the field-level difference between what runs and a candidate.

Values are compared as what they mean, not as they are spelled: 4 and 4.0 are one number, `true` is none.
Restart fields keep their running value (`pin`), so the difference to the file shows again in every plan
until the process restarts or the edit is taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from hotreload.config.fields import Effect, FieldRule
from hotreload.errors import Problem
from hotreload.reload.report import Change, PendingRestart

NEEDS_RESTART: Final = "needs a restart"

Rules = Callable[[str], FieldRule]
Show = Callable[[str, object, FieldRule], object]
Owner = Callable[[str], str | None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a candidate would change. Values are redacted already; all parts are sorted by path.

    `changes` are the live and the refused fields; `live` are the dotted paths parts are told of;
    `refused` says of each refused field why, and a plan that has any is not to be applied.
    """

    changes: tuple[Change, ...] = ()
    pending_restart: tuple[PendingRestart, ...] = ()
    refused: tuple[Problem, ...] = ()
    live: tuple[str, ...] = ()

    @property
    def pinned(self) -> tuple[str, ...]:
        """The paths that keep their running value until the restart."""
        return tuple(pending.path for pending in self.pending_restart)


def nobody(_path: str) -> None:
    """Name no owner."""


def make_plan(
    running: Mapping[str, object],
    candidate: Mapping[str, object],
    rule: Rules,
    show: Show,
    owner: Owner = nobody,
) -> Plan:
    """Compare the leaves of the running snapshot with those of a candidate.

    A section that appears, vanishes or turns into something else is one difference, under its own path and
    by the strictest rule below it: it cannot change by halves.
    """
    running, candidate = _aligned(running, candidate)
    changes: list[Change] = []
    pending: list[PendingRestart] = []
    refused: list[Problem] = []
    for path in sorted(running.keys() | candidate.keys()):
        if same(running.get(path), candidate.get(path)):
            continue
        known = rule(path)
        old, new = (show(path, leaves.get(path), known) for leaves in (running, candidate))
        if known.effect is Effect.RESTART:
            pending.append(PendingRestart(path, old, new, known.reason or NEEDS_RESTART))
            continue
        changes.append(Change(path, old, new, known.effect, owner(path)))
        if known.effect is Effect.REFUSED:
            refused.append(Problem(path, "cannot be changed here", hint=known.reason))
    live = tuple(change.path for change in changes if change.effect is Effect.LIVE)
    return Plan(tuple(changes), tuple(pending), tuple(refused), live)


def same(one: object, other: object) -> bool:
    """Tell whether two JSON values mean the same."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        left, right = cast("Mapping[str, object]", one), cast("Mapping[str, object]", other)
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(one, list) and isinstance(other, list):
        first, second = cast("list[object]", one), cast("list[object]", other)
        return len(first) == len(second) and all(map(same, first, second))
    return one == other


def pin(new: Mapping[str, Any], running: Mapping[str, Any], paths: Sequence[str]) -> dict[str, Any]:
    """Return the new input tree with its running value at each of these paths.

    What the running tree does not have is taken out, and with it a section it leaves empty that the running
    tree does not have either. Neither tree is changed.
    """
    result = dict(new)
    for path in paths:
        result = _pinned(result, running, path.split("."))
    return result


def with_values(tree: Mapping[str, Any], values: Mapping[str, object]) -> dict[str, Any]:
    """Return the tree with each value at its dotted path, sections made as needed; the tree is not changed."""
    result = dict(tree)
    for path, value in values.items():
        top, _, rest = path.partition(".")
        result[top] = with_values(_section(result.get(top)), {rest: value}) if rest else value
    return result


def _pinned(new: Mapping[str, Any], running: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    key, rest = keys[0], keys[1:]
    result = dict(new)
    if rest and (isinstance(running.get(key), Mapping) or (key not in running and isinstance(new.get(key), Mapping))):
        result[key] = _pinned(_section(new.get(key)), _section(running.get(key)), rest)
        if not result[key] and key not in running:
            del result[key]
    elif key in running:
        result[key] = running[key]
    else:
        result.pop(key, None)
    return result


def _section(value: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _aligned(
    one: Mapping[str, object], other: Mapping[str, object]
) -> tuple[Mapping[str, object], Mapping[str, object]]:
    """Fold the leaves of a section into one where the other side has a value in the section's place."""
    tops = [path for path in one.keys() ^ other.keys() if _has_below(one, path) or _has_below(other, path)]
    for top in sorted(tops):
        one, other = _folded(one, top), _folded(other, top)
    return one, other


def _has_below(leaves: Mapping[str, object], top: str) -> bool:
    return any(path.startswith(f"{top}.") for path in leaves)


def _folded(leaves: Mapping[str, object], top: str) -> Mapping[str, object]:
    inside = {path.removeprefix(f"{top}."): value for path, value in leaves.items() if path.startswith(f"{top}.")}
    if not inside:
        return leaves
    rest = {path: value for path, value in leaves.items() if not path.startswith(f"{top}.")}
    return {**rest, top: inside}
