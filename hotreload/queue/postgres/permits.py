"""The permits of the nodes in limits that hold over all of them; in the writer's thread and transaction.

A limit is divided by one node at a time, under an advisory lock that is tried and never waited for: a node that was
stopped in its transaction holds up no other. Permits belong to the owner of a node and go with it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from hotreload.queue.permits import Ask, Grant, Share, grant
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


class Permits:
    """The permits of this process: whether it `used` any, and has `released` them for good."""

    def __init__(self, node: Node) -> None:
        self._node = node.name
        self._owner: str = json.loads(node.text)["id"]
        self.used = self.released = False

    def exchange(self, connection: Connection, calls: Sequence[Sequence[Ask]]) -> Sequence[Sequence[Grant | None]]:
        """Answer each ask; None where another node divides that limit at this moment: ask again."""
        return [self._exchange(connection, asks) for asks in calls]

    def _exchange(self, connection: Connection, asks: Sequence[Ask]) -> Sequence[Grant | None]:
        self.used = True
        if self.released:
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

    def release(self, connection: Connection, calls: Sequence[None]) -> Sequence[None]:
        """Give everything back: this process begins nothing more."""
        self.released = True
        release(connection, self._node)
        return [None] * len(calls)


def release(connection: Connection, node: str) -> None:
    """Free what the last owner of a node held; of a rate it counts until the window has passed."""
    run(connection, _RELEASE, (node, node))
