"""The permits of the nodes in limits that hold over all of them; in the writer's thread and transaction.

    ask: has, wants, its value ──→ grant: the permits it holds from now on, and how many jobs it may have begun

What all hold together never grows beyond the limit, so no two nodes need to agree at the moment a job begins. A node
lowers what it may use before it gives permits back, and uses more only once they are granted durably.
A limit is divided by one node at a time, under an advisory lock that is tried and never waited for: a node that was
stopped in its transaction holds up no other. Permits belong to the owner of a node and go with it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hotreload.queue.fleet import Ask, Grant
from hotreload.queue.postgres.connection import Connection, Node, run

TURN_S: Final = 5
"""How long what cannot be divided evenly stays with the same nodes."""
_LOCK: Final = f"""
SELECT name, extract(epoch FROM clock_timestamp())::bigint / {TURN_S} FROM unnest(%s::text[]) AS name
WHERE pg_try_advisory_xact_lock(hashtextextended('hotreload limit ' || current_schema() || ' ' || name, 0))
"""
_HELD: Final = """
SELECT name, owner, permits, wants, CASE WHEN until IS NULL THEN value END, until <= clock_timestamp()
FROM hotreload_permits WHERE name = ANY(%s)
"""
_KEEP: Final = """
INSERT INTO hotreload_permits (name, owner, node, permits, wants, value, keep_s)
SELECT name, %s, %s, permits, wants, value, keep_s
FROM unnest(%s::text[], %s::bigint[], %s::bigint[], %s::bigint[], %s::float8[])
    AS new (name, permits, wants, value, keep_s)
ON CONFLICT (name, owner) DO UPDATE
SET permits = excluded.permits, wants = excluded.wants, value = excluded.value, keep_s = excluded.keep_s
"""
_DROP: Final = """
DELETE FROM hotreload_permits USING unnest(%s::text[], %s::text[]) AS old (n, o) WHERE name = n AND owner = o
"""
_RELEASE: Final = """
WITH gone AS (DELETE FROM hotreload_permits WHERE node = %s AND until IS NULL AND keep_s = 0)
UPDATE hotreload_permits SET until = clock_timestamp() + keep_s * interval '1 second'
WHERE node = %s AND until IS NULL AND keep_s > 0
"""


@dataclass(frozen=True, slots=True)
class Share:
    """What another node holds of a limit. One that has ended has no value; its permits count for a while."""

    owner: str
    permits: int
    wants: int = 0
    value: int | None = None


class Permits:
    """The permits of this process."""

    def __init__(self, node: Node) -> None:
        self._node = node.name
        self._owner: str = json.loads(node.text)["id"]
        self._used = self._released = False

    def exchange(self, connection: Connection, calls: Sequence[Sequence[Ask]]) -> Sequence[Sequence[Grant | None]]:
        """Answer each ask; None where another node divides that limit at this moment: ask again."""
        return [self._exchange(connection, asks) for asks in calls]

    def _exchange(self, connection: Connection, asks: Sequence[Ask]) -> Sequence[Grant | None]:
        self._used = True
        if self._released:
            return [Grant(0, 0, short=False) for _ in asks]
        turns = dict(run(connection, _LOCK, (sorted(ask.name for ask in asks),)).fetchall())
        held = run(connection, _HELD, (list(turns),)).fetchall()
        old = [(name, owner) for name, owner, *_, passed in held if passed]
        kept = [
            (ask, grant(ask, self._owner, self._others(ask.name, held), turns[ask.name]))
            for ask in asks
            if ask.name in turns
        ]
        rows = [
            (one.name, to.permits, one.wants, one.value, float(one.keep_s))
            for one, to in kept
            if to.permits or one.wants
        ]
        old += [(one.name, self._owner) for one, to in kept if not (to.permits or one.wants)]
        if rows:
            run(connection, _KEEP, (self._owner, self._node, *(list(column) for column in zip(*rows, strict=True))))
        if old:
            run(connection, _DROP, [list(column) for column in zip(*old, strict=True)])
        grants = {one.name: to for one, to in kept}
        return [grants.get(ask.name) for ask in asks]

    def _others(self, name: str, held: Sequence[tuple[Any, ...]]) -> list[Share]:
        return [
            Share(owner, permits, wants, value)
            for of, owner, permits, wants, value, passed in held
            if of == name and owner != self._owner and not passed
        ]

    def release(self, connection: Connection) -> None:
        """Give everything back: this process begins nothing more."""
        self._released = True
        if self._used:
            release(connection, self._node)


def release(connection: Connection, node: str) -> None:
    """Free what the last owner of a node held; of a rate it counts until the window has passed."""
    run(connection, _RELEASE, (node, node))


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
