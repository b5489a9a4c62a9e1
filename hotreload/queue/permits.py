"""How the nodes on one store divide a limit: each holds permits and begins no more jobs than it has.

    ask: has, wants, its value ──→ grant: the permits it holds from now on, and how many jobs it may have begun

What all hold together never grows beyond the limit, so no two nodes need to agree at the moment a job begins. A node
lowers what it may use before it gives permits back, and uses more only once they are granted durably.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ask:
    """What a node asks for of one limit: `has` is in use or may be used meanwhile, `wants` includes it.

    `value` is the limit as the node's configuration says. `keep_s` is how long its permits count after it has ended:
    0 for a limit, the window of a rate.
    """

    name: str
    value: int
    has: int
    wants: int
    keep_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Share:
    """What another node holds of a limit. One that has ended has no value; its permits count for a while."""

    owner: str
    permits: int
    wants: int = 0
    value: int | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """What a node has of one limit: its `permits`, and how many of them it may use (fewer after the limit shrank).

    `short` is True where others still hold what is its fair part.
    """

    permits: int
    usable: int
    short: bool


def grant(ask: Ask, owner: str, others: Sequence[Share], turn: int = 0) -> Grant:
    """Divide the limit by max-min fairness, the lowest value of all nodes being the limit.

    The node keeps what it has in use. It gets its part as far as others do not hold it. `turn` as in `fair`.
    """
    limit = min([ask.value, *(one.value for one in others if one.value is not None)])
    held = sum(one.permits for one in others)
    ended = sum(one.permits for one in others if one.value is None)
    wants = {one.owner: one.wants for one in others if one.value is not None}
    part = fair(max(0, limit - ended), {**wants, owner: ask.wants}, turn)[owner]
    usable = max(0, min(part, limit - held))
    return Grant(max(ask.has, usable), usable, short=usable < part)


def fair(whole: int, wants: Mapping[str, int], turn: int = 0) -> dict[str, int]:
    """Divide `whole` so that none who wants more has less than another but for one, which goes round with `turn`."""
    level, left = 0, whole
    for place, wanted in enumerate(sorted(wants.values())):
        level = min(wanted, left // (len(wants) - place))
        if level < wanted:
            break
        left -= wanted
    parts = {name: min(wanted, level) for name, wanted in wants.items()}
    more = sorted(name for name, wanted in wants.items() if wanted > level)
    for place in range(min(whole - sum(parts.values()), len(more))):
        parts[more[(place + turn) % len(more)]] += 1
    return parts
