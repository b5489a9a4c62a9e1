"""The queue on PostgreSQL as its callers use it."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Final, NamedTuple, TypeVar

import psycopg
from anyio import to_thread

from hotreload import clock
from hotreload.errors import NotOffered, QueueDraining, StoreLost, StoreUnavailable
from hotreload.queue.calls import SyncCall, Verb
from hotreload.queue.contract import (
    Added,
    Cancelled,
    Document,
    DrainMark,
    Duplicate,
    Exchanged,
    JobView,
    Put,
    PutBack,
    QueueDepth,
    Recovered,
    Report,
    Requeued,
)
from hotreload.queue.job import PAYLOAD_MOST, Backoff, Done, JobRow, JobState, NewJob, Verdict, decide, stored, to_json
from hotreload.queue.notify import Notify
from hotreload.queue.postgres.connection import Connection, Node, as_error, connect, guarded, place, run
from hotreload.queue.postgres.documents import Documents
from hotreload.queue.postgres.ledger import Ledger
from hotreload.queue.postgres.reads import Reader
from hotreload.queue.postgres.recovery import recover, take_over
from hotreload.queue.postgres.schema import migrate
from hotreload.queue.postgres.statements import (
    PRUNED_AT_ONCE,
    Checkpoint,
    Claim,
    Exchange,
    Flush,
    NewJobs,
    Settlement,
    Statements,
    numbers,
    overdue,
)
from hotreload.queue.postgres.wakeup import JOBS, Listener, notify, topics_of
from hotreload.queue.postgres.writer import LOOK_S, Health, Writer

log = logging.getLogger(__name__)

R = TypeVar("R")
A = TypeVar("A")
DAY_S: Final = 86_400.0
LOOK_EVERY_S: Final = 30.0
AGAIN_AFTER_S: Final = 0.05
LEASE: Final = 0.7
"""The part of `ttl_s` after which a node that was not seen is taken over: noticing it takes the rest."""
_STATES: Final = "SELECT id, state FROM hotreload_jobs WHERE id = ANY(%s)"


class LastFlush(NamedTuple):
    """Claims to end, queues to put back, jobs whose state is asked for, and who makes the report of it."""

    flush: Flush
    asked: Sequence[str]
    report: Callable[[PutBack], Put] | None


class Upkeep:
    """Says which ended jobs the writer is to remove: while no caller waits, or once there are too many."""

    def __init__(
        self, ledger: Ledger, statements: Statements, now_ms: Callable[[], int], keep_done_s: float, most: int
    ) -> None:
        self._ledger = ledger
        self._statements = statements
        self._now_ms = now_ms
        self._keep_done_s = keep_done_s
        self._most = most
        self._looked_at = time.monotonic()
        self._more = False
        self.keep_s: dict[str, float] = {}
        self.suspended = False

    def __call__(self, idle: bool) -> SyncCall[Any, Any] | None:
        """Return what to do now, None where that is nothing; `idle` is False while callers wait."""
        done = sum(standing.done for standing in self._ledger.standings().values())
        due = self._more or time.monotonic() - self._looked_at >= LOOK_EVERY_S
        if self.suspended or not done or not ((idle and due) or done > self._most + PRUNED_AT_ONCE):
            return None
        self._looked_at = time.monotonic()
        return SyncCall(self._prune, overdue(self._ledger, self._before_ms, self._most))

    def _before_ms(self, queue: str) -> int:
        return self._now_ms() - int(self.keep_s.get(queue, self._keep_done_s) * 1000)

    def _prune(self, connection: Connection, calls: Sequence[Sequence[tuple[str, int, int]]]) -> Sequence[None]:
        self._more = PRUNED_AT_ONCE in self._statements.prune(connection, calls[0])
        return [None]


class PostgresQueue:
    """Meets `Queue`; see there for what each verb promises. Open it with `open`.

    Any number of event loops and threads of the process that owns the node may use it. Every write waits for its turn
    in the writer's thread and returns once it is durable; while the database cannot be reached the call raises
    StoreUnavailable, nothing of it happened then, and `trouble` says why. What `write` and `within` are given may be
    called again, where its transaction has to be made again.
    """

    recovered: Recovered
    """What the node's last owner left running, and what became of it at `open`."""
    lost: Final = 0
    incident: Final = None
    node_type: ClassVar[type[Node]] = Node
    statements_type: ClassVar[type[Statements]] = Statements

    def __init__(
        self,
        dsn: str,
        node: str,
        *,
        now_ms: Callable[[], int],
        jitter: Callable[[], float],
        backoff: Backoff,
        keep_done_s: float,
        keep_done_most: int,
        ttl_s: float,
        look_s: float,
        cut: DrainMark | None,
        report_cut: Report | None,
    ) -> None:
        where = place(dsn)
        self._now_ms = now_ms
        self._jitter = jitter
        self._backoff = backoff
        self._notify = Notify()
        self._ledger = Ledger(self._notify.committed)
        self._node = self.node_type(node, where, ttl_s * LEASE)
        self._statements = self.statements_type(self._ledger, now_ms, node)
        self._documents = Documents(now_ms, node)
        self._upkeep = Upkeep(self._ledger, self._statements, now_ms, keep_done_s, keep_done_most)
        self._health = Health()
        self._draining = self._marked = False
        self.payload_most: Callable[[], int] = lambda: PAYLOAD_MOST
        self._reader, self._user_reader = Reader(dsn), Reader(dsn)
        try:
            connection = connect(dsn)
            try:
                migrate(connection)
                self._node.lock(connection)
                self.recovered = recover(
                    connection, self._ledger, now_ms(), owner=self._node, cut=cut, report=report_cut
                )
            except BaseException:
                connection.close()
                raise
        except psycopg.Error as error:
            raise as_error(error, where) from error
        self._report_cut = report_cut
        self._writer = Writer(
            connection,
            partial(connect, dsn),
            self._node,
            self._ledger,
            self._health,
            self._upkeep,
            self._take_over,
            where,
            look_s,
        )
        self._listener = Listener(partial(connect, dsn), self._told)

    @classmethod
    def open(
        cls,
        dsn: str,
        node: str = "",
        *,
        now_ms: Callable[[], int] = clock.now_ms,
        jitter: Callable[[], float] = random.random,
        backoff: Backoff | None = None,
        keep_done_s: float = DAY_S,
        keep_done_most: int = 100_000,
        ttl_s: float = 15.0,
        look_s: float = LOOK_S,
        cut: DrainMark | None = None,
        report_cut: Report | None = None,
    ) -> PostgresQueue:
        """Own `node` in the database at `dsn` (a `postgresql://` address) and put right what its last owner left.

        Brings the schema up to date, takes the node's lock, puts back what it was running (`recovered`). Blocks for
        some milliseconds, needs no event loop. StoreOwned where another process owns the node, StoreUnavailable where
        the database cannot be used (also: written by a newer release); then nothing is held and nothing was changed.
        Other nodes take its jobs over within `ttl_s` once it is not heard of; every `look_s` it says that it is there,
        and looks what the others did, whether or not it was told. The others as `SqliteQueue.open`.
        """
        return cls(
            dsn,
            node,
            now_ms=now_ms,
            jitter=jitter,
            backoff=backoff or Backoff(),
            keep_done_s=keep_done_s,
            keep_done_most=keep_done_most,
            ttl_s=ttl_s,
            look_s=look_s,
            cut=cut,
            report_cut=report_cut,
        )

    def _take_over(self, connection: Connection) -> None:
        if self._statements.closed:
            return
        taken = take_over(connection, self._ledger, self._now_ms(), owner=self._node, report=self._report_cut)
        for name, found in taken.items():
            if jobs := len(found.crashed) + len(found.interrupted):
                log.warning("store.node_taken_over node=%s jobs=%d", name, jobs)

    def _told(self, topic: str | None, pid: int) -> None:
        """Look at the queues where another process said that there is reason to; polling finds the same later."""
        if topic is None:
            self._writer.look()
        elif topic.startswith(JOBS) and pid != self._node.backend_pid:
            self._writer.look(topic.removeprefix(JOBS))

    @property
    def wake_up(self) -> str:
        """How this process learns what others changed: `listening`, or `polling` and why it does not listen."""
        trouble = self._listener.trouble
        return "listening" if trouble is None else f"polling, LISTEN is not available: {trouble}"

    def subscribe(self, topic: str, listener: Callable[[], None]) -> None:
        """Call `listener` each time any process publishes `topic`, this one included; from a thread: only wake others.

        Also called after each connecting. While `wake_up` says polling nothing is heard: poll behind it.
        """
        self._listener.subscribe(topic, listener)

    async def publish(self, topic: str) -> None:
        """Tell every process on the database of `topic`, a word of at most 1,000 characters; durable is nothing of it.

        To tell it with a change, call `wakeup.notify` in the transaction of the change.
        """
        await self._writer.run(_publish, topic)

    @property
    def trouble(self) -> str | None:
        """Why the database cannot be written now, None where it can; it is tried again by itself."""
        return self._health.trouble

    def on_lost(self, listener: Callable[[str], None]) -> None:
        """Call `listener(reason)` once another process has taken the node over; from the writer's thread."""
        self._health.lost_listeners.append(listener)

    @property
    def owner(self) -> str:
        """What tells this owner of the node from those before and after it (see `DrainMark`)."""
        return self._node.text

    # --- the verbs of `Queue` ---------------------------------------------------------------------------------------

    async def enqueue(self, jobs: Sequence[NewJob], *, unless_done_since_ms: int | None = None) -> Added:
        """As `Queue.enqueue`. QueueDraining after `refuse_new`; TypeError or ValueError for a payload not JSON."""
        return await self._writer.run(self._statements.enqueue, self._new_jobs(jobs, unless_done_since_ms))

    def enqueue_sync(
        self, jobs: Sequence[NewJob], *, unless_done_since_ms: int | None = None, timeout_s: float = 30.0
    ) -> Added:
        """As `enqueue`, from any thread; TimeoutError after `timeout_s`: it may happen yet."""
        new = self._new_jobs(jobs, unless_done_since_ms)
        return self._writer.run_sync(self._statements.enqueue, new, timeout_s=timeout_s)

    def _new_jobs(self, jobs: Sequence[NewJob], unless_done_since_ms: int | None) -> NewJobs:
        if self._draining:
            raise QueueDraining("the service is draining; enqueue again after the restart")
        most = self.payload_most()
        payloads = [stored(job.payload, "the payload", most) for job in jobs]
        return NewJobs(tuple(jobs), payloads, unless_done_since_ms)

    async def claim(self, queue: str, limit: int) -> list[JobRow]:
        """As `Queue.claim`; at once, without the writer, where nothing is ready. Cancelled, what it took goes back."""
        if limit <= 0 or not self._promising(queue):
            return []
        return await self._writer.run(self._statements.claim, Claim(queue, limit), abandoned=self._unclaim)

    def _promising(self, queue: str) -> bool:
        standing = self._ledger.standings().get(queue)
        if self._statements.closed or standing is None or standing.paused:
            return False
        return standing.ready > 0 or (standing.next_due_ms is not None and standing.next_due_ms <= self._now_ms())

    def _unclaim(self, rows: Sequence[JobRow]) -> None:
        if rows:
            try:
                self._writer.post(self._statements.unclaim, rows)
            except StoreUnavailable:  # closed: the next open puts them back
                return

    async def checkpoint(
        self,
        row: JobRow,
        cursor: Any,
        *,
        step: tuple[str, Any] | None = None,
        within: Callable[[Connection], object] | None = None,
    ) -> None:
        """As `Queue.checkpoint`. `within(connection)` writes rows of the job's own in the same transaction.

        Both are durable on return, or neither happened: where `within` raises, its error is raised here and the
        cursor stays; where the job is fenced, `within` is not called. It runs in the writer's thread: SQL only.
        """
        most = self.payload_most()
        kept = None if step is None else (step[0], stored(step[1], f"the result of step {step[0]!r}", most))
        progress = Checkpoint(row, stored(cursor, "the cursor", most), kept)
        verb = self._statements.checkpoint if within is None else partial(self._checkpoint_within, within)
        await self._writer.run(verb, progress)

    def _checkpoint_within(
        self, within: Callable[[Connection], object], connection: Connection, calls: Sequence[Checkpoint]
    ) -> Sequence[BaseException | None]:
        outcome = self._statements.checkpoint(connection, calls)
        if outcome[0] is None:
            guarded(connection, within)
        return outcome

    async def settle(self, row: JobRow, verdict: Verdict) -> JobState:
        """As `Queue.settle`. TypeError or ValueError for a result that is not a JSON value; the claim stands then."""
        return await self._writer.run(self._statements.settle, self._settlement(row, verdict))

    def _settlement(self, row: JobRow, verdict: Verdict) -> Settlement:
        to = decide(row, verdict, self._now_ms(), jitter=self._jitter(), backoff=self._backoff)
        return Settlement(row, to, None if to.result is None else stored(to.result, "the result", self.payload_most()))

    async def exchange(self, queue: str, limit: int, ended: Sequence[tuple[JobRow, Verdict]]) -> Exchanged:
        """As `Queue.exchange`. Cancelled, the verdicts may be written; what it took goes back."""
        comes_back = any(not isinstance(verdict, Done) for _, verdict in ended)
        claim = Claim(queue, limit) if limit > 0 and (comes_back or self._promising(queue)) else None
        if claim is None and not ended:
            return Exchanged([], [])
        call = Exchange([self._settlement(*one) for one in ended], claim)
        states, rows = await self._writer.run(
            self._statements.exchange, call, abandoned=lambda given: self._unclaim(given[1])
        )
        return Exchanged(states, rows)

    async def next_due_ms(self, queue: str) -> int | None:
        """As `Queue.next_due_ms`; from memory."""
        standing = self._ledger.standings().get(queue)
        return None if standing is None or standing.paused else standing.next_due_ms

    def depths(self) -> list[QueueDepth]:
        """As `Queue.depths`, by name; jobs that became due count as scheduled until a claim looks."""
        standings = self._ledger.standings()
        return [standings[name].depth() for name in sorted(standings)]

    def on_ready(self, listener: Callable[[str], None]) -> None:
        """As `Queue.on_ready`; also called when a job ended for which a suspect waits."""
        self._notify.listeners.append(listener)

    # --- for people and for other parts of the service --------------------------------------------------------------

    async def jobs(
        self, *, queue: str | None = None, state: JobState | None = None, limit: int = 50, before: str | None = None
    ) -> Sequence[JobView]:
        """Return a page of jobs, newest first; the next page is the one before the last id of this."""
        return await to_thread.run_sync(self._reader.page, queue, state, limit, before)

    async def job(self, job_id: str) -> JobView | None:
        """Return one job with payload, cursor, result and traceback; None where there is none."""
        return await to_thread.run_sync(self._reader.job, job_id)

    async def retry(self, ids: Sequence[str]) -> list[str]:
        """Make dead jobs ready with all their attempts, from their last checkpoint; return those made ready.

        One whose key belongs to an active job by now is passed over.
        """
        return await self._writer.run(self._statements.retry, tuple(ids))

    async def discard(self, ids: Sequence[str]) -> list[str]:
        """Remove jobs that do not run; return those removed."""
        return await self._writer.run(self._statements.discard, tuple(ids))

    async def cancel(self, ids: Sequence[str]) -> Cancelled:
        """Remove the waiting ones of these jobs, and end the running ones as `cancelled`, fenced; pass over others."""
        return await self._writer.run(self._statements.cancel, tuple(ids))

    def keep_done(self, queue: str, keep_s: float) -> None:
        """Keep ended jobs of `queue` for so many seconds from now on, instead of the store's own time."""
        self._upkeep.keep_s[queue] = keep_s

    async def pause(self, queue: str) -> None:
        """Claim nothing more from `queue`, over restarts too, until `resume`; what runs goes on."""
        await self._writer.run(self._statements.pause, (queue, True))

    async def resume(self, queue: str) -> None:
        """End a pause; the listeners of `on_ready` are called."""
        await self._writer.run(self._statements.pause, (queue, False))

    async def write(self, function: Callable[[Connection], R]) -> R:
        """Run `function(connection)` in the writer's thread, in its group's transaction and a savepoint of its own.

        Its result, durable on return; where it raises, what it wrote is undone and the error is raised here. The server
        ends a transaction in which nothing was asked for 0.35 × `ttl_s`.
        """
        return await self._writer.run(partial(_written, function), None)

    async def read(self, query: Callable[[Connection], R]) -> R:
        """Run `query(connection)`, which may only read, beside the writer in a thread; what it returns.

        It sees all that is durable, the rows of the jobs' own included, as of its first statement. Queries take turns.
        ValueError for SQL that does not only read, StoreUnavailable where the database cannot be read.
        """
        return await to_thread.run_sync(self._user_reader.read, query)

    async def backup(self, into: object) -> int:
        """Raise NotOffered: a database is copied by its own tools, for all who use it."""
        raise NotOffered(f"the store is {place(self._reader.dsn)}, not a file; copy it with pg_dump")

    async def put_document(self, kind: str, document_id: str, body: Any, *, keep: int = 50) -> None:
        """Keep a JSON value under a kind and an id (replacing an older one), and the newest `keep` of its kind."""
        await self._writer.run(self._documents.put, Put(kind, document_id, to_json(body), keep))

    def put_document_sync(
        self, kind: str, document_id: str, body: Any, *, keep: int = 50, timeout_s: float = 1.0
    ) -> None:
        """As `put_document`, from any thread and before all that waits; TimeoutError after `timeout_s`."""
        put = Put(kind, document_id, to_json(body), keep)
        self._writer.run_sync(self._documents.put, put, timeout_s=timeout_s, urgent=True)

    async def documents(self, kind: str, *, newest: int = 50) -> Sequence[Document]:
        """Return up to `newest` documents of a kind, the one put last first."""
        return await to_thread.run_sync(self.documents_sync, kind, newest)

    def documents_sync(self, kind: str, newest: int = 50) -> Sequence[Document]:
        """As `documents`, from any thread."""
        return self._reader.documents(kind, newest)

    def duplicates(self, queue: str, keys: Sequence[str], since_ms: int) -> Mapping[str, Duplicate]:
        """Return the keys that have an active or dead job, or one done at `since_ms` or later; from any thread."""
        return self._reader.duplicates(queue, keys, since_ms)

    def pending(self, ranges: Sequence[tuple[int, int]]) -> tuple[int, int, Mapping[str, str]]:
        """Return of the jobs in these ranges of ids: how many are unfinished, how many there are, the dead and why.

        From any thread.
        """
        return self._reader.pending(ranges)

    def queues_of(self, ids: Sequence[str]) -> Mapping[str, int]:
        """Return how many of these jobs each queue has; from any thread."""
        return self._reader.queues_of(ids) if ids else {}

    # --- the end of a process: from any thread, the event loop may be blocked ---------------------------------------

    def stop_claims(self) -> None:
        """Give nothing to claims from now on; a second call changes nothing. Jobs may still be added."""
        self._statements.closed = True
        self._upkeep.suspended = True

    def refuse_new(self) -> None:
        """Refuse `enqueue` as well, with QueueDraining; a second call changes nothing."""
        self.stop_claims()
        self._draining = True

    def mark_draining(self, timeout_s: float = 1.0, drain: DrainMark | None = None) -> None:
        """Record durably that a drain began: a kill from now on interrupts jobs, it does not crash them.

        Goes before all that waits. The mark ends with `flush` or `close`, or at the next `open`. TimeoutError after
        `timeout_s`.
        """
        self._marked = True
        call = drain or DrainMark()
        self._writer.run_sync(self._documents.mark_draining, call, timeout_s=timeout_s, urgent=True)

    def requeue_running(
        self, queues: Sequence[str], timeout_s: float, *, ended: Sequence[tuple[JobRow, Verdict]] = ()
    ) -> Requeued:
        """As `Queue.requeue_running`; after all that waits already, so that no verdict or checkpoint is overtaken."""
        call = Flush([self._settlement(*one) for one in ended], tuple(queues))
        return self._until(self._statements.flush, call, timeout_s)

    def flush(
        self,
        queues: Sequence[str],
        timeout_s: float,
        report: Callable[[PutBack], Put] | None = None,
        *,
        ended: Sequence[tuple[JobRow, Verdict]] = (),
        asked: Sequence[str] = (),
    ) -> PutBack:
        """As `Queue.flush`; `report` is called in the writer's thread. Ends the mark of the drain.

        Where it raises the mark stays for the next `open`. An outage is waited out for as long as `timeout_s` allows.
        """
        self.refuse_new()
        self._marked = False
        flush = Flush([self._settlement(*one) for one in ended], tuple(queues))
        try:
            return self._until(self._last_flush, LastFlush(flush, asked, report), timeout_s)
        except (StoreUnavailable, TimeoutError) as error:
            ttl_s = self._node.lease_s / LEASE
            said = "store.not_flushed node=%s: what ran comes back by expiry within %g s, or at the next start: %s"
            log.error(said, self._node.name, ttl_s, error)
            raise

    def _until(self, verb: Verb[A, R], call: A, timeout_s: float) -> R:
        """Do `verb`, again and again while the database is out, for `timeout_s`; raise what the last attempt met."""
        until, pause = time.monotonic() + timeout_s, threading.Event()
        while True:
            try:
                return self._writer.run_sync(verb, call, timeout_s=max(0.0, until - time.monotonic()))
            except StoreLost:
                raise
            except StoreUnavailable:
                if self.trouble is None or time.monotonic() + AGAIN_AFTER_S >= until:
                    raise
                pause.wait(AGAIN_AFTER_S)

    def _last_flush(self, connection: Connection, calls: Sequence[LastFlush]) -> Sequence[PutBack]:
        done: list[PutBack] = []
        for call in calls:
            [requeued] = self._statements.flush(connection, [call.flush])
            notify(connection, topics_of(call.flush.queues))  # now: there may be no later, as for what is held back
            found = run(connection, _STATES, (numbers(call.asked),)).fetchall()
            done.append(PutBack(requeued, {str(job_id): JobState(state) for job_id, state in found}))
            self._documents.unmark_draining(connection, [None])
            if call.report is not None:
                self._documents.put(connection, [call.report(done[-1])])
        return done

    def close(self, timeout_s: float = 5.0, *, crashed: bool = False) -> bool:
        """Do what waits and give the node back; False where that took over `timeout_s`.

        Rows still running are put back as interrupted, because an orderly end is not a crash, and the mark of a drain
        ends. With `crashed` (the host failed by a defect, which one of them may have provoked) they are left as
        they are, and the next open counts a crash for each. A second call returns True.
        """
        self.refuse_new()
        try:
            if not crashed and any(standing.running for standing in self._ledger.standings().values()):
                self.requeue_running(list(self._ledger.standings()), timeout_s)
            if self._marked or crashed:
                self._writer.run_sync(self._documents.unmark_draining, None, timeout_s=timeout_s, urgent=True)
                self._marked = False
        except (StoreUnavailable, TimeoutError) as error:
            log.warning("store.close_left_running error=%s", error)
        self._listener.close()
        self._reader.close()
        self._user_reader.close()
        return self._writer.close(timeout_s)


def _publish(connection: Connection, calls: Sequence[str]) -> Sequence[None]:
    notify(connection, dict.fromkeys(calls))
    return [None] * len(calls)


def _written(function: Callable[[Connection], R], connection: Connection, _calls: Sequence[None]) -> Sequence[R]:
    return [guarded(connection, function)]
