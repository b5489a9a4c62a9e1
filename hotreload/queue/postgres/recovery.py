"""What the end of a node's last owner left behind: rows still running under its name are its own.

The next owner of the name puts them right when it starts; where none does within the time of the lease, another node.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hotreload.queue.contract import DrainMark, Recovered, Report
from hotreload.queue.ledger import Ledger
from hotreload.queue.postgres.connection import Connection, Node, atomically, machine_ended, owner_of, run
from hotreload.queue.postgres.permits import release
from hotreload.queue.postgres.statements import PostgresStatements
from hotreload.queue.postgres.wakeup import notify, topics_of
from hotreload.queue.recovery import Documents, put_back

_OWN: Final = """
INSERT INTO hotreload_nodes VALUES (%s, %s)
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, written = excluded.written, seen_at = clock_timestamp()
"""
_TAKE_OVER: Final = """
UPDATE hotreload_nodes AS node SET owner = '' FROM (
    SELECT name, owner FROM hotreload_nodes
    WHERE name <> %s AND owner <> '' AND seen_at < clock_timestamp() - %s * interval '1 second' FOR UPDATE SKIP LOCKED
) AS was WHERE node.name = was.name RETURNING was.name, was.owner
"""


def mark_of(node: str) -> str:
    """Return the kind of document that the mark of a node's drain has."""
    return f"draining {node}"


def recover(
    connection: Connection,
    ledger: Ledger,
    now_ms: int,
    *,
    owner: Node,
    cut: DrainMark | None = None,
    report: Report | None = None,
) -> Recovered:
    """Own the node and put back what its last owner ran, as `put_back`: one transaction.

    `cut` stands for a mark that could not be made, and counts if it is of the last owner.
    """
    with atomically(connection):
        before = owner_of(connection, owner.name)
        run(connection, _OWN, (owner.name, owner.text))
        note = cut if cut is not None and before and cut.owner == before else None
        found = _put_back(connection, ledger, now_ms, owner.name, note, report, machine_ended(before))
        ledger.write(connection)
        notify(connection, topics_of(ledger.woken))
    ledger.refresh(connection)
    return found


def take_over(
    connection: Connection, ledger: Ledger, now_ms: int, *, owner: Node, report: Report | None
) -> Mapping[str, Recovered]:
    """Take the jobs of each node over that was not seen for the lease, as its next start would; by the node's name.

    From the commit on what such a node still wants to write is refused, so it may be stopped or cut off and not gone.
    """
    with atomically(connection):
        gone = run(connection, _TAKE_OVER, (owner.name, owner.lease_s)).fetchall()
        found = {
            name: _put_back(connection, ledger, now_ms, name, None, report, machine_ended(before))
            for name, before in gone
        }
        ledger.write(connection)
        notify(connection, topics_of(ledger.woken))
    ledger.committed()
    return found


def _put_back(
    connection: Connection,
    ledger: Ledger,
    now_ms: int,
    node: str,
    note: DrainMark | None,
    report: Report | None,
    rebooted: bool,
) -> Recovered:
    sql = PostgresStatements(node)
    documents = Documents(sql, lambda: now_ms, mark_of(node))
    release(connection, node)
    return put_back(connection, sql, documents, ledger, now_ms, note=note, report=report, machine_ended=rebooted)
