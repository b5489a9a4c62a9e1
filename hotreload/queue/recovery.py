"""Documents kept beside the jobs, the mark of a drain among them, and what the end of the last owner left behind.

The mark is there from the first moment of a drain until its report is kept: whatever ends the process meanwhile has
interrupted its jobs. All of it in the writer's thread and transaction.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from hotreload.queue.contract import DrainMark, Put, Recovered, Report
from hotreload.queue.job import Interrupted, JobRow, JobState, after_crash, decide
from hotreload.queue.ledger import Ledger
from hotreload.queue.verbs import Settlement, Statements, Verbs


class Documents:
    """The newest documents of each kind; `mark` is the kind that the mark of a drain has."""

    def __init__(self, sql: Statements, now_ms: Callable[[], int], mark: str = "draining") -> None:
        self._sql = sql
        self._now_ms = now_ms
        self._mark = mark

    def put(self, connection: Any, calls: Sequence[Put]) -> Sequence[None]:
        """Keep documents, remove the oldest of their kind."""
        for call in calls:
            self._sql.run(connection, "put_document", call.kind, call.id, self._now_ms(), call.body)
            self._sql.run(connection, "prune_documents", call.kind, call.keep)
        return [None] * len(calls)

    def mark_draining(self, connection: Any, calls: Sequence[DrainMark]) -> Sequence[None]:
        """Record that a drain began; the first moment stays."""
        for drain in calls:
            if self.marked(connection) is None:
                said = {**asdict(drain), "since_ms": drain.since_ms or self._now_ms()}
                self.put(connection, [Put(self._mark, drain.id, json.dumps(said), 1)])
        return [None] * len(calls)

    def unmark_draining(self, connection: Any, calls: Sequence[None]) -> Sequence[None]:
        """Forget that a drain began: it has ended in order."""
        self._sql.run(connection, "remove_documents", self._mark)
        return [None] * len(calls)

    def marked(self, connection: Any, note: DrainMark | None = None) -> DrainMark | None:
        """Return the mark of a drain that has not ended; `note` stands for one that could not be made.

        It does so where there is no document of that drain: no mark here, no report.
        """
        for *_, body in self._sql.rows(connection, "documents", self._mark, 1):
            return DrainMark(**json.loads(body))
        return None if note is None or self._sql.rows(connection, "document_known", note.id) else note


def put_back(
    connection: Any,
    sql: Statements,
    documents: Documents,
    ledger: Ledger,
    now_ms: int,
    *,
    note: DrainMark | None = None,
    report: Report | None = None,
    machine_ended: bool = False,
) -> Recovered:
    """Put back or park what the last owner ran, count why, fence its claims, end the mark of its drain.

    In the open transaction, before the ledger is written: cut half-way nothing happened, the next look finds the same.
    `machine_ended` where the machine was started again since. Where a drain was cut, what `report` makes of it is kept
    as well. Run twice, the second finds nothing.
    """
    drain = documents.marked(connection, note)
    rows = [JobRow(str(raw[0]), *raw[1:16], suspect=bool(raw[16])) for raw in sql.left_running(connection)]
    only_suspect = sum(row.suspect for row in rows) == 1
    moves = [
        Settlement(
            row,
            decide(row, Interrupted(), now_ms)
            if drain
            else after_crash(row, only_suspect=only_suspect, machine_ended=machine_ended),
            None,
        )
        for row in rows
    ]
    Verbs(sql, ledger, lambda: now_ms).transition(connection, moves, now_ms, fence=True)
    ids = [move.row.id for move in moves]
    finished = sql.finished_since(connection, drain.since_ms) if drain else []
    found = Recovered(
        interrupted=ids if drain else [],
        crashed=[] if drain else ids,
        suspects=[move.row.id for move in moves if move.to.suspect],
        parked=[move.row.id for move in moves if move.to.state is JobState.DEAD],
        checkpointed=[move.row.id for move in moves if move.row.cursor_json is not None],
        finished=[str(job_id) for (job_id,) in finished],
        drain=drain,
    )
    documents.unmark_draining(connection, [None])
    if drain is not None and report is not None:
        documents.put(connection, [report(found)])
    return found
