"""The nodes of one database: what each says of itself, and rounds that they are asked to take part in."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from anyio import to_thread

from hotreload.queue.calls import Inbox
from hotreload.queue.fleet import Ask, Grant, Node, Round
from hotreload.queue.postgres.connection import Connection, one, run
from hotreload.queue.postgres.connection import Node as Owner
from hotreload.queue.postgres.permits import Permits
from hotreload.queue.postgres.reads import Reader
from hotreload.queue.postgres.schema import steps
from hotreload.queue.postgres.wakeup import ROUNDS, notify

KEY: Final = "fleet key"
GONE_S: Final = 86_400
"""How long a node that was taken over is still shown."""
ROUND_S: Final = 600
_PUBLISH: Final = """
INSERT INTO hotreload_node_status VALUES (%s, %s) ON CONFLICT (node) DO UPDATE SET about = excluded.about
"""
_NODES: Final = """
SELECT name, owner <> '' AND seen_at >= clock_timestamp() - %s * interval '1 second',
       (extract(epoch FROM seen_at) * 1000)::bigint, about
FROM hotreload_nodes LEFT JOIN hotreload_node_status ON node = name ORDER BY name
"""
_FORGET: Final = """
DELETE FROM hotreload_nodes WHERE owner = '' AND seen_at < clock_timestamp() - %s * interval '1 second'
"""
_LEFT: Final = "extract(epoch FROM ends_at - clock_timestamp())::float8"
_WAITING: Final = f"""
SELECT id, kind, phase, asked_by, members, {_LEFT}, deadline_s FROM hotreload_rounds
WHERE %s = ANY (members) AND phase IN ('check', 'apply') AND asked_at > clock_timestamp() - %s * interval '1 second'
AND NOT EXISTS (SELECT 1 FROM hotreload_answers AS given
                WHERE given.round = id AND given.node = %s AND given.phase = hotreload_rounds.phase)
"""
_ONE_AT_A_TIME: Final = "SELECT pg_advisory_xact_lock(hashtextextended('hotreload round ' || current_schema(), 0))"
_OVER: Final = "UPDATE hotreload_rounds SET phase = 'refused' WHERE phase = 'check' AND ends_at < clock_timestamp()"
_CHECKED: Final = "SELECT asked_by FROM hotreload_rounds WHERE phase = 'check' LIMIT 1"
_ASK: Final = """
INSERT INTO hotreload_rounds (id, kind, phase, asked_by, members, ends_at, deadline_s)
VALUES (%s, %s, %s, %s, %s, clock_timestamp() + %s * interval '1 second', %s)
"""
_OLD: Final = "DELETE FROM hotreload_rounds WHERE asked_at < clock_timestamp() - %s * interval '1 second'"
_MAKE_KEY: Final = """
INSERT INTO hotreload_documents (kind, id, seq, at_ms, body) VALUES (%s, '', 0, 0, %s) ON CONFLICT DO NOTHING
"""
_LEAVE: Final = "DELETE FROM hotreload_nodes WHERE name = %s AND owner = %s"


class Nodes:
    """Meets `queue.fleet.Fleet`; `look` is the writer's."""

    def __init__(self, owner: Owner, reader: Reader) -> None:
        self._owner = owner
        self._reader = reader
        self._about: str | None = None
        self._said: str | None = None
        self._listeners: list[Callable[[Round], None]] = []
        self._permits = Permits(owner)
        self.inbox: Inbox | None = None
        self.nodes: Sequence[Node] = ()
        self.key: bytes | None = None

    @property
    def name(self) -> str:
        """The name of this node."""
        return self._owner.name

    def publish(self, about: Mapping[str, Any]) -> None:
        """As `Fleet.publish`."""
        self._about = json.dumps(about)

    def on_round(self, listener: Callable[[Round], None]) -> None:
        """As `Fleet.on_round`."""
        self._listeners.append(listener)

    def look(self, connection: Connection) -> None:
        """Say what this node is, and take note of the others and of rounds that wait for it."""
        if self.key is None:
            run(connection, _MAKE_KEY, (KEY, json.dumps(secrets.token_hex(32))))
            key = one(connection, "SELECT body FROM hotreload_documents WHERE kind = %s", (KEY,))
            self.key = bytes.fromhex(json.loads(key))
        about = self._about
        if about is not None and about != self._said:
            run(connection, _PUBLISH, (self.name, about))
            self._said = about
        rows = run(connection, _NODES, (self._owner.lease_s,)).fetchall()
        self.nodes = [Node(name, alive, at, json.loads(said or "{}")) for name, alive, at, said in rows]
        if any(not node.alive for node in self.nodes):
            run(connection, _FORGET, (GONE_S,))
        for row in run(connection, _WAITING, (self.name, ROUND_S, self.name)).fetchall():
            for listener in self._listeners:
                listener(Round(*row))

    def leave(self, connection: Connection, calls: Sequence[None]) -> Sequence[None]:
        """Remove this node: it ends in order and left nothing. Nothing may be written after it."""
        self.release(connection)
        run(connection, _LEAVE, (self.name, self._owner.text))
        self._owner.left = True
        return [None] * len(calls)

    # --- limits over all nodes --------------------------------------------------------------------------------------

    @property
    def lease_s(self) -> float:
        """As `Fleet.lease_s`."""
        return self._owner.lease_s

    async def share(self, asks: Sequence[Ask]) -> Sequence[Grant | None]:
        """As `Fleet.share`."""
        return await self._write(self._permits.exchange, asks)

    def release(self, connection: Connection) -> None:
        """As `Fleet.release`."""
        self._permits.release(connection)

    # --- rounds -----------------------------------------------------------------------------------------------------

    @property
    def schema(self) -> int:
        """As `Fleet.schema`."""
        return steps()[-1].version

    async def ask(self, asked: Round) -> str | None:
        """As `Fleet.ask`."""
        return await self._write(_asked, asked)

    async def phase(self, round_id: str) -> tuple[str, float]:
        """As `Fleet.phase`; cancelled, it leaves the thread that reads behind."""

        def read(connection: Connection) -> tuple[str, float]:
            row = run(connection, f"SELECT phase, {_LEFT} FROM hotreload_rounds WHERE id = %s", (round_id,)).fetchone()
            return ("refused", 0.0) if row is None else (row[0], row[1])

        return await to_thread.run_sync(self._reader.read, read, abandon_on_cancel=True)

    async def advance(self, round_id: str, phase: str, to: str) -> bool:
        """As `Fleet.advance`."""
        return await self._write(_advanced, (to, round_id, phase))

    async def answer(self, round_id: str, phase: str, body: Mapping[str, Any]) -> None:
        """As `Fleet.answer`."""
        await self._write(_answered, (round_id, self.name, phase, json.dumps(body)))

    async def answers(self, round_id: str, phase: str) -> Mapping[str, Mapping[str, Any]]:
        """As `Fleet.answers`."""

        def read(connection: Connection) -> Mapping[str, Mapping[str, Any]]:
            sql = "SELECT node, body FROM hotreload_answers WHERE round = %s AND phase = %s"
            return {node: json.loads(body) for node, body in run(connection, sql, (round_id, phase)).fetchall()}

        return await to_thread.run_sync(self._reader.read, read)

    async def _write(self, verb: Callable[[Connection, Sequence[Any]], Sequence[Any]], arg: Any) -> Any:
        assert self.inbox is not None
        return await self.inbox.ask(verb, arg)


def _asked(connection: Connection, calls: Sequence[Round]) -> Sequence[str | None]:
    run(connection, _ONE_AT_A_TIME)
    run(connection, _OLD, (GONE_S,))
    run(connection, _OVER)
    return [_begun(connection, each) for each in calls]


def _begun(connection: Connection, asked: Round) -> str | None:
    other = one(connection, _CHECKED) if asked.phase == "check" else None
    if other is None:
        told = (asked.id, asked.kind, asked.phase, asked.asked_by, list(asked.members), asked.left_s, asked.deadline_s)
        run(connection, _ASK, told)
        notify(connection, [ROUNDS])
    return other


def _advanced(connection: Connection, calls: Sequence[tuple[str, str, str]]) -> Sequence[bool]:
    sql = "UPDATE hotreload_rounds SET phase = %s WHERE id = %s AND phase = %s"
    return [run(connection, sql, call).rowcount == 1 for call in calls]


def _answered(connection: Connection, calls: Sequence[tuple[str, str, str, str]]) -> Sequence[None]:
    for call in calls:
        run(connection, "INSERT INTO hotreload_answers VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING", call)
    return [None] * len(calls)
