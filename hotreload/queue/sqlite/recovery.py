"""What the end of the last owner left behind: rows still running are its own, as only one process owns the store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import apsw

from hotreload.queue.contract import DrainMark, Recovered, Report
from hotreload.queue.job import Interrupted, JobRow, JobState, after_crash, decide
from hotreload.queue.sqlite.connection import atomically, one
from hotreload.queue.sqlite.documents import Documents, known, marked
from hotreload.queue.sqlite.ledger import Ledger
from hotreload.queue.sqlite.statements import COUNTERS, Settlement, Statements

PAGE: Final = 1_000
_RUNNING: Final = f"""
SELECT json_group_array(json_array(id, queue, '', progress, {COUNTERS})) FROM (
    SELECT id, queue, iif(cursor IS NOT NULL OR steps > 0, 'null', NULL) AS progress, {COUNTERS}
    FROM hotreload_jobs INDEXED BY hotreload_jobs_running WHERE state = 'running' AND id > ? ORDER BY id LIMIT ?)
"""
_DONE_SINCE: Final = "SELECT json_group_array(id) FROM hotreload_jobs WHERE state = 'done' AND ended_at_ms >= ?"
_SUSPECTS: Final = "SELECT count(*) FROM hotreload_jobs WHERE suspect = 1 AND state = 'running'"


def recover(
    connection: apsw.Connection,
    ledger: Ledger,
    now_ms: int,
    *,
    cut: DrainMark | None = None,
    report: Report | None = None,
    machine_ended: bool = False,
) -> Recovered:
    """Put back or park every running job, count why, fence the old claims, end the mark of a drain: one transaction.

    `cut` stands for a mark that could not be made, of the last owner; `machine_ended` where the machine was started
    again since. Where a drain was cut, what `report` makes of it is kept in the same transaction. Cut half-way nothing
    happened, and the next open finds the same. Run twice, the second finds nothing.
    """
    statements, documents = Statements(ledger, lambda: now_ms), Documents(lambda: now_ms)
    moves: list[Settlement] = []
    with atomically(connection):
        drain = marked(connection) or (None if cut is None or known(connection, cut) else cut)
        only_suspect = one(connection, _SUSPECTS) == 1
        for row in _running(connection):
            to = (
                after_crash(row, only_suspect=only_suspect, machine_ended=machine_ended)
                if drain is None
                else decide(row, Interrupted(), now_ms)
            )
            moves.append(Settlement(row, to, None))
        statements.transition(connection, moves, now_ms, fence=True)
        ledger.write(connection)
        found = _found(connection, moves, drain)
        documents.unmark_draining(connection, [None])
        if drain is not None and report is not None:
            documents.put(connection, [report(found)])
    ledger.load(connection)
    return found


def _running(connection: apsw.Connection) -> Sequence[JobRow]:
    """Return what ran, without payloads and cursors: all of them may not fit into memory."""
    found: list[JobRow] = []
    while True:
        page: list[list[Any]] = json.loads(one(connection, _RUNNING, (int(found[-1].id) if found else 0, PAGE)))
        found.extend(JobRow(str(raw[0]), *raw[1:16], suspect=bool(raw[16])) for raw in page)
        if len(page) < PAGE:
            return found


def _found(connection: apsw.Connection, moves: Sequence[Settlement], drain: DrainMark | None) -> Recovered:
    ids = [move.row.id for move in moves]
    done: list[int] = json.loads(one(connection, _DONE_SINCE, (drain.since_ms,))) if drain else []
    return Recovered(
        interrupted=ids if drain else [],
        crashed=[] if drain else ids,
        suspects=[move.row.id for move in moves if move.to.suspect],
        parked=[move.row.id for move in moves if move.to.state is JobState.DEAD],
        checkpointed=[move.row.id for move in moves if move.row.cursor_json is not None],
        finished=[str(job_id) for job_id in done],
        drain=drain,
    )
