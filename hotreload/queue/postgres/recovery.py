"""What the end of a node's last owner left behind: rows still running under its name are its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from hotreload.queue.contract import DrainMark, Recovered, Report
from hotreload.queue.job import Interrupted, JobRow, JobState, after_crash, decide
from hotreload.queue.postgres.connection import Connection, Node, atomically, machine_ended, owner_of, run
from hotreload.queue.postgres.documents import Documents, known
from hotreload.queue.postgres.ledger import Ledger
from hotreload.queue.postgres.statements import COUNTERS, Settlement, Statements

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
ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, written = excluded.written
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
    node = owner.name
    statements, documents = Statements(ledger, lambda: now_ms, node), Documents(lambda: now_ms, node)
    with atomically(connection):
        before = owner_of(connection, node)
        run(connection, _OWN, (node, owner.text))
        note = cut if cut is not None and before and cut.owner == before else None
        drain = documents.marked(connection) or (None if note is None or known(connection, note) else note)
        rows = [JobRow(str(row[0]), *row[1:]) for row in run(connection, _RUNNING, (node,))]
        crashed_with, only = machine_ended(before), sum(row.suspect for row in rows) == 1
        moves = [
            Settlement(
                row,
                decide(row, Interrupted(), now_ms)
                if drain
                else after_crash(row, only_suspect=only, machine_ended=crashed_with),
                None,
            )
            for row in rows
        ]
        statements.transition(connection, moves, now_ms, fence=True)
        ledger.write(connection)
        found = _found(connection, moves, drain, node)
        documents.unmark_draining(connection, [None])
        if drain is not None and report is not None:
            documents.put(connection, [report(found)])
    ledger.refresh(connection)
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
