"""What the end of a node's last owner left behind: rows still running under its name are its own.

The next owner of the name puts them right when it starts; where none does within the time of the lease, another node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from hotreload.queue.contract import DrainMark, Recovered, Report
from hotreload.queue.job import Interrupted, JobRow, JobState, after_crash, decide
from hotreload.queue.postgres.connection import Connection, Node, atomically, machine_ended, owner_of, run
from hotreload.queue.postgres.documents import Documents, known
from hotreload.queue.postgres.ledger import Ledger
from hotreload.queue.postgres.statements import COUNTERS, Settlement, Statements
from hotreload.queue.postgres.wakeup import notify, topics_of

# Without payloads and cursors: all of them may not fit into memory.
_RUNNING: Final = f"""
SELECT id, queue, '', CASE WHEN cursor IS NOT NULL OR steps > 0 THEN 'null' END, {COUNTERS}
FROM hotreload_jobs WHERE state = 'running' AND node = %s ORDER BY id FOR UPDATE
"""
_DONE_SINCE: Final = (
    "SELECT id FROM hotreload_jobs WHERE state = 'done' AND node = %s AND ended_at_ms >= %s ORDER BY id"
)
_OWN: Final = """
INSERT INTO hotreload_nodes VALUES (%s, %s)
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, written = excluded.written, seen_at = clock_timestamp()
"""
_TAKE_OVER: Final = """
UPDATE hotreload_nodes SET owner = '' WHERE name IN (
    SELECT name FROM hotreload_nodes
    WHERE name <> %s AND owner <> '' AND seen_at < clock_timestamp() - %s * interval '1 second' FOR UPDATE SKIP LOCKED)
RETURNING name
"""


def recover(
    connection: Connection,
    ledger: Ledger,
    now_ms: int,
    *,
    owner: Node,
    cut: DrainMark | None = None,
    report: Report | None = None,
) -> Recovered:
    """Own the node; put back or park each of its running jobs, count why, fence the old claims: one transaction.

    The mark of a drain ends. `cut` stands for one that could not be made, and counts if it is of the last owner. What
    `report` makes of a drain that was cut is kept in the same transaction. Cut half-way nothing happened, and the next
    open finds the same. Run twice, the second finds nothing.
    """
    with atomically(connection):
        before = owner_of(connection, owner.name)
        run(connection, _OWN, (owner.name, owner.text))
        note = cut if cut is not None and before and cut.owner == before else None
        found = _put_back(
            connection, ledger, now_ms, owner.name, note=note, report=report, rebooted=machine_ended(before)
        )
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
        names = [name for (name,) in run(connection, _TAKE_OVER, (owner.name, owner.lease_s)).fetchall()]
        found = {name: _put_back(connection, ledger, now_ms, name, report=report) for name in names}
        ledger.write(connection)
        notify(connection, topics_of(ledger.woken))
    ledger.committed()
    return found


def _put_back(
    connection: Connection,
    ledger: Ledger,
    now_ms: int,
    node: str,
    *,
    report: Report | None,
    note: DrainMark | None = None,
    rebooted: bool = False,
) -> Recovered:
    statements, documents = Statements(ledger, lambda: now_ms, node), Documents(lambda: now_ms, node)
    drain = documents.marked(connection) or (None if note is None or known(connection, note) else note)
    rows = [JobRow(str(row[0]), *row[1:]) for row in run(connection, _RUNNING, (node,))]
    only_suspect = sum(row.suspect for row in rows) == 1
    moves = [
        Settlement(
            row,
            decide(row, Interrupted(), now_ms)
            if drain
            else after_crash(row, only_suspect=only_suspect, machine_ended=rebooted),
            None,
        )
        for row in rows
    ]
    statements.transition(connection, moves, now_ms, fence=True)
    found = _found(connection, moves, drain, node)
    documents.unmark_draining(connection, [None])
    if drain is not None and report is not None:
        documents.put(connection, [report(found)])
    return found


def _found(connection: Connection, moves: Sequence[Settlement], drain: DrainMark | None, node: str) -> Recovered:
    ids = [move.row.id for move in moves]
    done = run(connection, _DONE_SINCE, (node, drain.since_ms)).fetchall() if drain else []
    return Recovered(
        interrupted=ids if drain else [],
        crashed=[] if drain else ids,
        suspects=[move.row.id for move in moves if move.to.suspect],
        parked=[move.row.id for move in moves if move.to.state is JobState.DEAD],
        checkpointed=[move.row.id for move in moves if move.row.cursor_json is not None],
        finished=[str(job_id) for (job_id,) in done],
        drain=drain,
    )
