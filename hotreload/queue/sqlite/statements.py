"""The SQL of the queue's verbs, many calls at a time; in the writer's thread and transaction."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, Final, NamedTuple, cast

import apsw

from hotreload.errors import LeaseLost
from hotreload.queue.contract import Added, Cancelled, Requeued
from hotreload.queue.job import Enqueued, JobRow, JobState, NewJob, Transition, escaped
from hotreload.queue.quarantine import May, Suspect, may_claim
from hotreload.queue.sqlite.connection import Binding, atomically, one, run
from hotreload.queue.sqlite.ledger import Column, Ledger

SIZES: Final = (1, 4, 16, 32, 64, 128, 256)
PAGE_ROWS: Final = 256
PAGE_BYTES: Final = 16 * 1024 * 1024
"""A claim ends once it took so many bytes; texts over LARGE_BYTES are read one by one, such payloads kept apart."""
LARGE_BYTES: Final = 65_536
PROMOTED_MOST: Final = 10_000
PRUNED_AT_ONCE: Final = 2_000
LAST_ID: Final = "last_id"

_INSERTED: Final = "id, queue, state, priority, run_at_ms, max_attempts, version, enqueued_at_ms, dedupe_key, payload"
_INSERT: Final = f"""
INSERT INTO hotreload_jobs ({_INSERTED}) SELECT * FROM ({{values}}) WHERE column1 IS NOT NULL
ON CONFLICT (queue, dedupe_key) WHERE dedupe_key IS NOT NULL AND state IN ('ready', 'scheduled', 'running') DO NOTHING
"""
_KEEP_APART: Final = "INSERT INTO hotreload_payloads VALUES (?, ?)"
_INSERTED_SINCE: Final = "SELECT json_group_array(id) FROM hotreload_jobs WHERE id BETWEEN ? AND ?"
_DONE_SINCE: Final = """
SELECT json_group_array(dedupe_key) FROM hotreload_jobs
WHERE queue = ? AND state = 'done' AND ended_at_ms >= ? AND dedupe_key IN (SELECT value FROM json_each(?))
"""
_FENCED: Final = """
SELECT json_group_array(json_array(column1, column2)) FROM ({values}) AS new WHERE column1 IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM hotreload_jobs WHERE id = column1 AND lease_seq = column2 AND state = 'running')
"""
_CHECKPOINT: Final = """
UPDATE hotreload_jobs AS job SET cursor = new.column2, steps = steps + new.column3,
    stalled_crashes = iif(job.cursor IS new.column2 AND NOT new.column3, stalled_crashes, 0),
    alone_crashes = iif(job.cursor IS new.column2 AND NOT new.column3, alone_crashes, 0)
FROM ({values}) AS new WHERE job.id = new.column1
"""
_KEEP_STEP: Final = "INSERT OR REPLACE INTO hotreload_steps SELECT * FROM ({values}) WHERE column1 IS NOT NULL"
MOVED: Final = (
    "state",
    "attempts",
    "interruptions",
    "crashes",
    "stalled_crashes",
    "alone_crashes",
    "suspect",
    "run_at_ms",
    "ended_at_ms",
    "reason",
    "traceback",
    "result",
)
_MOVE: Final = f"""
UPDATE hotreload_jobs AS job SET lease_seq = lease_seq + new.column2,
    {", ".join(f"{column} = new.column{place}" for place, column in enumerate(MOVED, 3))}
FROM ({{values}}) AS new WHERE job.id = new.column1
"""
_RUNNING: Final = """
SELECT json_group_array(json_array(id, cursor IS NOT NULL OR steps > 0)) FROM hotreload_jobs
WHERE state = 'running' AND queue = ?
"""
_REQUEUE: Final = """
UPDATE hotreload_jobs SET state = 'ready', lease_seq = lease_seq + 1, interruptions = interruptions + 1
WHERE state = 'running' AND queue = ?
"""
_PROMOTE: Final = """
UPDATE hotreload_jobs SET state = 'ready' WHERE id IN (
    SELECT id FROM hotreload_jobs WHERE queue = ? AND state = 'scheduled' AND run_at_ms <= ? ORDER BY run_at_ms LIMIT ?)
"""
COUNTERS: Final = (
    "lease_seq, attempts, max_attempts, interruptions, crashes, dedupe_key, priority, version, enqueued_at_ms, "
    "run_at_ms, stalled_crashes, alone_crashes, suspect"
)
PAYLOAD: Final = """
iif(payload = '', (SELECT large.payload FROM hotreload_payloads AS large WHERE large.job = hotreload_jobs.id), payload)
"""
_SIZE: Final = f"octet_length({PAYLOAD}) + coalesce(octet_length(cursor), 0)"
# One row with one JSON text, whatever the number of jobs: each row returned costs the interpreter's lock.
_CLAIMED: Final = f"""
SELECT json_group_array(json_array(id, queue, payload, cursor, {COUNTERS}, steps, size)) FROM (
    SELECT id, queue, {COUNTERS}, steps, {_SIZE} AS size, iif({_SIZE} > {LARGE_BYTES}, NULL, payload) AS payload,
        iif({_SIZE} > {LARGE_BYTES}, NULL, cursor) AS cursor
    FROM hotreload_jobs WHERE
"""
_NEXT: Final = f"{_CLAIMED} queue = ? AND state = 'ready' ORDER BY priority, run_at_ms, id LIMIT ?)"
_NEXT_SUSPECT: Final = f"{_CLAIMED} id = ?)"
_SUSPECTS: Final = """
SELECT id, queue, state = 'running', stalled_crashes FROM hotreload_jobs
WHERE suspect = 1 AND (state = 'ready' OR state = 'running') ORDER BY priority, run_at_ms, id
"""
_LARGE: Final = f"SELECT {PAYLOAD}, cursor FROM hotreload_jobs WHERE id = ?"
_STEPS: Final = "SELECT job, name, result FROM hotreload_steps WHERE job IN (SELECT value FROM json_each(?))"
_TAKE: Final = """
UPDATE hotreload_jobs SET state = 'running', lease_seq = lease_seq + 1 WHERE id IN (SELECT value FROM json_each(?))
"""
_UNCLAIM: Final = "UPDATE hotreload_jobs SET state = 'ready' WHERE state = 'running' AND id = ? AND lease_seq = ?"
_ASKED: Final = "id IN (SELECT value FROM json_each(?))"
_DEAD_OF: Final = f"""
SELECT json_group_array(json_array(id, queue, dedupe_key)) FROM (
    SELECT id, queue, dedupe_key FROM hotreload_jobs AS job WHERE state = 'dead' AND {_ASKED} AND NOT EXISTS (
        SELECT 1 FROM hotreload_jobs AS other WHERE other.queue = job.queue AND other.dedupe_key = job.dedupe_key
            AND other.dedupe_key IS NOT NULL AND other.state IN ('ready', 'scheduled', 'running'))
    ORDER BY id)
"""
_RETRY: Final = f"""
UPDATE hotreload_jobs SET state = 'ready', attempts = 0, stalled_crashes = 0, alone_crashes = 0, run_at_ms = ?,
    ended_at_ms = NULL WHERE {_ASKED}
"""
_DISCARDED: Final = f"""
SELECT json_group_array(json_array(id, queue, state, suspect)) FROM hotreload_jobs WHERE state <> 'running' AND {_ASKED}
"""
_CANCELLED: Final = f"""
SELECT json_group_array(json_array(id, queue, state, suspect)) FROM hotreload_jobs
WHERE state IN ('ready', 'scheduled', 'running') AND {_ASKED}
"""
_CANCEL: Final = f"""
UPDATE hotreload_jobs SET state = 'cancelled', lease_seq = lease_seq + 1, suspect = 0, ended_at_ms = ? WHERE {_ASKED}
"""
_ACTIVE_OF: Final = """
SELECT dedupe_key, id, state FROM hotreload_jobs
WHERE queue = ? AND state IN ('ready', 'scheduled', 'running') AND dedupe_key IN (SELECT value FROM json_each(?))
"""
_DONE_OF: Final = """
SELECT dedupe_key, max(id), state FROM hotreload_jobs
WHERE queue = ? AND state IN ('done', 'dead', 'cancelled') AND state = 'done'
    AND dedupe_key IN (SELECT value FROM json_each(?))
GROUP BY dedupe_key
"""
_PAUSE: Final = """
INSERT INTO hotreload_queues (name, paused) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET paused = excluded.paused
"""
_OLD: Final = """
SELECT json_group_array(json_array(id, queue)) FROM (
    SELECT id, queue FROM hotreload_jobs INDEXED BY hotreload_jobs_ended
    WHERE queue = ? AND state IN ('done', 'cancelled') AND ended_at_ms <= ? ORDER BY ended_at_ms LIMIT ?)
"""
_PUT_FACT: Final = "INSERT INTO hotreload_facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"

_ENDED: Final = frozenset((JobState.DONE, JobState.DEAD, JobState.CANCELLED))

Raw = list[Any]
"""One claimed job: id, queue, the JSON texts of payload and cursor, COUNTERS, the steps as a mapping of JSON texts."""
Outcome = JobState | LeaseLost
Lot = list[tuple[NewJob, int | None]]
"""The jobs of one enqueue, each with the id its row was given; None where it was left out before."""


class NewJobs(NamedTuple):
    """One enqueue: the jobs with their payloads as JSON texts."""

    jobs: Sequence[NewJob]
    payloads: Sequence[str]
    unless_done_since_ms: int | None


class Checkpoint(NamedTuple):
    """One checkpoint: the cursor as a JSON text (None: none yet), the name and the JSON text of a step."""

    row: JobRow
    cursor: str | None
    step: tuple[str, str] | None = None


class Settlement(NamedTuple):
    """One verdict, decided: where the job goes, the result as a JSON text."""

    row: JobRow
    to: Transition
    result: str | None


class Claim(NamedTuple):
    """One claim; `limit` ≥ 1."""

    queue: str
    limit: int


class Exchange(NamedTuple):
    """Claims to end, then one to make (None: none)."""

    settlements: Sequence[Settlement]
    claim: Claim | None


class Flush(NamedTuple):
    """Claims to end, then queues of which everything running goes back."""

    settlements: Sequence[Settlement]
    queues: Sequence[str]


class Statements:
    """The verbs over one ledger and one clock."""

    def __init__(self, ledger: Ledger, now_ms: Callable[[], int]) -> None:
        self._ledger = ledger
        self._now_ms = now_ms
        self.next_id = 1
        self.closed = False
        """True once nothing may be claimed any more; set from any thread, what the writer does next keeps to it."""

    # --- enqueue ----------------------------------------------------------------------------------------------------

    def enqueue(self, connection: apsw.Connection, calls: Sequence[NewJobs]) -> Sequence[Added]:
        """Insert the jobs of all calls in their order; ids are given here and never twice."""
        now_ms, first = self._now_ms(), self.next_id
        rows: list[tuple[Binding, ...]] = []
        lots = [self._rows(connection, call, now_ms, rows) for call in calls]
        there = self._insert(connection, rows, first) if rows else frozenset[int]()
        answers = [_added(connection, lot, there) for lot in lots]
        for (queue, state), count in Counter((row[1], row[2]) for row in rows if row[0] in there).items():
            self._ledger.add(str(queue), "ready" if state == JobState.READY else "scheduled", count)
        return answers

    def _rows(self, connection: apsw.Connection, call: NewJobs, now_ms: int, rows: list[tuple[Binding, ...]]) -> Lot:
        """Append the rows of one call; return each job with the id of its row, None where it was done lately."""
        done = self._done_since(connection, call) if call.unless_done_since_ms is not None else frozenset[Any]()
        lot: Lot = []
        for job, payload in zip(call.jobs, call.payloads, strict=True):
            if (job.queue, job.dedupe_key) in done:
                lot.append((job, None))
                continue
            due = job.run_at_ms is None or job.run_at_ms <= now_ms
            state = JobState.READY if due else JobState.SCHEDULED
            run_at_ms = now_ms if job.run_at_ms is None or due else job.run_at_ms
            head = (self.next_id, job.queue, state, job.priority, run_at_ms, job.max_attempts, job.version)
            rows.append((*head, now_ms, job.dedupe_key, payload))
            lot.append((job, self.next_id))
            self.next_id += 1
        return lot

    @staticmethod
    def _done_since(connection: apsw.Connection, call: NewJobs) -> frozenset[tuple[str, str]]:
        keys: dict[str, list[str]] = {}
        for job in call.jobs:
            if job.dedupe_key is not None:
                keys.setdefault(job.queue, []).append(job.dedupe_key)
        return frozenset(
            (queue, key)
            for queue, asked in keys.items()
            for key in json.loads(one(connection, _DONE_SINCE, (queue, call.unless_done_since_ms, json.dumps(asked))))
        )

    def _insert(self, connection: apsw.Connection, rows: Sequence[tuple[Binding, ...]], first: int) -> frozenset[int]:
        """Insert and return the ids that are in the table now."""
        large = {row[0]: row[-1] for row in rows if len(str(row[-1])) > LARGE_BYTES}
        if _each(connection, _INSERT, [(*row[:-1], "") if row[0] in large else row for row in rows]) == len(rows):
            there = frozenset(range(first, self.next_id))
        else:
            there = frozenset[int](json.loads(one(connection, _INSERTED_SINCE, (first, self.next_id - 1))))
        for job_id in large.keys() & there:
            run(connection, _KEEP_APART, (job_id, large[job_id]))
        return there

    # --- claim ------------------------------------------------------------------------------------------------------

    def claim(self, connection: apsw.Connection, calls: Sequence[Claim]) -> Sequence[list[Raw]]:
        """Take jobs for each call in turn; what is returned is for `leased`."""
        return [self._claim(connection, call.queue, call.limit) for call in calls]

    def _claim(self, connection: apsw.Connection, queue: str, limit: int) -> list[Raw]:
        standing = self._ledger.standings().get(queue)
        if self.closed or standing is None or standing.paused:
            return []
        now_ms = self._now_ms()
        if standing.next_due_ms is not None and standing.next_due_ms <= now_ms:
            run(connection, _PROMOTE, (queue, now_ms, PROMOTED_MOST))
            self._count(queue, "scheduled", "ready", connection.changes())
        taken: list[Raw] = []
        left = PAGE_BYTES
        while len(taken) < limit and left > 0:
            page = self._page(connection, queue, min(PAGE_ROWS, limit - len(taken)), left)
            taken.extend(page)
            left -= sum(raw[-1] for raw in page)
            if len(page) < PAGE_ROWS:
                break
        return _with_steps(connection, taken)

    def _page(self, connection: apsw.Connection, queue: str, limit: int, most_bytes: int) -> list[Raw]:
        """Take up to `limit` jobs, as many as fit into `most_bytes`, but one at least."""
        may, suspect = May.OTHERS, 0
        if self._ledger.total("suspects"):
            suspects = [Suspect(*row) for row in run(connection, _SUSPECTS)]
            may, suspect = may_claim(queue, suspects, self._ledger.total("running", queue))
        if may is May.NOTHING:
            return []
        text = one(connection, _NEXT_SUSPECT, (suspect,)) if suspect else one(connection, _NEXT, (queue, limit))
        page: list[Raw] = []
        for raw in json.loads(text):
            most_bytes -= raw[-1]
            if page and most_bytes < 0:
                break
            if raw[2] is None:
                raw[2:4] = run(connection, _LARGE, (raw[0],)).fetchall()[0]
            page.append(raw)
        if page:
            run(connection, _TAKE, (str([raw[0] for raw in page]),))
            self._count(queue, "ready", "running", len(page))
        return page

    def unclaim(self, connection: apsw.Connection, calls: Sequence[Sequence[Raw]]) -> Sequence[None]:
        """Put back what `claim` returned to a caller that had gone, as if it had not been claimed."""
        for raw in (raw for taken in calls for raw in taken):
            run(connection, _UNCLAIM, (raw[0], raw[4] + 1))
            self._count(raw[1], "running", "ready", connection.changes())
        return [None] * len(calls)

    # --- what a claim writes ----------------------------------------------------------------------------------------

    def checkpoint(self, connection: apsw.Connection, calls: Sequence[Checkpoint]) -> Sequence[LeaseLost | None]:
        """Write cursors and steps; a fenced one changes nothing and gets its LeaseLost. A job keeps the last cursor."""
        lost = _fenced(connection, [call.row for call in calls])
        held = [call for call in calls if _token(call.row) not in lost]
        steps = Counter(call.row.id for call in held if call.step)
        cursors = {call.row.id: call.cursor for call in held}
        _each(connection, _CHECKPOINT, [(int(job_id), cursor, steps[job_id]) for job_id, cursor in cursors.items()])
        kept = {(call.row.id, call.step[0]): call.step[1] for call in held if call.step}
        _each(connection, _KEEP_STEP, [(int(job_id), name, result) for (job_id, name), result in kept.items()])
        return [LeaseLost(*_token(call.row)) if _token(call.row) in lost else None for call in calls]

    def settle(self, connection: apsw.Connection, calls: Sequence[Settlement]) -> Sequence[Outcome]:
        """End the claims; a fenced one, and the second of two for a job, changes nothing and gets its LeaseLost."""
        now_ms = self._now_ms()
        lost = _fenced(connection, [call.row for call in calls])
        held = {call.row.id: call for call in reversed(calls) if not lost or _token(call.row) not in lost}
        self.transition(connection, list(held.values()), now_ms, fence=False)
        if len(held) == len(calls):
            return [call.to.state for call in calls]
        return [
            call.to.state if held.get(call.row.id) is call else LeaseLost(call.row.id, call.row.lease_seq)
            for call in calls
        ]

    def transition(self, connection: apsw.Connection, calls: Sequence[Settlement], now_ms: int, *, fence: bool) -> None:
        """Write where running jobs go; with `fence` what they were claimed with is no longer the newest token."""
        _each(connection, _MOVE, [_moved(call, now_ms, int(fence)) for call in calls])
        for (queue, state), count in Counter((call.row.queue, call.to.state) for call in calls).items():
            self._count(queue, "running", _column(state), count)
        for call in calls:
            if call.row.suspect or call.to.suspect:
                self._ledger.add(call.row.queue, "suspects", int(call.to.suspect) - int(call.row.suspect))

    def exchange(
        self, connection: apsw.Connection, calls: Sequence[Exchange]
    ) -> Sequence[tuple[Sequence[Outcome], Sequence[Raw]]]:
        """Settle for all calls, then claim for each in turn."""
        states = iter(self.settle(connection, [one for call in calls for one in call.settlements]))
        ended = [[next(states) for _ in call.settlements] for call in calls]
        taken = [self.claim(connection, [call.claim])[0] if call.claim else [] for call in calls]
        return list(zip(ended, taken, strict=True))

    def flush(self, connection: apsw.Connection, calls: Sequence[Flush]) -> Sequence[Requeued]:
        """Settle, then put back what runs in the queues of each call, fence it, count an interruption, as `decide`."""
        for call in calls:
            self.settle(connection, call.settlements)
        return [self._requeue(connection, dict.fromkeys(call.queues)) for call in calls]

    def _requeue(self, connection: apsw.Connection, queues: Mapping[str, None]) -> Requeued:
        ids: list[str] = []
        checkpointed: list[str] = []
        for queue in queues:
            found = json.loads(one(connection, _RUNNING, (queue,)))
            run(connection, _REQUEUE, (queue,))
            ids.extend(str(job_id) for job_id, _ in found)
            checkpointed.extend(str(job_id) for job_id, progressed in found if progressed)
            self._count(queue, "running", "ready", len(found))
        return Requeued(ids, checkpointed)

    # --- what people do ---------------------------------------------------------------------------------------------

    def retry(self, connection: apsw.Connection, calls: Sequence[Sequence[str]]) -> Sequence[list[str]]:
        """Make dead jobs ready, with all their attempts and their cursor; return the ids of those made ready.

        One whose key an active job has meanwhile is passed over; of several with one key the newest is taken.
        """
        return [self._retry(connection, ids) for ids in calls]

    def _retry(self, connection: apsw.Connection, ids: Sequence[str]) -> list[str]:
        found: list[tuple[int, str, str | None]] = json.loads(one(connection, _DEAD_OF, (numbers(ids),)))
        newest = {(queue, job_id if key is None else key): job_id for job_id, queue, key in found}
        run(connection, _RETRY, (self._now_ms(), str(list(newest.values()))))
        for queue, _ in newest:
            self._count(queue, "dead", "ready", 1)
        return [str(job_id) for job_id in newest.values()]

    def discard(self, connection: apsw.Connection, calls: Sequence[Sequence[str]]) -> Sequence[list[str]]:
        """Remove jobs that do not run; return the ids of those removed."""
        return [self._discard(connection, ids) for ids in calls]

    def _discard(self, connection: apsw.Connection, ids: Sequence[str]) -> list[str]:
        found: list[tuple[int, str, JobState, int]] = json.loads(one(connection, _DISCARDED, (numbers(ids),)))
        remove(connection, [job_id for job_id, *_ in found])
        for _, queue, state, suspect in found:
            self._ledger.add(queue, _column(state), -1)
            self._ledger.add(queue, "suspects", -suspect)
        return [str(job_id) for job_id, *_ in found]

    def cancel(self, connection: apsw.Connection, calls: Sequence[Sequence[str]]) -> Sequence[Cancelled]:
        """Remove waiting jobs, end running ones as cancelled and fence them."""
        return [self._cancel(connection, ids) for ids in calls]

    def _cancel(self, connection: apsw.Connection, ids: Sequence[str]) -> Cancelled:
        found: list[tuple[int, str, JobState, int]] = json.loads(one(connection, _CANCELLED, (numbers(ids),)))
        running = {job_id: queue for job_id, queue, state, _ in found if state == JobState.RUNNING}
        waiting = [job_id for job_id, *_ in found if job_id not in running]
        remove(connection, waiting)
        run(connection, _CANCEL, (self._now_ms(), str(list(running))))
        for _, queue, state, suspect in found:
            self._ledger.add(queue, _column(state), -1)
            self._ledger.add(queue, "suspects", -suspect)
        for queue in running.values():
            self._ledger.add(queue, "done", 1)
        return Cancelled([str(job_id) for job_id in waiting], {str(each): queue for each, queue in running.items()})

    def pause(self, connection: apsw.Connection, calls: Sequence[tuple[str, bool]]) -> Sequence[None]:
        """Set whether each queue is paused; the last word on a queue counts."""
        for queue, paused in calls:
            run(connection, _PAUSE, (queue, int(paused)))
            self._ledger.add(queue, "ready", 0)
        return [None] * len(calls)

    def _count(self, queue: str, old: Column, new: Column, count: int) -> None:
        self._ledger.add(queue, old, -count)
        self._ledger.add(queue, new, count)


def prune(connection: apsw.Connection, ledger: Ledger, before_ms: Callable[[str], int], most: int) -> bool:
    """Remove some ended jobs: those that ended by `before_ms(queue)`, the oldest beyond `most`; True if more are left.

    Up to PRUNED_AT_ONCE of a queue, in a transaction of its own. The highest id removed is kept, so that no id is ever
    given twice.
    """
    standings = sorted((one for one in ledger.standings().values() if one.done), key=lambda one: -one.done)
    over = sum(standing.done for standing in standings) - most
    more = False
    with atomically(connection):
        for standing in standings:
            found = json.loads(one(connection, _OLD, (standing.name, before_ms(standing.name), PRUNED_AT_ONCE)))
            if over > 0 and len(found) < min(over, PRUNED_AT_ONCE):
                found = json.loads(one(connection, _OLD, (standing.name, 1 << 62, min(over, PRUNED_AT_ONCE))))
            over -= len(found)
            more = more or len(found) == PRUNED_AT_ONCE
            remove(connection, [job_id for job_id, _ in found])
            ledger.add(standing.name, "done", -len(found))
        ledger.write(connection)
    ledger.committed()
    return more


def _added(connection: apsw.Connection, lot: Lot, there: frozenset[int]) -> Added:
    """Say of each job of an enqueue which one it is now, `there` are the rows inserted."""
    left_out = [job for job, job_id in lot if job_id not in there]
    if not left_out:
        return Added([Enqueued(str(job_id)) for _, job_id in lot])
    held = _holders(connection, left_out)
    jobs = [Enqueued(str(i)) if i in there else held[job.queue, str(job.dedupe_key)] for job, i in lot]
    return Added(jobs, [str(job.dedupe_key) for job in left_out])


def _holders(connection: apsw.Connection, jobs: Sequence[NewJob]) -> dict[tuple[str, str], Enqueued]:
    """Return the job that has the key of each of these: the active one, or the one done last."""
    keys: dict[str, list[str]] = {}
    for job in jobs:
        keys.setdefault(job.queue, []).append(str(job.dedupe_key))
    return {
        (queue, key): Enqueued(str(job_id), JobState(state))
        for queue, asked in keys.items()
        for sql in (_DONE_OF, _ACTIVE_OF)
        for key, job_id, state in run(connection, sql, (queue, json.dumps(asked))).fetchall()
    }


def remove(connection: apsw.Connection, ids: Sequence[int]) -> None:
    """Remove these jobs, and keep in mind up to which id they were given."""
    if ids:
        put_fact(connection, LAST_ID, max([*ids, fact(connection, LAST_ID) or 0]))
        run(connection, f"DELETE FROM hotreload_jobs WHERE {_ASKED}", (str(list(ids)),))


def fact(connection: apsw.Connection, name: str) -> int | None:
    """Return a number kept under `name`, None where there is none."""
    return one(connection, "SELECT value FROM hotreload_facts WHERE name = ?", (name,))


def put_fact(connection: apsw.Connection, name: str, value: int) -> None:
    """Keep a number under `name`."""
    run(connection, _PUT_FACT, (name, value))


def leased(raw: Raw) -> JobRow:
    """Return a job as its claim has it; the store counts the token up after the row was read."""
    return JobRow(
        str(raw[0]), raw[1], raw[2], raw[3], raw[4] + 1, *raw[5:16], suspect=bool(raw[16]), steps=raw[17] or {}
    )


def number(job_id: str) -> int:
    """Return the number an id stands for, -1 (which no job has) for a text that is not an id."""
    return int(job_id) if job_id.isascii() and job_id.isdigit() and len(job_id) < 19 else -1


def numbers(ids: Sequence[str]) -> str:
    """Return the numbers that ids stand for, as a JSON text."""
    return json.dumps([number(job_id) for job_id in ids])


def _with_steps(connection: apsw.Connection, taken: list[Raw]) -> list[Raw]:
    """Put in place of their count the steps that the jobs kept."""
    kept: dict[int, dict[str, str]] = {raw[0]: {} for raw in taken if raw[17]}
    if kept:
        for job_id, name, result in run(connection, _STEPS, (str(list(kept)),)).fetchall():
            kept[job_id][name] = result
    for raw in taken:
        raw[17] = kept.get(raw[0])
    return taken


def _column(state: JobState) -> Column:
    """Return where a state is counted: cancelled jobs are counted with the done ones."""
    return "done" if state == JobState.CANCELLED else cast("Column", str(state))


def _moved(call: Settlement, now_ms: int, fence: int) -> tuple[Binding, ...]:
    to = call.to
    return (
        int(call.row.id),
        fence,
        to.state,
        to.attempts,
        to.interruptions,
        to.crashes,
        to.stalled_crashes,
        to.alone_crashes,
        int(to.suspect),
        to.run_at_ms,
        now_ms if to.state in _ENDED else None,
        None if to.reason is None else escaped(to.reason),
        None if to.traceback is None else escaped(to.traceback),
        call.result,
    )


def _token(row: JobRow) -> tuple[str, int]:
    return row.id, row.lease_seq


def _fenced(connection: apsw.Connection, rows: Sequence[JobRow]) -> frozenset[tuple[str, int]]:
    """Return those (id, token) that are no longer the newest claim of a running job."""
    lost: set[tuple[str, int]] = set()
    for size, bindings in _padded([(int(row.id), row.lease_seq) for row in rows]):
        found = json.loads(one(connection, _filled(_FENCED, 2, size), bindings))
        lost.update((str(job_id), token) for job_id, token in found)
    return frozenset(lost)


def _each(connection: apsw.Connection, sql: str, rows: Sequence[tuple[Binding, ...]]) -> int:
    """Run a statement over many rows; return how many it changed."""
    changed = 0
    for size, bindings in _padded(rows):
        run(connection, _filled(sql, len(rows[0]), size), bindings)
        changed += connection.changes()
    return changed


def _padded(rows: Sequence[tuple[Binding, ...]]) -> Iterator[tuple[int, list[Binding]]]:
    """Cut `rows` into pieces of a few sizes, so that few statements serve all; yield (size, bindings).

    The last piece is filled with NULL rows, which every statement leaves out by its first column.
    """
    most = SIZES[-1]
    for start in range(0, len(rows), most):
        piece = rows[start : start + most]
        size = next(size for size in SIZES if size >= len(piece))
        bindings = [value for row in piece for value in row]
        bindings.extend([None] * ((size - len(piece)) * len(piece[0])))
        yield size, bindings


@cache
def _filled(template: str, width: int, size: int) -> str:
    """Return the statement with `{values}` replaced by `VALUES (?, …), …` for `size` rows of `width` columns."""
    row = f"({', '.join('?' * width)})"
    return template.format(values=f"VALUES {', '.join([row] * size)}")
