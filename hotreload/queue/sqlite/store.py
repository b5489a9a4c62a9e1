"""The queue on SQLite as its callers use it."""

from __future__ import annotations

import json
import logging
import os
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import apsw
from anyio import to_thread

from hotreload import clock
from hotreload.errors import QueueDraining, StoreLost, StoreUnavailable
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
from hotreload.queue.sqlite.connection import Connect, Database, as_error, connect, one, run_guarded
from hotreload.queue.sqlite.documents import Documents
from hotreload.queue.sqlite.files import StoreFiles, copy, sync_folder
from hotreload.queue.sqlite.ledger import Ledger
from hotreload.queue.sqlite.reads import Reader
from hotreload.queue.sqlite.recovery import recover
from hotreload.queue.sqlite.schema import migrate
from hotreload.queue.sqlite.statements import (
    LAST_ID,
    Checkpoint,
    Claim,
    Exchange,
    Flush,
    NewJobs,
    Raw,
    Settlement,
    Statements,
    fact,
    leased,
    numbers,
    put_fact,
)
from hotreload.queue.sqlite.writer import Health, Upkeep, Writer

log = logging.getLogger(__name__)

R = TypeVar("R")
DAY_S: Final = 86_400.0
_STATES: Final = """
SELECT json_group_array(json_array(id, state)) FROM hotreload_jobs WHERE id IN (SELECT value FROM json_each(?))
"""


class LastFlush(NamedTuple):
    """Claims to end, queues to put back, jobs whose state is asked for, and who makes the report of it."""

    flush: Flush
    asked: Sequence[str]
    report: Callable[[PutBack], Put] | None


class SqliteQueue:
    """Meets `Queue`; see there for what each verb promises. Open it with `open`.

    Any number of event loops and threads of the one owning process may use it. Every write waits for its
    turn in the writer's thread and returns once it is on the disk; where the store cannot be written the call
    raises StoreUnavailable and the next call tries again. Nothing of it happened then, unless the disk failed in the
    last moment, as it made the commit durable: it may have happened, what was claimed goes back by itself, and
    calling again is safe. `trouble` says why the last write failed; it is None once one worked again.
    """

    recovered: Recovered
    """What the last owner left running, and what became of it at `open`."""

    def __init__(
        self,
        path: Path,
        *,
        opens: Connect,
        now_ms: Callable[[], int],
        jitter: Callable[[], float],
        backoff: Backoff,
        keep_done_s: float,
        keep_done_most: int,
        cut: DrainMark | None,
        report_cut: Report | None,
    ) -> None:
        self.path = path
        self._now_ms = now_ms
        self._jitter = jitter
        self._backoff = backoff
        self._notify = Notify()
        self._ledger = Ledger(self._notify.committed)
        self._statements = Statements(self._ledger, now_ms)
        self._documents = Documents(now_ms)
        self._upkeep = Upkeep(
            self._ledger,
            now_ms=now_ms,
            monotonic=time.monotonic,
            keep_done_s=keep_done_s,
            keep_done_most=keep_done_most,
        )
        self._health = Health()
        self._draining = self._marked = False
        self.payload_most: Callable[[], int] = lambda: PAYLOAD_MOST
        self._files = StoreFiles(path)
        self._opens = opens
        self._reader, self._user_reader = Reader(path, opens), Reader(path, opens)
        database = Database(self._files, opens, opened=self._opened)
        try:
            self.recovered = self._recover(database, cut, report_cut)
        except BaseException:
            database.close()
            self._files.release()
            raise
        self._writer = Writer(database, self._files, self._ledger, self._upkeep, self._health, self._close_readers)

    @classmethod
    def open(
        cls,
        path: str | PathLike[str],
        *,
        opens: Connect = connect,
        now_ms: Callable[[], int] = clock.now_ms,
        jitter: Callable[[], float] = random.random,
        backoff: Backoff | None = None,
        keep_done_s: float = DAY_S,
        keep_done_most: int = 100_000,
        cut: DrainMark | None = None,
        report_cut: Report | None = None,
    ) -> SqliteQueue:
        """Own the store at `path` (made where there is none, readable by its owner only) and put right what was left.

        Takes the lock, brings the schema up to date, puts back what was running (`recovered`). Blocks for some
        milliseconds, needs no event loop. StoreOwned where another process owns it, StoreUnavailable where it
        cannot be used (also: written by a newer release); then nothing is held and nothing was changed.
        Results stay for `keep_done_s`, the newest `keep_done_most` of them at most. `cut` is the mark of a
        drain that was left elsewhere, as its owner could not make it here; it counts if that was the last owner. Of a
        drain that was cut, `report_cut` makes the report, which is kept in the transaction that puts right the rest.
        """
        return cls(
            Path(path).resolve(),
            opens=opens,
            now_ms=now_ms,
            jitter=jitter,
            backoff=backoff or Backoff(),
            keep_done_s=keep_done_s,
            keep_done_most=keep_done_most,
            cut=cut,
            report_cut=report_cut,
        )

    wake_up: Final = None
    """One process owns the file and knows what changes; see `PostgresQueue.wake_up`."""

    @property
    def trouble(self) -> str | None:
        """Why the store cannot be written now, None where it can; tried by itself every second meanwhile."""
        return self._health.trouble

    @property
    def incident(self) -> str | None:
        """What another program did to the store's files in the last minute, where it was put right; None without."""
        return self._health.incident

    @property
    def lost(self) -> int:
        """How many unfinished jobs are in no file that the next start finds; 0 where the store is sound."""
        standings = self._ledger.standings().values() if self._health.lost else ()
        return sum(one.ready + one.scheduled + one.running for one in standings)

    def on_lost(self, listener: Callable[[str], None]) -> None:
        """Call `listener(reason)` once the store is lost for good (see StoreLost); from the writer's thread."""
        self._health.lost_listeners.append(listener)

    @property
    def owner(self) -> str:
        """What tells this owner of the store from those before and after it (see `DrainMark`)."""
        return self._files.lock.text

    def _recover(self, database: Database, cut: DrainMark | None, report: Report | None) -> Recovered:
        before, ended = self._files.lock.before, self._files.lock.machine_ended
        last = cut if cut is not None and before and cut.owner == before else None
        try:
            connection = database.connection()
            found = recover(connection, self._ledger, self._now_ms(), cut=last, report=report, machine_ended=ended)
            self._files.prove()
            return found
        except apsw.Error as error:
            raise as_error(error, self.path) from error

    def _opened(self, connection: apsw.Connection) -> None:
        """Bring in step with the file what is held in memory; at each new connection of the writer."""
        connection.set_wal_hook(self._wrote)
        migrate(connection, self._now_ms())
        put_fact(connection, "opened_at_ms", self._now_ms())  # a WAL with a commit says how large the database is
        self._ledger.load(connection)
        highest = one(connection, "SELECT coalesce(max(id), 0) FROM hotreload_jobs")
        self._statements.next_id = max(self._statements.next_id, highest + 1, (fact(connection, LAST_ID) or 0) + 1)

    def _wrote(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        """Note a commit that is on the disk; SQLite's WAL hook. One that changed nothing says nothing of the disk."""
        self._upkeep.wrote(pages)
        self._files.wrote(pages)
        return apsw.SQLITE_OK

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
        rows = await self._writer.run(self._statements.claim, Claim(queue, limit), abandoned=self._unclaim)
        return [leased(row) for row in rows]

    def _promising(self, queue: str) -> bool:
        standing = self._ledger.standings().get(queue)
        if self._statements.closed or standing is None or standing.paused:
            return False
        return standing.ready > 0 or (standing.next_due_ms is not None and standing.next_due_ms <= self._now_ms())

    def _unclaim(self, rows: Sequence[Raw]) -> None:
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
        within: Callable[[apsw.Connection], object] | None = None,
    ) -> None:
        """As `Queue.checkpoint`. `within(connection)` writes rows of the job's own into the same file and savepoint.

        Both are durable on return, or neither happened: where `within` raises, its error is raised here and the
        cursor stays; where the job is fenced, `within` is not called. It runs in the writer's thread: SQL only.
        """
        most = self.payload_most()
        kept = None if step is None else (step[0], stored(step[1], f"the result of step {step[0]!r}", most))
        progress = Checkpoint(row, stored(cursor, "the cursor", most), kept)
        if within is None:
            lost = await self._writer.run(self._statements.checkpoint, progress)
        else:
            lost = await self._writer.run(partial(self._checkpoint_within, within), progress)
        assert lost is None  # a LeaseLost is raised by the writer

    def _checkpoint_within(
        self,
        within: Callable[[apsw.Connection], object],
        connection: apsw.Connection,
        calls: Sequence[Checkpoint],
    ) -> Sequence[BaseException | None]:
        outcome = self._statements.checkpoint(connection, calls)
        if outcome[0] is None:
            run_guarded(connection, within)
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
        return Exchanged(states, [leased(row) for row in rows])

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
        self._upkeep.keep_done(queue, keep_s)

    async def pause(self, queue: str) -> None:
        """Claim nothing more from `queue`, over restarts too, until `resume`; what runs goes on."""
        await self._writer.run(self._statements.pause, (queue, True))

    async def resume(self, queue: str) -> None:
        """End a pause; the listeners of `on_ready` are called."""
        await self._writer.run(self._statements.pause, (queue, False))

    async def write(self, function: Callable[[apsw.Connection], R]) -> R:
        """Run `function(connection)` in the writer's thread, in its group's transaction and a savepoint of its own.

        Its result, durable on return; where it raises, what it wrote is undone and the error is raised here.
        """
        return await self._writer.run(partial(_written, function), None)

    async def read(self, query: Callable[[apsw.Connection], R]) -> R:
        """Run `query(connection)`, which may only read, beside the writer in a thread; what it returns.

        It sees all that is durable, the rows of the jobs' own included, as of its first statement. Queries take turns.
        ValueError for SQL that does not only read, StoreUnavailable where the store cannot be read.
        """
        return await to_thread.run_sync(self._user_reader.read_guarded, query)

    async def backup(self, into: str | PathLike[str]) -> int:
        """Write a consistent copy of the store into the file `into`, whatever is written meanwhile; its size in bytes.

        A file of that name is replaced once the copy is whole and on the disk. ValueError for a file of the store
        itself; OSError and StoreUnavailable leave what was there. Cancelled, the copy is made all the same.
        """
        return await to_thread.run_sync(self._backup, Path(into))

    def _backup(self, into: Path) -> int:
        into = into.absolute()
        if into.parent.resolve() == self.path.parent and into.name.startswith(self.path.name):
            raise ValueError(f"{into}: the copy would replace a file of the store")
        made = into.with_name(f"{into.name}.{uuid.uuid4().hex}")
        reader = Reader(self.path, self._opens)
        try:
            reader.read(lambda connection: copy(connection, made, _plain))
            os.replace(made, into)
        finally:
            reader.close()
            made.unlink(missing_ok=True)
        sync_folder(into.parent)
        return into.stat().st_size

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
        """Give nothing to claims from now on; a second call changes nothing.

        Jobs may still be added. Upkeep is put off, so that a flush waits for nothing.
        """
        self._statements.closed = True
        self._upkeep.suspended = True

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
        self._writer.run_sync(self._documents.mark_draining, call, timeout_s=timeout_s, urgent=True)

    def requeue_running(
        self, queues: Sequence[str], timeout_s: float, *, ended: Sequence[tuple[JobRow, Verdict]] = ()
    ) -> Requeued:
        """As `Queue.requeue_running`; after all that waits already, so that no verdict or checkpoint is overtaken."""
        call = Flush([self._settlement(*one) for one in ended], tuple(queues))
        return self._writer.run_sync(self._statements.flush, call, timeout_s=timeout_s)

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

        Where it raises the mark stays for the next `open`. StoreLost says how many jobs no start will find.
        """
        self.refuse_new()
        self._marked = False
        flush = Flush([self._settlement(*one) for one in ended], tuple(queues))
        try:
            return self._writer.run_sync(self._last_flush, LastFlush(flush, asked, report), timeout_s=timeout_s)
        except StoreUnavailable as error:
            if lost := self.lost:
                raise StoreLost(str(error), lost) from error
            raise

    def _last_flush(self, connection: apsw.Connection, calls: Sequence[LastFlush]) -> Sequence[PutBack]:
        done: list[PutBack] = []
        for call in calls:
            [requeued] = self._statements.flush(connection, [call.flush])
            found = json.loads(one(connection, _STATES, (numbers(call.asked),)))
            done.append(PutBack(requeued, {str(job_id): JobState(state) for job_id, state in found}))
            self._documents.unmark_draining(connection, [None])
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
                self._writer.run_sync(self._documents.unmark_draining, None, timeout_s=timeout_s, urgent=True)
                self._marked = False
        except (StoreUnavailable, TimeoutError) as error:
            log.warning("store.close_left_running error=%s", error)
        self._close_readers()
        ended = self._writer.close(timeout_s)
        if ended:
            self._files.release()
        return ended

    def _close_readers(self) -> None:
        self._reader.close()
        self._user_reader.close()


def _plain(made: apsw.Connection) -> bool:
    """Make a copy one file by itself, without a WAL."""
    return one(made, "PRAGMA journal_mode = DELETE") == "delete"


def _written(
    function: Callable[[apsw.Connection], R], connection: apsw.Connection, _calls: Sequence[None]
) -> Sequence[R]:
    return [run_guarded(connection, function)]
