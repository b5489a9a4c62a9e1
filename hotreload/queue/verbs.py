"""What SQLite does for the verbs of the queue, many calls at a time; in the writer's thread and transaction."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import apsw

from hotreload.errors import LeaseLost
from hotreload.queue.contract import Enqueued, Requeued
from hotreload.queue.job import JobRow, JobState, NewJob, Transition
from hotreload.queue.ledger import Ledger
from hotreload.queue.rows import INSERTED, MOVED, filled, of_new, of_transition, padded
from hotreload.queue.sql import Binding, one, run

INSERT: Final = f"""
INSERT INTO hotreload_jobs ({INSERTED}) SELECT * FROM ({{values}}) WHERE column1 IS NOT NULL
ON CONFLICT (queue, dedupe_key) WHERE dedupe_key IS NOT NULL AND state <> 'done' DO NOTHING
"""
INSERTED_SINCE: Final = "SELECT json_group_array(id) FROM hotreload_jobs WHERE id BETWEEN ? AND ?"
DONE_SINCE: Final = """
SELECT json_group_array(dedupe_key) FROM hotreload_jobs
WHERE queue = ? AND state = 'done' AND ended_at_ms >= ? AND dedupe_key IN (SELECT value FROM json_each(?))
"""
FENCE: Final = "job.id = new.column1 AND job.lease_seq = new.column2 AND job.state = 'running'"
CHECKPOINT: Final = f"""
UPDATE hotreload_jobs AS job SET cursor = new.column3,
    stalled_crashes = iif(job.cursor IS new.column3, stalled_crashes, 0),
    alone_crashes = iif(job.cursor IS new.column3, alone_crashes, 0)
FROM ({{values}}) AS new WHERE {FENCE}
"""
SETTLE: Final = f"""
UPDATE hotreload_jobs AS job SET {", ".join(f"{column} = new.column{place}" for place, column in enumerate(MOVED, 3))}
FROM ({{values}}) AS new WHERE {FENCE}
"""
RUNNING: Final = """
SELECT json_group_array(json_array(id, cursor IS NOT NULL)) FROM hotreload_jobs WHERE state = 'running' AND queue = ?
"""
REQUEUE: Final = """
UPDATE hotreload_jobs SET state = 'ready', lease_seq = lease_seq + 1, interruptions = interruptions + 1
WHERE state = 'running' AND queue = ?
"""


class NewJobs(NamedTuple):
    """One enqueue: the jobs with their payloads as JSON texts."""

    jobs: Sequence[NewJob]
    payloads: Sequence[str]
    unless_done_since_ms: int | None


class Progress(NamedTuple):
    """One checkpoint: the cursor as a JSON text."""

    row: JobRow
    cursor: str


class Settlement(NamedTuple):
    """One verdict, decided: where the job goes, the result as a JSON text."""

    row: JobRow
    to: Transition
    result: str | None


class Several(Exception):
    """Of several writes one was fenced: each is to be tried by itself."""


class Verbs:
    """The verbs over one ledger and one clock."""

    def __init__(self, ledger: Ledger, now_ms: Callable[[], int]) -> None:
        self._ledger = ledger
        self._now_ms = now_ms
        self.next_id = 1

    def enqueue(self, connection: apsw.Connection, calls: Sequence[NewJobs]) -> Sequence[Enqueued]:
        """Insert the jobs of all calls in their order; ids are given here and never twice."""
        now_ms, first = self._now_ms(), self.next_id
        rows: list[tuple[Binding, ...]] = []
        lots = [self._rows(connection, call, now_ms, rows) for call in calls]
        there = self._insert(connection, rows, first) if rows else frozenset[int]()
        answers: list[Enqueued] = []
        for lot, early in lots:
            ids = [str(row[0]) for row in lot if row[0] in there]
            late = [str(row[8]) for row in lot if row[0] not in there]
            answers.append(Enqueued(ids, early + late))
        for (queue, state), count in Counter((row[1], row[2]) for row in rows if row[0] in there).items():
            self._ledger.add(str(queue), "ready" if state == JobState.READY else "scheduled", count)
        return answers

    def _rows(
        self, connection: apsw.Connection, call: NewJobs, now_ms: int, rows: list[tuple[Binding, ...]]
    ) -> tuple[Sequence[tuple[Binding, ...]], list[str]]:
        """Append the rows of one call; return them, and the keys left out because they were done lately."""
        done = self._done_since(connection, call) if call.unless_done_since_ms is not None else frozenset[Any]()
        mine: list[tuple[Binding, ...]] = []
        early: list[str] = []
        for job, payload in zip(call.jobs, call.payloads, strict=True):
            if (job.queue, job.dedupe_key) in done:
                early.append(str(job.dedupe_key))
                continue
            due = job.run_at_ms is None or job.run_at_ms <= now_ms
            state = JobState.READY if due else JobState.SCHEDULED
            run_at_ms = now_ms if job.run_at_ms is None or due else job.run_at_ms
            mine.append(of_new(job, self.next_id, state, run_at_ms, now_ms, payload))
            self.next_id += 1
        rows.extend(mine)
        return mine, early

    @staticmethod
    def _done_since(connection: apsw.Connection, call: NewJobs) -> frozenset[tuple[str, str]]:
        keys: dict[str, list[str]] = {}
        for job in call.jobs:
            if job.dedupe_key is not None:
                keys.setdefault(job.queue, []).append(job.dedupe_key)
        return frozenset(
            (queue, key)
            for queue, asked in keys.items()
            for key in json.loads(one(connection, DONE_SINCE, (queue, call.unless_done_since_ms, json.dumps(asked))))
        )

    def _insert(self, connection: apsw.Connection, rows: Sequence[tuple[Binding, ...]], first: int) -> frozenset[int]:
        """Insert and return the ids that are in the table now."""
        inserted = 0
        for size, bindings in padded(rows):
            run(connection, filled(INSERT, len(rows[0]), size), bindings)
            inserted += connection.changes()
        if inserted == len(rows):
            return frozenset(range(first, self.next_id))
        return frozenset(json.loads(one(connection, INSERTED_SINCE, (first, self.next_id - 1))))

    def checkpoint(self, connection: apsw.Connection, calls: Sequence[Progress]) -> Sequence[LeaseLost | None]:
        """Write the cursors; a fenced one changes nothing and gets its LeaseLost."""
        rows: list[tuple[Binding, ...]] = [(int(call.row.id), call.row.lease_seq, call.cursor) for call in calls]
        return [lost or None for lost in _fenced(connection, CHECKPOINT, rows, [call.row for call in calls])]

    def settle(self, connection: apsw.Connection, calls: Sequence[Settlement]) -> Sequence[JobState | LeaseLost]:
        """End the claims; a fenced one changes nothing and gets its LeaseLost."""
        now_ms = self._now_ms()
        ended = (JobState.DONE, JobState.DEAD)
        rows = [
            of_transition(call.row, call.to, call.result, now_ms if call.to.state in ended else None) for call in calls
        ]
        lost = _fenced(connection, SETTLE, rows, [call.row for call in calls])
        for call in (call for call, refused in zip(calls, lost, strict=True) if refused is None):
            self._ledger.add(call.row.queue, "running", -1)
            self._ledger.add(call.row.queue, call.to.state.value, 1)  # pyright: ignore[reportArgumentType]
            if call.row.suspect and not call.to.suspect:
                self._ledger.add(call.row.queue, "suspects", -1)
        return [refused or call.to.state for call, refused in zip(calls, lost, strict=True)]

    def requeue(self, connection: apsw.Connection, calls: Sequence[Sequence[str]]) -> Sequence[Requeued]:
        """Put back what runs in the queues of each call, fence it, count an interruption: as `decide` would."""
        return [self._requeue(connection, dict.fromkeys(queues)) for queues in calls]

    def _requeue(self, connection: apsw.Connection, queues: dict[str, None]) -> Requeued:
        ids: list[str] = []
        checkpointed: list[str] = []
        for queue in queues:
            found = json.loads(one(connection, RUNNING, (queue,)))
            run(connection, REQUEUE, (queue,))
            ids.extend(str(job_id) for job_id, _ in found)
            checkpointed.extend(str(job_id) for job_id, progressed in found if progressed)
            self._ledger.add(queue, "running", -len(found))
            self._ledger.add(queue, "ready", len(found))
        return Requeued(ids, checkpointed)


def _fenced(
    connection: apsw.Connection, sql: str, rows: Sequence[tuple[Binding, ...]], jobs: Sequence[JobRow]
) -> list[LeaseLost | None]:
    """Run a fenced update over many rows; where it did not reach all of them, one row a time says which."""
    changed = 0
    for size, bindings in padded(rows):
        run(connection, filled(sql, len(rows[0]), size), bindings)
        changed += connection.changes()
    if changed == len(rows):
        return [None] * len(rows)
    if len(rows) > 1:
        raise Several
    return [LeaseLost(jobs[0].id, jobs[0].lease_seq)]
