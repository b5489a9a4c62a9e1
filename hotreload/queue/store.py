"""The queue as its callers use it, on whatever engine.

Durable means: on the disk when the call returns, SIGKILL and power loss included. Delivery is at least once;
within one queue claims go by priority, then by the time a job became ready, then by id. A write of a job
carries the fencing token of its claim; one that is no longer the newest is refused with LeaseLost and
changes nothing. Every asynchronous call is one unit: cancelled while it waits it may or may not have
happened, and calling it again is safe (enqueue by its dedupe key, the others by the token).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import Any, Final, NamedTuple, Protocol

from anyio import to_thread

from hotreload.errors import QueueDraining, StoreLost, StoreUnavailable
from hotreload.queue.calls import A, Inbox, R, Verb
from hotreload.queue.contract import (
    Added,
    Cancelled,
    Document,
    DrainMark,
    Duplicate,
    Exchanged,
    JobEvent,
    JobView,
    Put,
    PutBack,
    QueueDepth,
    Recovered,
    Requeued,
)
from hotreload.queue.fleet import Fleet
from hotreload.queue.job import (
    PAYLOAD_MOST,
    Backoff,
    Done,
    JobRow,
    JobState,
    NewJob,
    Verdict,
    decide,
    from_json,
    stored,
    to_json,
)
from hotreload.queue.ledger import Ledger
from hotreload.queue.recovery import Documents
from hotreload.queue.verbs import (
    Checkpoint,
    Claim,
    Exchange,
    Flush,
    NewJobs,
    Raw,
    Retention,
    Settlement,
    Statements,
    Verbs,
    leased,
    number,
    numbers,
)

log = logging.getLogger(__name__)
NAMED: Final = 1_000
"""Dead jobs told by name."""
_TEXTS: Final = 16
"""Where the JSON texts of a row begin."""


class Reader(Protocol):
    """A connection for reading; calls from several threads take turns."""

    def read(self, query: Callable[[Any], R]) -> R:
        """Run a query on one view of the store and return its result; StoreUnavailable where it cannot be read."""
        ...


class Health(Protocol):
    """Set by the writer's thread, read by any."""

    lost_listeners: list[Callable[[str], None]]

    @property
    def trouble(self) -> str | None:
        """Why the store cannot be written now, None where it can; tried again by itself meanwhile."""
        ...

    @property
    def incident(self) -> str | None:
        """What happened to the store not long ago, where it was put right; None without."""
        ...

    @property
    def lost(self) -> str | None:
        """Why what was acknowledged is in no place that the next start finds, None where it is."""
        ...


class Engine(Protocol):
    """An open store of one engine: its parts, and what it does in a way of its own.

    `owner` tells this owner of the store from those before and after it (see `DrainMark`). `fleet` are the processes
    that share the store, None where no other one can.
    """

    inbox: Inbox
    ledger: Ledger
    verbs: Verbs
    documents: Documents
    recovered: Recovered
    retention: Retention

    @property
    def owner(self) -> str: ...
    @property
    def sql(self) -> Statements: ...
    @property
    def reader(self) -> Reader: ...
    @property
    def health(self) -> Health: ...
    @property
    def fleet(self) -> Fleet | None: ...

    def guarded(self, connection: Any, function: Callable[[Any], R]) -> R:
        """Call a user's function in the open transaction; ValueError where it would reach beyond its own rows."""
        ...

    def read(self, query: Callable[[Any], R]) -> R:
        """Call a user's function that may only read, beside the writer."""
        ...

    def backup(self, into: str | PathLike[str]) -> int:
        """Write a consistent copy into a file, and return its size in bytes."""
        ...

    def insist(self, verb: Verb[A, R], arg: A, timeout_s: float) -> R:
        """As `Inbox.ask_sync`, and again after an outage that is over within `timeout_s`."""
        ...

    def release(self, connection: Any) -> None:
        """Give back what is shared with other processes, in the transaction of the last flush."""
        ...

    def leave(self, timeout_s: float) -> None:
        """Write the last word of an owner that ends in order: it left nothing."""
        ...

    def close(self, timeout_s: float) -> bool:
        """Do what waits, give the store back; False where that took over `timeout_s`."""
        ...


class LastFlush(NamedTuple):
    """Claims to end, queues to put back, jobs whose state is asked for, and who makes the report of it."""

    flush: Flush
    asked: Sequence[str]
    report: Callable[[PutBack], Put] | None


class Store:
    """The verbs of a worker, and what people and the host need beside them; see the module's promises.

    Any number of event loops and threads of the one owning process may use it. Every write waits for its turn in the
    writer's thread and returns once it is durable; where the store cannot be written the call raises StoreUnavailable
    and the next call tries again. Nothing of it happened then, unless the disk failed in the last moment, as it made
    the commit durable: it may have happened, what was claimed goes back by itself, and calling again is safe.
    """

    def __init__(
        self, engine: Engine, *, now_ms: Callable[[], int], jitter: Callable[[], float], backoff: Backoff | None
    ) -> None:
        self.engine = engine
        """What keeps it: the parts of the open store."""
        self._inbox, self._verbs, self._documents = engine.inbox, engine.verbs, engine.documents
        self._ledger, self._sql, self._health = engine.ledger, engine.sql, engine.health
        self.now_ms = now_ms
        """The store's clock, Unix ms: what is due and what is old is said on it. From any thread."""
        self._jitter = jitter
        self._backoff = backoff or Backoff()
        self._draining = self._marked = False
        self.payload_most: Callable[[], int] = lambda: PAYLOAD_MOST
        self.recovered = engine.recovered
        """What the last owner left running, and what became of it as the store was opened."""

    @property
    def wake_up(self) -> str | None:
        """How it is learned what other processes change; None where no other one can. See `PostgresQueue`."""
        return None

    @property
    def trouble(self) -> str | None:
        """Why the store cannot be written now, None where it can; tried by itself meanwhile."""
        return self._health.trouble

    @property
    def fleet(self) -> Fleet | None:
        """The processes that share the store; None where no other one can."""
        return self.engine.fleet

    @property
    def incident(self) -> str | None:
        """What another program did to the store in the last minute, where it was put right; None without."""
        return self._health.incident

    @property
    def lost(self) -> int:
        """How many unfinished jobs are in no store that the next start finds; 0 where it is sound."""
        standings = self._ledger.standings().values() if self._health.lost else ()
        return sum(one.ready + one.scheduled + one.running for one in standings)

    def on_lost(self, listener: Callable[[str], None]) -> None:
        """Call `listener(reason)` once the store is lost for good (see StoreLost); from the writer's thread."""
        self._health.lost_listeners.append(listener)

    @property
    def owner(self) -> str:
        """What tells this owner of the store from those before and after it (see `DrainMark`)."""
        return self.engine.owner

    # --- the verbs of a worker --------------------------------------------------------------------------------------

    async def enqueue(self, jobs: Sequence[NewJob], *, unless_done_since_ms: int | None = None) -> Added:
        """Add jobs, all or none, durable on return.

        A job whose dedupe key belongs to a job of the same queue that is ready, scheduled or running is a
        duplicate and left out; with `unless_done_since_ms` also one that was done at that time or later. QueueDraining
        after `refuse_new`; TypeError or ValueError for a payload that is not JSON.
        """
        return await self._inbox.ask(self._verbs.enqueue, self._new_jobs(jobs, unless_done_since_ms))

    def enqueue_sync(
        self, jobs: Sequence[NewJob], *, unless_done_since_ms: int | None = None, timeout_s: float = 30.0
    ) -> Added:
        """As `enqueue`, from any thread; TimeoutError after `timeout_s`: it may happen yet."""
        new = self._new_jobs(jobs, unless_done_since_ms)
        return self._inbox.ask_sync(self._verbs.enqueue, new, timeout_s=timeout_s)

    def _new_jobs(self, jobs: Sequence[NewJob], unless_done_since_ms: int | None) -> NewJobs:
        if self._draining:
            raise QueueDraining("the service is draining; enqueue again after the restart")
        most = self.payload_most()
        payloads = [stored(job.payload, "the payload", most) for job in jobs]
        return NewJobs(tuple(jobs), payloads, unless_done_since_ms)

    async def claim(self, queue: str, limit: int) -> list[JobRow]:
        """Take up to `limit` ready jobs, each with a new `lease_seq`; [] when none is ready or it is paused.

        At once, without the writer, where nothing is ready. Cancelled, what it took goes back.
        """
        return list((await self.exchange(queue, limit, [])).rows)

    def _promising(self, queue: str) -> bool:
        standing = self._ledger.standing(queue)
        due_ms = standing.next_due_ms
        open_now = not (self._verbs.closed or standing.paused)
        return open_now and (standing.ready > 0 or (due_ms is not None and due_ms <= self.now_ms()))

    def _unclaim(self, rows: Sequence[Raw]) -> None:
        if rows:
            try:
                self._inbox.post(self._verbs.unclaim, rows)
            except StoreUnavailable:  # closed: the next open puts them back
                return

    async def checkpoint(
        self,
        row: JobRow,
        cursor: Any,
        *,
        step: tuple[str, Any] | None = None,
        within: Callable[[Any], object] | None = None,
    ) -> None:
        """Keep `cursor` (a JSON value) as the job's progress; durable on return. LeaseLost if fenced.

        `step` is the name and the result (a JSON value) of a finished step, kept beside those kept before: the next
        claims of the job have all of them. `within(connection)` writes rows of the job's own in the same transaction.
        Both are durable on return, or neither happened: where `within` raises, its error is raised here and the
        cursor stays; where the job is fenced, `within` is not called. It runs in the writer's thread: SQL only.
        """
        most = self.payload_most()
        kept = None if step is None else (step[0], stored(step[1], f"the result of step {step[0]!r}", most))
        progress = Checkpoint(row, stored(cursor, "the cursor", most), kept)
        verb = self._verbs.checkpoint if within is None else partial(self._checkpoint_within, within)
        await self._inbox.ask(verb, progress)

    def _checkpoint_within(
        self,
        within: Callable[[Any], object],
        connection: Any,
        calls: Sequence[Checkpoint],
    ) -> Sequence[BaseException | None]:
        outcome = self._verbs.checkpoint(connection, calls)
        if outcome[0] is None:
            self.engine.guarded(connection, within)
        return outcome

    async def settle(self, row: JobRow, verdict: Verdict) -> JobState:
        """End the claim with a verdict and return the state the job is in now. LeaseLost if fenced.

        TypeError or ValueError for a result that is not a JSON value; the claim stands then.
        """
        return await self._inbox.ask(self._verbs.settle, self._settlement(row, verdict, self.payload_most()))

    def _settlement(self, row: JobRow, verdict: Verdict, most: int = sys.maxsize) -> Settlement:
        """Decide on a verdict. The limit of a result may have shrunk since the job ended, which was checked then."""
        to = decide(row, verdict, self.now_ms(), jitter=self._jitter(), backoff=self._backoff)
        return Settlement(row, to, None if to.result is None else stored(to.result, "the result", most))

    async def exchange(self, queue: str, limit: int, ended: Sequence[tuple[JobRow, Verdict]]) -> Exchanged:
        """Settle `ended` and then claim up to `limit`, in one transaction: what a pool does in its every turn.

        Cancelled, the verdicts may be written; what it took goes back.
        """
        comes_back = any(not isinstance(verdict, Done) for _, verdict in ended)
        claim = Claim(queue, limit) if limit > 0 and (comes_back or self._promising(queue)) else None
        if claim is None and not ended:
            return Exchanged([], [])
        call = Exchange([self._settlement(*one) for one in ended], claim)
        states, rows = await self._inbox.ask(
            self._verbs.exchange, call, abandoned=lambda given: self._unclaim(given[1])
        )
        return Exchanged(states, [leased(row) for row in rows])

    async def next_due_ms(self, queue: str) -> int | None:
        """Return when the next scheduled job becomes ready (Unix ms), None without one or while it is paused."""
        standing = self._ledger.standing(queue)
        return None if standing.paused else standing.next_due_ms

    def depths(self) -> list[QueueDepth]:
        """Return the depths of all queues, by name; cheap, from any thread.

        Jobs that became due count as scheduled until a claim looks.
        """
        standings = self._ledger.standings()
        return [standings[name].depth() for name in sorted(standings)]

    def ready(self, queue: str) -> int:
        """Return how many jobs of `queue` could be claimed, as far as this process knows."""
        standing = self._ledger.standing(queue)
        return 0 if standing.paused else standing.ready

    def on_ready(self, listener: Callable[[str], None]) -> None:
        """Call `listener(queue)` when there is reason to claim again, or to ask again for `next_due_ms`.

        Jobs became ready, one is due sooner than those known, a pause ended, a job ended for which a suspect waits.
        From the writer's thread, so it must only wake others.
        """
        self._ledger.listeners.append(listener)

    # --- for people and for other parts of the service --------------------------------------------------------------

    async def jobs(
        self, *, queue: str | None = None, state: JobState | None = None, limit: int = 50, before: str | None = None
    ) -> Sequence[JobView]:
        """Return a page of jobs, newest first; the next page is the one before the last id of this."""
        below = None if before is None else number(before)
        found = await self._read(lambda connection: self._sql.page(connection, queue, state, limit, below))
        return [_view(row) for row in found]

    async def job(self, job_id: str) -> JobView | None:
        """Return one job with everything, the results of steps in its cursor; None where there is none of that id."""
        asked = number(job_id)

        def found(connection: Any) -> JobView | None:
            rows = self._sql.rows(connection, "job", asked)
            if not rows:
                return None
            steps = {name: from_json(result) for _, name, result in self._sql.rows(connection, "steps", [asked])}
            history = [JobEvent(*event) for event in self._sql.rows(connection, "history", asked)]
            return replace(_view(rows[0], steps), history=history)

        return await self._read(found)

    async def _read(self, query: Callable[[Any], R]) -> R:
        return await to_thread.run_sync(self.engine.reader.read, query)

    async def retry(self, ids: Sequence[str]) -> list[str]:
        """Make dead jobs ready with all their attempts, from their last checkpoint; return those made ready.

        One whose key belongs to an active job by now is passed over.
        """
        return await self._inbox.ask(self._verbs.retry, tuple(ids))

    async def discard(self, ids: Sequence[str]) -> list[str]:
        """Remove jobs that do not run; return those removed."""
        return await self._inbox.ask(self._verbs.discard, tuple(ids))

    async def cancel(self, ids: Sequence[str]) -> Cancelled:
        """Remove the waiting ones of these jobs, and end the running ones as `cancelled`, fenced; pass over others."""
        return await self._inbox.ask(self._verbs.cancel, tuple(ids))

    def keep_done(self, queue: str, keep_s: float) -> None:
        """Keep ended jobs of `queue` for so many seconds from now on, instead of the store's own time."""
        self.engine.retention.keep(queue, keep_s)

    async def pause(self, queue: str) -> None:
        """Claim nothing more from `queue`, over restarts too, until `resume`; what runs goes on."""
        await self._inbox.ask(self._verbs.pause, (queue, True))

    async def resume(self, queue: str) -> None:
        """End a pause; the listeners of `on_ready` are called."""
        await self._inbox.ask(self._verbs.pause, (queue, False))

    async def write(self, function: Callable[[Any], R]) -> R:
        """Run `function(connection)` in the writer's thread, in its group's transaction and a savepoint of its own.

        Its result, durable on return; where it raises, what it wrote is undone and the error is raised here. ValueError
        for what ends the transaction or changes a table named `hotreload_…`. In a database it is called again where a
        neighbour in its group failed, or the connection was lost before the commit; nothing of the call before is
        there then, but what it did outside is.
        """
        return await self._inbox.ask(partial(self._written, function), None)

    def _written(self, function: Callable[[Any], R], connection: Any, _calls: Sequence[None]) -> Sequence[R]:
        return [self.engine.guarded(connection, function)]

    async def read(self, query: Callable[[Any], R]) -> R:
        """Run `query(connection)`, which may only read, beside the writer in a thread; what it returns.

        It sees all that is durable, the rows of the jobs' own included, as of its first statement. Queries take turns.
        ValueError for SQL that does not only read, StoreUnavailable where the store cannot be read.
        """
        return await to_thread.run_sync(self.engine.read, query)

    async def backup(self, into: str | PathLike[str]) -> int:
        """Write a consistent copy of the store into the file `into`, whatever is written meanwhile; its size in bytes.

        A file of that name is replaced once the copy is whole and on the disk. ValueError for a file of the store
        itself; OSError and StoreUnavailable leave what was there. Cancelled, the copy is made all the same.
        """
        return await to_thread.run_sync(self.engine.backup, into)

    async def put_document(self, kind: str, document_id: str, body: Any, *, keep: int = 50) -> None:
        """Keep a JSON value under a kind and an id (replacing an older one), and the newest `keep` of its kind."""
        await self._inbox.ask(self._documents.put, Put(kind, document_id, to_json(body), keep))

    def put_document_sync(
        self, kind: str, document_id: str, body: Any, *, keep: int = 50, timeout_s: float = 1.0
    ) -> None:
        """As `put_document`, from any thread and before all that waits; TimeoutError after `timeout_s`."""
        put = Put(kind, document_id, to_json(body), keep)
        self._inbox.ask_sync(self._documents.put, put, timeout_s=timeout_s, urgent=True)

    def documents(self, kind: str, newest: int = 50) -> Sequence[Document]:
        """Return up to `newest` documents of a kind, the one put last first; from any thread."""
        rows = self.engine.reader.read(lambda connection: self._sql.rows(connection, "documents", kind, newest))
        return [Document(*row[:3], body=from_json(row[3])) for row in rows]

    def duplicates(self, queue: str, keys: Sequence[str], since_ms: int) -> Mapping[str, Duplicate]:
        """Return the keys that have an active or dead job, or one done at `since_ms` or later; from any thread."""
        asked = list(keys)

        def found(connection: Any) -> Mapping[str, Duplicate]:
            ended = self._sql.rows(connection, "held_of", queue, since_ms, asked)
            active = self._sql.rows(connection, "active_of", queue, asked)
            return {key: Duplicate(str(job_id), JobState(state)) for key, job_id, state in [*ended, *active]}

        return self.engine.reader.read(found)

    def pending(self, ranges: Sequence[tuple[int, int]]) -> tuple[int, int, Mapping[str, str]]:
        """Return of the jobs in these ranges of ids: how many are unfinished, how many there are, the dead and why.

        Of the dead up to a thousand are named. From any thread.
        """

        def found(connection: Any) -> tuple[int, int, Mapping[str, str]]:
            states: dict[str, int] = dict(self._sql.in_ranges(connection, "states_in", ranges))
            dead = dict(self._sql.in_ranges(connection, "dead_in", ranges, NAMED)) if states.get("dead") else {}
            unfinished = sum(states.get(state, 0) for state in ("ready", "scheduled", "running"))
            return unfinished, sum(states.values()), dead

        return self.engine.reader.read(found)

    def queues_of(self, ids: Sequence[str]) -> Mapping[str, int]:
        """Return how many of these jobs each queue has; from any thread."""
        asked = numbers(ids)
        read = self.engine.reader.read
        return dict(read(lambda connection: self._sql.rows(connection, "queues_of", asked))) if asked else {}

    # --- the end of a process: from any thread, the event loop may be blocked ---------------------------------------

    def stop_claims(self) -> None:
        """Give nothing to claims from now on; a second call changes nothing.

        Jobs may still be added. Upkeep is put off, so that a flush waits for nothing.
        """
        self._verbs.closed = True

    def refuse_new(self) -> None:
        """Refuse `enqueue` as well, with QueueDraining; a second call changes nothing."""
        self.stop_claims()
        self._draining = True

    def mark_draining(self, timeout_s: float = 1.0, drain: DrainMark | None = None) -> None:
        """Record on the disk that a drain began: a kill from now on interrupts jobs, it does not crash them.

        Goes before all that waits. The mark ends with `flush` or `close`, or at the next `open`. TimeoutError after
        `timeout_s`.
        """
        self._marked = True
        call = drain or DrainMark()
        self._inbox.ask_sync(self._documents.mark_draining, call, timeout_s=timeout_s, urgent=True)

    def requeue_running(
        self, queues: Sequence[str], timeout_s: float, *, ended: Sequence[tuple[JobRow, Verdict]] = ()
    ) -> Requeued:
        """Settle `ended`, then put every running job of `queues` back, as interrupted and fenced: one transaction.

        Of `ended`, what was settled or fenced before stays as it is. It overtakes no call made before. From
        any thread, no loop needed. TimeoutError after `timeout_s`: it may happen yet, and calling again is safe.
        """
        call = Flush([self._settlement(*one) for one in ended], tuple(queues))
        return self.engine.insist(self._verbs.flush, call, timeout_s)

    def flush(
        self,
        queues: Sequence[str],
        timeout_s: float,
        report: Callable[[PutBack], Put] | None = None,
        *,
        ended: Sequence[tuple[JobRow, Verdict]] = (),
        asked: Sequence[str] = (),
    ) -> PutBack:
        """End the work of this process: settle `ended`, put back what runs in `queues`, keep the report; or nothing.

        Nothing is claimed any more from the call on, so nothing comes after it. `report` is called in the transaction,
        in the writer's thread, with what came of it, the states of the jobs `asked` for included. Where it raises
        nothing of it happened (TimeoutError after `timeout_s`: it may happen yet), and the mark of the drain stays for
        the next `open`; else it ends. StoreLost says how many jobs no start will find. From any thread, no loop needed.
        """
        self.refuse_new()
        self._marked = False
        flush = Flush([self._settlement(*one) for one in ended], tuple(queues))
        try:
            return self.engine.insist(self._last_flush, LastFlush(flush, asked, report), timeout_s)
        except StoreUnavailable as error:
            if lost := self.lost:
                raise StoreLost(str(error), lost) from error
            raise

    def _last_flush(self, connection: Any, calls: Sequence[LastFlush]) -> Sequence[PutBack]:
        done: list[PutBack] = []
        for call in calls:
            [requeued] = self._verbs.flush(connection, [call.flush])
            back = frozenset(requeued.ids)
            states = {job_id: JobState.READY for job_id in call.asked if job_id in back}
            others = numbers([job_id for job_id in call.asked if job_id not in back])
            if others:
                found = self._sql.rows(connection, "states", others)
                states.update((str(job_id), JobState(state)) for job_id, state in found)
            done.append(PutBack(requeued, states))
            self._documents.unmark_draining(connection, [None])
            self.engine.release(connection)
            if call.report is not None:
                self._documents.put(connection, [call.report(done[-1])])
        return done

    def close(self, timeout_s: float = 5.0, *, crashed: bool = False) -> bool:
        """Do what waits, fold the WAL into the file, give the store back; False where that took over `timeout_s`.

        Rows still running are put back as interrupted, because an orderly end is not a crash, and the mark of a drain
        ends. With `crashed` (the host failed by a defect, which one of them may have provoked) they are left as
        they are, and the next open counts a crash for each. A second call returns True.
        """
        self.refuse_new()
        try:
            if not crashed and any(standing.running for standing in self._ledger.standings().values()):
                self.requeue_running(list(self._ledger.standings()), timeout_s)
            if self._marked or crashed:
                self._inbox.ask_sync(self._documents.unmark_draining, None, timeout_s=timeout_s, urgent=True)
                self._marked = False
            if not crashed:
                self.engine.leave(timeout_s)
        except (StoreUnavailable, TimeoutError) as error:
            log.warning("store.close_left_running error=%s", error)
        return self.engine.close(timeout_s)


def _view(row: Sequence[Any], steps: Mapping[str, Any] | None = None) -> JobView:
    shown = list(row)
    shown[0], shown[2], shown[10] = str(shown[0]), JobState(shown[2]), bool(shown[10])
    for place in range(_TEXTS, len(shown) - 1):
        shown[place] = from_json(shown[place])
    if steps:
        cursor = shown[_TEXTS + 1]
        shown[_TEXTS + 1] = {**(cursor if isinstance(cursor, dict) else {}), "steps": steps}
    return JobView(*shown)
