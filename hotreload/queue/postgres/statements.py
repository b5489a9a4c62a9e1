"""The SQL of the queue's verbs, many calls at a time; in the writer's thread and transaction.

Every write of a claim names its fencing token in its own WHERE: no other node can come between a look and a write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, cast

from hotreload.errors import LeaseLost
from hotreload.queue.contract import Added, Cancelled, Requeued
from hotreload.queue.job import Enqueued, JobRow, JobState, NewJob, Transition, escaped
from hotreload.queue.postgres.connection import Connection, run
from hotreload.queue.postgres.ledger import Column, Ledger
from hotreload.queue.quarantine import May, Suspect, may_claim

PAGE_ROWS: Final = 256
PAGE_BYTES: Final = 16 * 1024 * 1024
"""A claim ends once it took so many bytes of payloads and cursors."""
PROMOTED_MOST: Final = 10_000
PRUNED_AT_ONCE: Final = 2_000

_INSERTED: Final = {
    "queue": "text",
    "state": "text",
    "priority": "bigint",
    "run_at_ms": "bigint",
    "max_attempts": "bigint",
    "version": "bigint",
    "enqueued_at_ms": "bigint",
    "dedupe_key": "text",
    "payload": "text",
}
# In the order given, each with its id; one whose key an active job has is left out.
_INSERT: Final = f"""
WITH given AS MATERIALIZED (
    SELECT nextval('hotreload_job_ids') AS id, new.*
    FROM unnest({", ".join(f"%s::{kind}[]" for kind in _INSERTED.values())}) AS new ({", ".join(_INSERTED)})
), inserted AS (
    INSERT INTO hotreload_jobs (id, {", ".join(_INSERTED)}) SELECT * FROM given
    ON CONFLICT (queue, dedupe_key) WHERE dedupe_key IS NOT NULL AND state IN ('ready', 'scheduled', 'running')
    DO NOTHING RETURNING id
) SELECT given.id, inserted.id IS NOT NULL FROM given LEFT JOIN inserted USING (id) ORDER BY given.id
"""
_DONE_SINCE: Final = """
SELECT dedupe_key FROM hotreload_jobs
WHERE queue = %s AND state = 'done' AND ended_at_ms >= %s AND dedupe_key = ANY(%s)
"""
_ACTIVE_OF: Final = """
SELECT dedupe_key, id, state FROM hotreload_jobs
WHERE queue = %s AND state IN ('ready', 'scheduled', 'running') AND dedupe_key = ANY(%s)
"""
_DONE_OF: Final = """
SELECT DISTINCT ON (dedupe_key) dedupe_key, id, state FROM hotreload_jobs
WHERE queue = %s AND state = 'done' AND dedupe_key = ANY(%s) ORDER BY dedupe_key, id DESC
"""
COUNTERS: Final = (
    "lease_seq, attempts, max_attempts, interruptions, crashes, dedupe_key, priority, version, enqueued_at_ms, "
    "run_at_ms, stalled_crashes, alone_crashes, suspect"
)
_PROMOTE: Final = """
UPDATE hotreload_jobs SET state = 'ready' WHERE id IN (
    SELECT id FROM hotreload_jobs WHERE queue = %s AND state = 'scheduled' AND run_at_ms <= %s
    ORDER BY run_at_ms LIMIT %s FOR UPDATE SKIP LOCKED)
"""
_TAKE: Final = f"""
WITH picked AS MATERIALIZED (
    SELECT id, priority, run_at_ms, octet_length(payload) + coalesce(octet_length(cursor), 0) AS size
    FROM hotreload_jobs WHERE {{which}} AND state = 'ready' ORDER BY priority, run_at_ms, id LIMIT %s
    FOR UPDATE SKIP LOCKED
), counted AS (
    SELECT id, size, sum(size) OVER (ORDER BY priority, run_at_ms, id) AS total FROM picked
)
UPDATE hotreload_jobs SET state = 'running', lease_seq = lease_seq + 1, node = %s
FROM counted WHERE hotreload_jobs.id = counted.id AND (total <= %s OR total = size)
RETURNING hotreload_jobs.id, queue, payload, cursor, {COUNTERS}, steps, size
"""
_TAKE_NEXT: Final = _TAKE.format(which="queue = %s")
_TAKE_SUSPECT: Final = _TAKE.format(which="id = %s")
_SUSPECTS: Final = """
SELECT id, queue, state = 'running', stalled_crashes FROM hotreload_jobs
WHERE suspect AND state IN ('ready', 'running') ORDER BY priority, run_at_ms, id
"""
_STEPS: Final = "SELECT job, name, result FROM hotreload_steps WHERE job = ANY(%s)"
_UNCLAIM: Final = """
UPDATE hotreload_jobs AS job SET state = 'ready' FROM unnest(%s::bigint[], %s::bigint[]) AS new (id, token)
WHERE job.id = new.id AND lease_seq = token AND state = 'running' RETURNING queue
"""
_CHECKPOINT: Final = """
UPDATE hotreload_jobs AS job SET cursor = new.cursor, steps = job.steps + new.steps,
    stalled_crashes = CASE WHEN job.cursor IS NOT DISTINCT FROM new.cursor AND new.steps = 0 THEN stalled_crashes
        ELSE 0 END,
    alone_crashes = CASE WHEN job.cursor IS NOT DISTINCT FROM new.cursor AND new.steps = 0 THEN alone_crashes
        ELSE 0 END
FROM unnest(%s::bigint[], %s::bigint[], %s::text[], %s::bigint[]) AS new (id, token, cursor, steps)
WHERE job.id = new.id AND lease_seq = token AND state = 'running' RETURNING job.id, token
"""
_KEEP_STEPS: Final = """
INSERT INTO hotreload_steps SELECT * FROM unnest(%s::bigint[], %s::text[], %s::text[])
ON CONFLICT (job, name) DO UPDATE SET result = excluded.result
"""
_MOVED: Final = {
    "state": "text",
    "attempts": "bigint",
    "interruptions": "bigint",
    "crashes": "bigint",
    "stalled_crashes": "bigint",
    "alone_crashes": "bigint",
    "suspect": "boolean",
    "run_at_ms": "bigint",
    "ended_at_ms": "bigint",
    "reason": "text",
    "traceback": "text",
    "result": "text",
}
_MOVE: Final = f"""
UPDATE hotreload_jobs AS job SET lease_seq = lease_seq + %s, {", ".join(f"{name} = new.{name}" for name in _MOVED)}
FROM unnest(%s::bigint[], %s::bigint[], {", ".join(f"%s::{kind}[]" for kind in _MOVED.values())})
    AS new (id, token, {", ".join(_MOVED)})
WHERE job.id = new.id AND lease_seq = token AND job.state = 'running' RETURNING job.id, token
"""
_REQUEUE: Final = """
UPDATE hotreload_jobs SET state = 'ready', lease_seq = lease_seq + 1, interruptions = interruptions + 1
WHERE state = 'running' AND node = %s AND queue = ANY(%s) RETURNING id, queue, cursor IS NOT NULL OR steps > 0
"""
_DEAD_OF: Final = """
SELECT id, queue, dedupe_key FROM hotreload_jobs AS job WHERE state = 'dead' AND id = ANY(%s) AND NOT EXISTS (
    SELECT 1 FROM hotreload_jobs AS other WHERE other.queue = job.queue AND other.dedupe_key = job.dedupe_key
        AND other.dedupe_key IS NOT NULL AND other.state IN ('ready', 'scheduled', 'running'))
ORDER BY id FOR UPDATE
"""
_RETRY: Final = """
UPDATE hotreload_jobs SET state = 'ready', attempts = 0, stalled_crashes = 0, alone_crashes = 0, run_at_ms = %s,
    ended_at_ms = NULL WHERE id = ANY(%s)
"""
_DISCARD: Final = """
DELETE FROM hotreload_jobs WHERE id = ANY(%s) AND state <> 'running' RETURNING id, queue, state, suspect
"""
_WAITING: Final = """
DELETE FROM hotreload_jobs WHERE id = ANY(%s) AND state IN ('ready', 'scheduled') RETURNING id, queue, state, suspect
"""
_CANCEL: Final = """
UPDATE hotreload_jobs AS job SET state = 'cancelled', lease_seq = lease_seq + 1, suspect = false, ended_at_ms = %s
FROM (SELECT id, suspect FROM hotreload_jobs WHERE id = ANY(%s) AND state = 'running' FOR UPDATE) AS was
WHERE job.id = was.id RETURNING job.id, queue, was.suspect
"""
_PAUSE: Final = """
INSERT INTO hotreload_queues (name, paused) VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET paused = excluded.paused
"""
_PRUNE: Final = """
DELETE FROM hotreload_jobs WHERE id IN (
    SELECT id FROM hotreload_jobs WHERE queue = %s AND state IN ('done', 'cancelled') AND ended_at_ms <= %s
    ORDER BY ended_at_ms LIMIT %s FOR UPDATE SKIP LOCKED)
"""

_ENDED: Final = frozenset((JobState.DONE, JobState.DEAD, JobState.CANCELLED))
_EVER: Final = (1 << 63) - 1

Outcome = JobState | LeaseLost
Token = tuple[str, int]
Lot = list[tuple[NewJob, int | None]]
"""The jobs of one enqueue, each with the place of its row in the statement; None where it was left out before."""


class NewJobs(NamedTuple):
    """One enqueue: the jobs with their payloads as JSON texts."""

    jobs: Sequence[NewJob]
    payloads: Sequence[str]
    unless_done_since_ms: int | None


class Checkpoint(NamedTuple):
    """One checkpoint: the cursor as a JSON text, the name and the JSON text of a step."""

    row: JobRow
    cursor: str
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
    """Claims to end, then queues of which everything this node runs goes back."""

    settlements: Sequence[Settlement]
    queues: Sequence[str]


class Statements:
    """The verbs of one node over one ledger and one clock."""

    def __init__(self, ledger: Ledger, now_ms: Callable[[], int], node: str) -> None:
        self._ledger = ledger
        self._now_ms = now_ms
        self._node = node
        self.closed = False
        """True once nothing may be claimed any more; set from any thread, what the writer does next keeps to it."""

    # --- enqueue ----------------------------------------------------------------------------------------------------

    def enqueue(self, connection: Connection, calls: Sequence[NewJobs]) -> Sequence[Added]:
        """Insert the jobs of all calls in their order; an id is never given twice."""
        now_ms = self._now_ms()
        rows: list[tuple[Any, ...]] = []
        lots = [self._rows(connection, call, now_ms, rows) for call in calls]
        found = run(connection, _INSERT, _columns(rows, len(_INSERTED))).fetchall() if rows else []
        for (queue, state), count in Counter(row[:2] for row, (_, new) in zip(rows, found, strict=True) if new).items():
            self._ledger.add(queue, state, count)
        return [_added(connection, lot, found) for lot in lots]

    @staticmethod
    def _rows(connection: Connection, call: NewJobs, now_ms: int, rows: list[tuple[Any, ...]]) -> Lot:
        """Append the rows of one call; return each job with the place of its row, None where it was done lately."""
        done = _done_since(connection, call) if call.unless_done_since_ms is not None else frozenset[Any]()
        lot: Lot = []
        for job, payload in zip(call.jobs, call.payloads, strict=True):
            if (job.queue, job.dedupe_key) in done:
                lot.append((job, None))
                continue
            due = job.run_at_ms is None or job.run_at_ms <= now_ms
            state = JobState.READY if due else JobState.SCHEDULED
            head = (job.queue, state.value, job.priority, now_ms if due else job.run_at_ms)
            lot.append((job, len(rows)))
            rows.append((*head, job.max_attempts, job.version, now_ms, job.dedupe_key, payload))
        return lot

    # --- claim ------------------------------------------------------------------------------------------------------

    def claim(self, connection: Connection, calls: Sequence[Claim]) -> Sequence[list[JobRow]]:
        """Take jobs for each call in turn."""
        return [self._claim(connection, call.queue, call.limit) for call in calls]

    def _claim(self, connection: Connection, queue: str, limit: int) -> list[JobRow]:
        standing = self._ledger.standings().get(queue)
        if self.closed or standing is None or standing.paused:
            return []
        now_ms = self._now_ms()
        if standing.next_due_ms is not None and standing.next_due_ms <= now_ms:
            self._count(queue, "scheduled", "ready", run(connection, _PROMOTE, (queue, now_ms, PROMOTED_MOST)).rowcount)
        taken: list[Any] = []
        left = PAGE_BYTES
        while len(taken) < limit and left > 0:
            page = self._page(connection, queue, min(PAGE_ROWS, limit - len(taken)), left)
            taken.extend(page)
            left -= sum(row[-1] for row in page)
            if len(page) < PAGE_ROWS:
                break
        return _with_steps(connection, taken)

    def _page(self, connection: Connection, queue: str, limit: int, most_bytes: int) -> list[Any]:
        """Take up to `limit` jobs, as many as fit into `most_bytes`, but one at least; in their order."""
        may, suspect = May.OTHERS, 0
        if self._ledger.total("suspects"):
            suspects = [Suspect(*row) for row in run(connection, _SUSPECTS)]
            may, suspect = may_claim(queue, suspects, self._ledger.total("running", queue))
        if may is May.NOTHING:
            return []
        sql, which = (_TAKE_SUSPECT, suspect) if suspect else (_TAKE_NEXT, queue)
        page = run(connection, sql, (which, limit, self._node, most_bytes)).fetchall()
        self._count(queue, "ready", "running", len(page))
        return sorted(page, key=lambda row: (row[10], row[13], row[0]))

    def unclaim(self, connection: Connection, calls: Sequence[Sequence[JobRow]]) -> Sequence[None]:
        """Put back what `claim` returned to a caller that had gone, as if it had not been claimed."""
        tokens = [(int(row.id), row.lease_seq) for taken in calls for row in taken]
        for (queue,) in run(connection, _UNCLAIM, _columns(tokens, 2)).fetchall():
            self._count(queue, "running", "ready", 1)
        return [None] * len(calls)

    # --- what a claim writes ----------------------------------------------------------------------------------------

    def checkpoint(self, connection: Connection, calls: Sequence[Checkpoint]) -> Sequence[LeaseLost | None]:
        """Write cursors and steps; a fenced one changes nothing and gets its LeaseLost. A job keeps the last cursor."""
        steps = Counter(_token(call.row) for call in calls if call.step)
        cursors = {_token(call.row): call.cursor for call in calls}
        new = [(int(job_id), seq, cursor, steps[job_id, seq]) for (job_id, seq), cursor in cursors.items()]
        held = _tokens(run(connection, _CHECKPOINT, _columns(new, 4)))
        kept = {(call.row.id, call.step[0]): call.step[1] for call in calls if call.step and _token(call.row) in held}
        if kept:
            rows = [(int(job_id), name, result) for (job_id, name), result in kept.items()]
            run(connection, _KEEP_STEPS, _columns(rows, 3))
        return [None if _token(call.row) in held else LeaseLost(*_token(call.row)) for call in calls]

    def settle(self, connection: Connection, calls: Sequence[Settlement]) -> Sequence[Outcome]:
        """End the claims; a fenced one, and the second of two for a job, changes nothing and gets its LeaseLost."""
        first = {_token(call.row): call for call in reversed(calls)}
        held = self.transition(connection, list(first.values()), self._now_ms(), fence=False)
        return [
            call.to.state
            if _token(call.row) in held and first[_token(call.row)] is call
            else LeaseLost(*_token(call.row))
            for call in calls
        ]

    def transition(
        self, connection: Connection, calls: Sequence[Settlement], now_ms: int, *, fence: bool
    ) -> frozenset[Token]:
        """Write where running jobs go; return the tokens that still held. With `fence` no token is the newest then."""
        if not calls:
            return frozenset()
        columns = _columns([_moved(call, now_ms) for call in calls], len(_MOVED) + 2)
        held = _tokens(run(connection, _MOVE, (int(fence), *columns)))
        moved = [call for call in calls if _token(call.row) in held]
        for (queue, state), count in Counter((call.row.queue, call.to.state) for call in moved).items():
            self._count(queue, "running", _column(state), count)
        for call in moved:
            if call.row.suspect or call.to.suspect:
                self._ledger.add(call.row.queue, "suspects", int(call.to.suspect) - int(call.row.suspect))
        return held

    def exchange(
        self, connection: Connection, calls: Sequence[Exchange]
    ) -> Sequence[tuple[Sequence[Outcome], Sequence[JobRow]]]:
        """Settle for all calls, then claim for each in turn."""
        states = iter(self.settle(connection, [one for call in calls for one in call.settlements]))
        ended = [[next(states) for _ in call.settlements] for call in calls]
        taken = [self._claim(connection, *call.claim) if call.claim else [] for call in calls]
        return list(zip(ended, taken, strict=True))

    def flush(self, connection: Connection, calls: Sequence[Flush]) -> Sequence[Requeued]:
        """Settle, then put back what this node runs in the queues, fence it, count an interruption, as `decide`."""
        for call in calls:
            self.settle(connection, call.settlements)
        return [self._requeue(connection, call.queues) for call in calls]

    def _requeue(self, connection: Connection, queues: Sequence[str]) -> Requeued:
        found = sorted(run(connection, _REQUEUE, (self._node, list(queues))).fetchall())
        for queue, count in Counter(queue for _, queue, _ in found).items():
            self._count(queue, "running", "ready", count)
        ids = [str(job_id) for job_id, *_ in found]
        return Requeued(ids, [str(job_id) for job_id, _, progressed in found if progressed])

    # --- what people do ---------------------------------------------------------------------------------------------

    def retry(self, connection: Connection, calls: Sequence[Sequence[str]]) -> Sequence[list[str]]:
        """Make dead jobs ready, with all their attempts and their cursor; return the ids of those made ready.

        One whose key an active job has meanwhile is passed over; of several with one key the newest is taken.
        """
        return [self._retry(connection, ids) for ids in calls]

    def _retry(self, connection: Connection, ids: Sequence[str]) -> list[str]:
        found = run(connection, _DEAD_OF, (numbers(ids),)).fetchall()
        newest = {(queue, job_id if key is None else key): job_id for job_id, queue, key in found}
        run(connection, _RETRY, (self._now_ms(), list(newest.values())))
        for queue, _ in newest:
            self._count(queue, "dead", "ready", 1)
        return [str(job_id) for job_id in newest.values()]

    def discard(self, connection: Connection, calls: Sequence[Sequence[str]]) -> Sequence[list[str]]:
        """Remove jobs that do not run; return the ids of those removed."""
        return [self._removed(run(connection, _DISCARD, (numbers(ids),)).fetchall()) for ids in calls]

    def cancel(self, connection: Connection, calls: Sequence[Sequence[str]]) -> Sequence[Cancelled]:
        """Remove waiting jobs, end running ones as cancelled and fence them."""
        return [self._cancel(connection, numbers(ids)) for ids in calls]

    def _cancel(self, connection: Connection, ids: list[int]) -> Cancelled:
        removed = self._removed(run(connection, _WAITING, (ids,)).fetchall())
        running = run(connection, _CANCEL, (self._now_ms(), ids)).fetchall()
        for _, queue, suspect in running:
            self._count(queue, "running", "done", 1)
            self._ledger.add(queue, "suspects", -int(suspect))
        return Cancelled(removed, {str(job_id): queue for job_id, queue, _ in running})

    def _removed(self, found: Sequence[tuple[Any, ...]]) -> list[str]:
        for _, queue, state, suspect in found:
            self._ledger.add(queue, _column(state), -1)
            self._ledger.add(queue, "suspects", -int(suspect))
        return [str(job_id) for job_id, *_ in sorted(found)]

    def pause(self, connection: Connection, calls: Sequence[tuple[str, bool]]) -> Sequence[None]:
        """Set whether each queue is paused; the last word on a queue counts."""
        for queue, paused in calls:
            run(connection, _PAUSE, (queue, paused))
            self._ledger.add(queue, "ready", 0)
        return [None] * len(calls)

    def prune(self, connection: Connection, calls: Sequence[tuple[str, int, int]]) -> Sequence[int]:
        """Remove ended jobs of (queue, those ended by then, how many at most), the oldest first; return how many."""
        counts = [
            run(connection, _PRUNE, (queue, before_ms, min(most, PRUNED_AT_ONCE))).rowcount
            for queue, before_ms, most in calls
        ]
        for (queue, *_), count in zip(calls, counts, strict=True):
            self._ledger.add(queue, "done", -count)
        return counts

    def _count(self, queue: str, old: Column, new: Column, count: int) -> None:
        if count:
            self._ledger.add(queue, old, -count)
            self._ledger.add(queue, new, count)


def overdue(ledger: Ledger, before_ms: Callable[[str], int], most: int) -> Sequence[tuple[str, int, int]]:
    """Return what `prune` is to remove: the jobs that ended by `before_ms(queue)`, and the oldest beyond `most`."""
    standings = sorted((one for one in ledger.standings().values() if one.done), key=lambda one: -one.done)
    over = sum(standing.done for standing in standings) - most
    old = [(standing.name, before_ms(standing.name), PRUNED_AT_ONCE) for standing in standings]
    return [*old, *([(standings[0].name, _EVER, over)] if over > 0 else [])]


def _added(connection: Connection, lot: Lot, found: Sequence[tuple[int, bool]]) -> Added:
    """Say of each job of an enqueue which one it is now; `found` has of each row its id, and whether it is there."""
    new = [str(found[place][0]) if place is not None and found[place][1] else None for _, place in lot]
    left_out = [job for (job, _), job_id in zip(lot, new, strict=True) if job_id is None]
    held = _holders(connection, left_out) if left_out else {}
    jobs = [
        held[job.queue, str(job.dedupe_key)] if job_id is None else Enqueued(job_id)
        for (job, _), job_id in zip(lot, new, strict=True)
    ]
    return Added(jobs, [str(job.dedupe_key) for job in left_out])


def _holders(connection: Connection, jobs: Sequence[NewJob]) -> dict[tuple[str, str], Enqueued]:
    """Return the job that has the key of each of these: the active one, or the one done last."""
    return {
        (queue, key): Enqueued(str(job_id), JobState(state))
        for queue, asked in _keys(jobs).items()
        for sql in (_DONE_OF, _ACTIVE_OF)
        for key, job_id, state in run(connection, sql, (queue, asked)).fetchall()
    }


def _done_since(connection: Connection, call: NewJobs) -> frozenset[tuple[str, str]]:
    return frozenset(
        (queue, key)
        for queue, asked in _keys(call.jobs).items()
        for (key,) in run(connection, _DONE_SINCE, (queue, call.unless_done_since_ms, asked)).fetchall()
    )


def _keys(jobs: Sequence[NewJob]) -> dict[str, list[str]]:
    keys: dict[str, list[str]] = {}
    for job in jobs:
        if job.dedupe_key is not None:
            keys.setdefault(job.queue, []).append(job.dedupe_key)
    return keys


def number(job_id: str) -> int:
    """Return the number an id stands for, -1 (which no job has) for a text that is not an id."""
    return int(job_id) if job_id.isascii() and job_id.isdigit() and len(job_id) < 19 else -1


def numbers(ids: Sequence[str]) -> list[int]:
    """Return the numbers that ids stand for."""
    return [number(job_id) for job_id in ids]


def _with_steps(connection: Connection, taken: Sequence[Any]) -> list[JobRow]:
    """Return the jobs taken, each with the steps it kept."""
    kept: dict[int, dict[str, str]] = {row[0]: {} for row in taken if row[-2]}
    if kept:
        for job_id, name, result in run(connection, _STEPS, (list(kept),)).fetchall():
            kept[job_id][name] = result
    return [JobRow(str(row[0]), *row[1:-2], steps=kept.get(row[0], {})) for row in taken]


def _column(state: str) -> Column:
    """Return where a state is counted: cancelled jobs are counted with the done ones."""
    return "done" if state == JobState.CANCELLED else cast("Column", str(state))


def _moved(call: Settlement, now_ms: int) -> tuple[Any, ...]:
    to = call.to
    return (
        int(call.row.id),
        call.row.lease_seq,
        to.state.value,
        to.attempts,
        to.interruptions,
        to.crashes,
        to.stalled_crashes,
        to.alone_crashes,
        to.suspect,
        to.run_at_ms,
        now_ms if to.state in _ENDED else None,
        _text(to.reason),
        _text(to.traceback),
        call.result,
    )


def _text(said: str | None) -> str | None:
    """Return a text as the database holds it: it has no NUL."""
    return None if said is None else escaped(said).replace("\0", "\\x00")


def _token(row: JobRow) -> Token:
    return row.id, row.lease_seq


def _tokens(found: Any) -> frozenset[Token]:
    return frozenset((str(job_id), token) for job_id, token in found)


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[str]:
    """Turn rows into one array a column, as `unnest` takes them; their texts take a third of the driver's time."""
    return ["{" + ",".join([_element(row[place]) for row in rows]) + "}" for place in range(width)]


def _element(value: str | int | None) -> str:
    """Return a value as an element of an array's text."""
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)
