"""What each verb does to the rows, many calls at a time; in the writer's thread and transaction, on any engine."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final, NamedTuple, Protocol, cast

from hotreload.errors import LeaseLost
from hotreload.queue.contract import Added, Cancelled, Requeued
from hotreload.queue.job import (
    Enqueued,
    JobRow,
    JobState,
    May,
    NewJob,
    Suspect,
    Transition,
    escaped,
    may_claim,
)
from hotreload.queue.ledger import Column, Ledger

PAGE_ROWS: Final = 256
PAGE_BYTES: Final = 16 * 1024 * 1024
"""A claim ends once it took so many bytes of payloads and cursors."""
PROMOTED_MOST: Final = 10_000
PRUNED_AT_ONCE: Final = 2_000
LOOK_EVERY_S: Final = 30.0
"""So often it is asked which ended jobs are old."""
_EVER: Final = (1 << 63) - 1
_READY, _SCHEDULED = JobState.READY.value, JobState.SCHEDULED.value
_ENDED: Final = frozenset((JobState.DONE, JobState.DEAD, JobState.CANCELLED))

Outcome = JobState | LeaseLost
Token = tuple[str, int]
Lot = list[tuple[NewJob, int | None]]
"""The jobs of one enqueue, each with the id its row was given; None where it was left out before."""
Raw = list[Any]
"""A claimed job: the fields of a JobRow in their order, the id as a number, the steps as a mapping; then its bytes."""
_LEASE, _STEPS, _SIZE = 4, 17, 18


class Statements(Protocol):
    """The statements of an engine: most by the name that they have in its `statements.sql`, some each in its way."""

    def rows(self, connection: Any, name: str, *given: Any) -> list[Any]:
        """Return the rows of a statement; a list among `given` is one value of it."""
        ...

    def run(self, connection: Any, name: str, *given: Any) -> int:
        """Run a statement and return how many rows it changed."""
        ...

    def each(self, connection: Any, name: str, rows: Sequence[tuple[Any, ...]]) -> int:
        """Run a statement over many rows of bindings and return how many rows it changed."""
        ...

    def held(self, connection: Any, name: str, rows: Sequence[tuple[Any, ...]]) -> frozenset[Token]:
        """As `each` for claims: rows begin with id and token. Those that no longer hold change nothing; return others.

        A claim holds while it is the newest of its job and the job runs.
        """
        ...

    def checkpoint(self, connection: Any, rows: Sequence[tuple[int, int, str, int]]) -> frozenset[Token]:
        """As `held`: keep the cursors of claims, count so many more steps, note progress where there is any."""
        ...

    def reserve(self, connection: Any, count: int) -> Iterable[int]:
        """Return so many new ids, none of which was or will be given another time."""
        ...

    def insert(self, connection: Any, rows: Sequence[tuple[Any, ...]]) -> Collection[int]:
        """Insert jobs but those whose key is taken; return the ids of those inserted."""
        ...

    def take(self, connection: Any, queue: str, suspect: int, limit: int, most_bytes: int) -> list[Raw]:
        """Claim ready jobs in their order (or the one `suspect`, where it is not 0), at least one of any size."""
        ...

    def take_behind(self, connection: Any, queue: str, limit: int, most_bytes: int) -> Callable[[], list[Raw]]:
        """Claim as `take` once the next `held` is done, which must come; return what returns the jobs from then on."""
        ...

    def requeue(self, connection: Any, queues: Sequence[str]) -> list[tuple[int, str, bool]]:
        """Put back as interrupted what this process runs, fenced; return id, queue, whether it has progress."""
        ...

    def left_running(self, connection: Any) -> list[Raw]:
        """Return what the last owner ran, by id, without texts, which may be large: the cursor is any progress."""
        ...

    def finished_since(self, connection: Any, since_ms: int) -> list[tuple[int]]:
        """Return the ids of the jobs that the last owner finished since."""
        ...

    def remove(self, connection: Any, ids: Sequence[int]) -> None:
        """Remove jobs."""
        ...

    def count(self, connection: Any, sums: Mapping[str, Sequence[int]]) -> list[Any]:
        """Add to the counters of queues; return them as the statement `standings` does."""
        ...

    def page(
        self, connection: Any, queue: str | None, state: JobState | None, limit: int, before: int | None
    ) -> list[Any]:
        """Return up to `limit` jobs, newest first."""
        ...

    def in_ranges(self, connection: Any, name: str, ranges: Sequence[tuple[int, int]], *given: Any) -> list[Any]:
        """Return the rows of a statement over jobs in ranges of ids, ends included."""
        ...


def load(package: str) -> Mapping[str, str]:
    """Return by name the statements of the file `statements.sql` in a package; each follows a line `-- name: NAME`."""
    text = files(package).joinpath("statements.sql").read_text("utf-8")
    named = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    bodies = (re.sub(r"^--.*\n?", "", body, flags=re.MULTILINE).strip() for body in named[2::2])
    return dict(zip(named[1::2], bodies, strict=True))


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
    """Claims to end, then queues of which everything that this process runs goes back."""

    settlements: Sequence[Settlement]
    queues: Sequence[str]


class Verbs:
    """The verbs over one engine's statements, one ledger and one clock."""

    def __init__(self, sql: Statements, ledger: Ledger, now_ms: Callable[[], int]) -> None:
        self._sql = sql
        self._ledger = ledger
        self._now_ms = now_ms
        self.closed = False
        """True once nothing may be claimed and upkeep is put off; set from any thread, what comes next keeps to it."""

    # --- enqueue ----------------------------------------------------------------------------------------------------

    def enqueue(self, connection: Any, calls: Sequence[NewJobs]) -> Sequence[Added]:
        """Insert the jobs of all calls in their order; an id is never given twice."""
        now_ms = self._now_ms()
        ids = iter(self._sql.reserve(connection, sum(len(call.jobs) for call in calls)))
        rows: list[tuple[Any, ...]] = []
        lots = [self._rows(connection, call, now_ms, ids, rows) for call in calls]
        there = self._sql.insert(connection, rows) if rows else frozenset[int]()
        if len(there) == sum(map(len, lots)):
            answers = [Added([Enqueued(str(job_id)) for _, job_id in lot]) for lot in lots]
        else:
            answers = [self._added(connection, lot, there) for lot in lots]
        for (queue, state), count in Counter((row[1], row[2]) for row in rows if row[0] in there).items():
            self._ledger.add(queue, state, count)
        return answers

    def _rows(
        self, connection: Any, call: NewJobs, now_ms: int, ids: Iterator[int], rows: list[tuple[Any, ...]]
    ) -> Lot:
        """Append the rows of one call; return each job with the id of its row, None where it was done lately."""
        done = self._done_since(connection, call) if call.unless_done_since_ms is not None else frozenset[Any]()
        lot: Lot = []
        for job, payload in zip(call.jobs, call.payloads, strict=True):
            if done and (job.queue, job.dedupe_key) in done:
                lot.append((job, None))
                continue
            job_id, due = next(ids), now_ms + int(job.delay_s * 1000) if job.delay_s > 0 else job.run_at_ms
            state, due = (_READY, now_ms) if due is None or due <= now_ms else (_SCHEDULED, due)
            head = (job_id, job.queue, state, job.priority, due)
            rows.append((*head, job.max_attempts, job.version, now_ms, job.dedupe_key, payload))
            lot.append((job, job_id))
        return lot

    def _done_since(self, connection: Any, call: NewJobs) -> frozenset[tuple[str, str]]:
        return frozenset(
            (queue, key)
            for queue, asked in _keys(call.jobs).items()
            for (key,) in self._sql.rows(connection, "done_since", queue, call.unless_done_since_ms, asked)
        )

    def _added(self, connection: Any, lot: Lot, there: Collection[int]) -> Added:
        """Say of each job of an enqueue which one it is now, `there` are the rows inserted."""
        left_out = [job for job, job_id in lot if job_id not in there]
        held = {  # the active job that has the key, or the one done last
            (queue, key): Enqueued(str(job_id), JobState(state))
            for queue, asked in _keys(left_out).items()
            for name in ("done_of", "active_of")
            for key, job_id, state in self._sql.rows(connection, name, queue, asked)
        }
        jobs = [Enqueued(str(i)) if i in there else held[job.queue, str(job.dedupe_key)] for job, i in lot]
        return Added(jobs, [str(job.dedupe_key) for job in left_out])

    # --- claim ------------------------------------------------------------------------------------------------------

    def _claim(self, connection: Any, queue: str, limit: int, first: Callable[[], list[Raw]] | None) -> list[Raw]:
        """Take jobs for `leased`; `first` returns the first page of them where it was taken before."""
        standing = self._ledger.standings().get(queue)
        if first is None and (self.closed or standing is None or standing.paused):
            return []
        now_ms = self._now_ms()
        if first is None and standing and standing.next_due_ms is not None and standing.next_due_ms <= now_ms:
            due = self._sql.run(connection, "promote", queue, now_ms, PROMOTED_MOST)
            self._count(queue, "scheduled", "ready", due)
        taken: list[Raw] = []
        left = PAGE_BYTES
        while len(taken) < limit and left > 0:
            if first is None:
                page = self._page(connection, queue, min(PAGE_ROWS, limit - len(taken)), left)
            else:
                page, first = first(), None
            self._count(queue, "ready", "running", len(page))
            taken.extend(page)
            left -= sum(raw[_SIZE] for raw in page)
            if len(page) < PAGE_ROWS:
                break
        return self._with_steps(connection, taken)

    def _page(self, connection: Any, queue: str, limit: int, most_bytes: int) -> list[Raw]:
        may, suspect = May.OTHERS, 0
        if self._ledger.total("suspects"):
            suspects = [Suspect(*row) for row in self._sql.rows(connection, "suspects")]
            may, suspect = may_claim(queue, suspects, self._ledger.total("running", queue))
        if may is May.NOTHING:
            return []
        return self._sql.take(connection, queue, suspect, limit, most_bytes)

    def _with_steps(self, connection: Any, taken: list[Raw]) -> list[Raw]:
        """Put in place of their count the steps that the jobs kept."""
        kept: dict[int, dict[str, str]] = {raw[0]: {} for raw in taken if raw[_STEPS]}
        if kept:
            for job_id, name, result in self._sql.rows(connection, "steps", list(kept)):
                kept[job_id][name] = result
        for raw in taken:
            raw[_STEPS] = kept.get(raw[0], {})
        return taken

    def unclaim(self, connection: Any, calls: Sequence[Sequence[Raw]]) -> Sequence[None]:
        """Put back what `exchange` claimed for a caller that had gone, as if it had not been claimed."""
        queues: dict[Token, str] = {(str(raw[0]), raw[_LEASE]): raw[1] for taken in calls for raw in taken}
        held = self._sql.held(connection, "unclaim", [(int(job_id), token) for job_id, token in queues])
        for token in held:
            self._count(queues[token], "running", "ready", 1)
        return [None] * len(calls)

    # --- what a claim writes ----------------------------------------------------------------------------------------

    def checkpoint(self, connection: Any, calls: Sequence[Checkpoint]) -> Sequence[LeaseLost | None]:
        """Write cursors and steps; a fenced one changes nothing and gets its LeaseLost. A job keeps the last cursor."""
        steps = Counter(_token(call.row) for call in calls if call.step)
        cursors = {_token(call.row): call.cursor for call in calls}
        new = [(int(token[0]), token[1], cursor, steps.get(token, 0)) for token, cursor in cursors.items()]
        held = self._sql.checkpoint(connection, new)
        kept = {(call.row.id, call.step[0]): call.step[1] for call in calls if call.step and _token(call.row) in held}
        if kept:
            rows = [(int(job_id), name, result) for (job_id, name), result in kept.items()]
            self._sql.each(connection, "keep_steps", rows)
        if len(held) == len(cursors):
            return [None] * len(calls)
        return [None if _token(call.row) in held else LeaseLost(*_token(call.row)) for call in calls]

    def settle(self, connection: Any, calls: Sequence[Settlement]) -> Sequence[Outcome]:
        """End the claims; a fenced one, and the second of two for a job, changes nothing and gets its LeaseLost."""
        first = {_token(call.row): call for call in reversed(calls)}
        held = self.transition(connection, list(first.values()), self._now_ms(), fence=False)
        if len(held) == len(calls):
            return [call.to.state for call in calls]
        return [
            call.to.state
            if _token(call.row) in held and first[_token(call.row)] is call
            else LeaseLost(*_token(call.row))
            for call in calls
        ]

    def transition(self, connection: Any, calls: Sequence[Settlement], now_ms: int, *, fence: bool) -> frozenset[Token]:
        """Write where running jobs go; return the tokens that still held. With `fence` no token is the newest then."""
        if not calls:
            return frozenset()
        held = self._sql.held(connection, "move", [_moved(call, now_ms, fence) for call in calls])
        moved = calls if len(held) == len(calls) else [call for call in calls if _token(call.row) in held]
        for (queue, state), count in Counter((call.row.queue, call.to.state) for call in moved).items():
            self._count(queue, "running", _column(state), count)
        for call in moved:
            if call.row.suspect or call.to.suspect:
                self._ledger.add(call.row.queue, "suspects", int(call.to.suspect) - int(call.row.suspect))
        return held

    def exchange(self, connection: Any, calls: Sequence[Exchange]) -> Sequence[tuple[Sequence[Outcome], Sequence[Raw]]]:
        """Settle for all calls, then claim for each in turn; return states, and jobs for `leased`."""
        settlements = [one for call in calls for one in call.settlements]
        first = self._behind(connection, settlements, calls[0].claim)
        states = iter(self.settle(connection, settlements))
        ended = [[next(states) for _ in call.settlements] for call in calls]
        taken: list[Sequence[Raw]] = []
        for call in calls:
            taken.append(self._claim(connection, *call.claim, first) if call.claim else [])
            first = None
        return list(zip(ended, taken, strict=True))

    def _behind(
        self, connection: Any, settlements: Sequence[Settlement], claim: Claim | None
    ) -> Callable[[], list[Raw]] | None:
        """Have the first page of a claim taken with the statement that settles, where nothing speaks against it yet."""
        standing = self._ledger.standings().get(claim.queue) if claim else None
        if claim is None or standing is None or standing.paused or not settlements or self.closed:
            return None
        due = standing.next_due_ms is not None and standing.next_due_ms <= self._now_ms()
        if due or self._ledger.total("suspects") or any(one.row.suspect or one.to.suspect for one in settlements):
            return None
        return self._sql.take_behind(connection, claim.queue, min(PAGE_ROWS, claim.limit), PAGE_BYTES)

    def flush(self, connection: Any, calls: Sequence[Flush]) -> Sequence[Requeued]:
        """Settle, then put back what runs in the queues of each call, fence it, count an interruption, as `decide`."""
        for call in calls:
            self.settle(connection, call.settlements)
        return [self._requeue(connection, call.queues) for call in calls]

    def _requeue(self, connection: Any, queues: Sequence[str]) -> Requeued:
        found = sorted(self._sql.requeue(connection, queues))
        for queue, count in Counter(queue for _, queue, _ in found).items():
            self._count(queue, "running", "ready", count)
        ids = [str(job_id) for job_id, *_ in found]
        return Requeued(ids, [str(job_id) for job_id, _, progressed in found if progressed])

    # --- what people do ---------------------------------------------------------------------------------------------

    def retry(self, connection: Any, calls: Sequence[Sequence[str]]) -> Sequence[list[str]]:
        """Make dead jobs ready, with all their attempts and their cursor; return the ids of those made ready.

        One whose key an active job has meanwhile is passed over; of several with one key the newest is taken.
        """
        return [self._retry(connection, ids) for ids in calls]

    def _retry(self, connection: Any, ids: Sequence[str]) -> list[str]:
        found = self._sql.rows(connection, "dead_of", numbers(ids))
        newest: dict[Any, int] = {(queue, job_id if key is None else key): job_id for job_id, queue, key in found}
        self._sql.run(connection, "retry", self._now_ms(), list(newest.values()))
        for queue, _ in newest:
            self._count(queue, "dead", "ready", 1)
        return [str(job_id) for job_id in newest.values()]

    def discard(self, connection: Any, calls: Sequence[Sequence[str]]) -> Sequence[list[str]]:
        """Remove jobs that do not run; return the ids of those removed."""
        return [self._discard(connection, ids) for ids in calls]

    def _discard(self, connection: Any, ids: Sequence[str]) -> list[str]:
        found = self._sql.rows(connection, "not_running", numbers(ids))
        self._sql.remove(connection, [job_id for job_id, *_ in found])
        self._uncount(found)
        return [str(job_id) for job_id, *_ in found]

    def cancel(self, connection: Any, calls: Sequence[Sequence[str]]) -> Sequence[Cancelled]:
        """Remove waiting jobs, end running ones as cancelled and fence them."""
        return [self._cancel(connection, ids) for ids in calls]

    def _cancel(self, connection: Any, ids: Sequence[str]) -> Cancelled:
        found = self._sql.rows(connection, "unfinished", numbers(ids))
        running: dict[int, str] = {job_id: queue for job_id, queue, state, _ in found if state == JobState.RUNNING}
        waiting = [job_id for job_id, *_ in found if job_id not in running]
        self._sql.remove(connection, waiting)
        self._sql.run(connection, "cancel", self._now_ms(), list(running))
        self._uncount(found)
        for queue in running.values():
            self._ledger.add(queue, "done", 1)
        return Cancelled([str(job_id) for job_id in waiting], {str(each): queue for each, queue in running.items()})

    def pause(self, connection: Any, calls: Sequence[tuple[str, bool]]) -> Sequence[None]:
        """Set whether each queue is paused; the last word on a queue counts."""
        for queue, paused in calls:
            self._sql.run(connection, "pause", queue, paused)
            self._ledger.add(queue, "ready", 0)
        return [None] * len(calls)

    def prune(self, connection: Any, before_ms: Callable[[str], int], most: int) -> bool:
        """Remove some ended jobs: of those that ended by `before_ms(queue)`, of the oldest beyond `most`.

        Up to PRUNED_AT_ONCE of a queue; True if more are left.
        """
        standings = sorted((one for one in self._ledger.standings().values() if one.done), key=lambda one: -one.done)
        over = sum(standing.done for standing in standings) - most
        more = False
        for standing in standings:
            asked = (standing.name, before_ms(standing.name), PRUNED_AT_ONCE)
            found = self._sql.rows(connection, "ended", *asked)
            if over > 0 and len(found) < min(over, PRUNED_AT_ONCE):
                found = self._sql.rows(connection, "ended", standing.name, _EVER, min(over, PRUNED_AT_ONCE))
            over -= len(found)
            more = more or len(found) == PRUNED_AT_ONCE
            self._sql.remove(connection, [job_id for (job_id,) in found])
            self._ledger.add(standing.name, "done", -len(found))
        return more

    def _count(self, queue: str, old: Column, new: Column, count: int) -> None:
        if count:
            self._ledger.add(queue, old, -count)
            self._ledger.add(queue, new, count)

    def _uncount(self, found: Sequence[tuple[int, str, JobState, int]]) -> None:
        for _, queue, state, suspect in found:
            self._ledger.add(queue, _column(state), -1)
            self._ledger.add(queue, "suspects", -int(suspect))


def leased(raw: Raw) -> JobRow:
    """Return a job as its claim has it."""
    return JobRow(str(raw[0]), *raw[1:16], suspect=bool(raw[16]), steps=raw[_STEPS])


def number(job_id: str) -> int:
    """Return the number an id stands for, -1 (which no job has) for a text that is not an id."""
    return int(job_id) if job_id.isascii() and job_id.isdigit() and len(job_id) < 19 else -1


def numbers(ids: Sequence[str]) -> list[int]:
    """Return the numbers that ids stand for."""
    return [number(job_id) for job_id in ids]


def _keys(jobs: Sequence[NewJob]) -> dict[str, list[str]]:
    keys: dict[str, list[str]] = {}
    for job in jobs:
        if job.dedupe_key is not None:
            keys.setdefault(job.queue, []).append(job.dedupe_key)
    return keys


def _column(state: str) -> Column:
    """Return where a state is counted: cancelled jobs are counted with the done ones."""
    return "done" if state == JobState.CANCELLED else cast("Column", str(state))


def _moved(call: Settlement, now_ms: int, fence: bool) -> tuple[Any, ...]:
    to = call.to
    return (
        int(call.row.id),
        call.row.lease_seq,
        int(fence),
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
    """Return a text as any database holds it: one has no NUL."""
    return None if said is None else escaped(said).replace("\0", "\\x00")


def _token(row: JobRow) -> Token:
    return row.id, row.lease_seq


class Retention:
    """Which ended jobs go, and when: those that their queue has kept long enough, and the oldest of too many.

    In the writer's thread but for `keep`.
    """

    def __init__(
        self,
        ledger: Ledger,
        verbs: Verbs,
        now_ms: Callable[[], int],
        monotonic: Callable[[], float],
        keep_s: float,
        most: int,
    ) -> None:
        self._ledger, self._verbs = ledger, verbs
        self._now_ms, self._monotonic = now_ms, monotonic
        self._keep_s, self._most = keep_s, most
        self._keeps: dict[str, float] = {}
        self._looked_at = monotonic()
        self.more = False
        """Whether the last look left some that are to go."""

    def keep(self, queue: str, keep_s: float) -> None:
        """Keep ended jobs of a queue for another time than the others; from any thread."""
        self._keeps[queue] = keep_s

    @property
    def suspended(self) -> bool:
        """True in a drain: its flush waits for nothing."""
        return self._verbs.closed

    @property
    def done(self) -> int:
        """How many ended jobs there are."""
        return sum(standing.done for standing in self._ledger.standings().values())

    @property
    def due(self) -> bool:
        """Whether it is time to look for old ones."""
        return self.more or (self.done > 0 and self._monotonic() - self._looked_at >= LOOK_EVERY_S)

    @property
    def too_many(self) -> bool:
        """Whether some must go although callers wait."""
        return self.done > self._most + PRUNED_AT_ONCE

    def looks(self) -> None:
        """Note that `prune` comes next: where it fails, it is tried again only when a look is due."""
        self._looked_at = self._monotonic()

    def prune(self, connection: Any) -> None:
        """Remove some, in the transaction that is open."""
        self.more = self._verbs.prune(connection, self._before_ms, self._most)

    def _before_ms(self, queue: str) -> int:
        return self._now_ms() - int(self._keeps.get(queue, self._keep_s) * 1000)
