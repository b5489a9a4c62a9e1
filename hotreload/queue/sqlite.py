"""The queue on SQLite: one file, one owning process, one writer thread."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Final, TypeVar

import apsw

from hotreload import clock
from hotreload.errors import QueueDraining, StoreUnavailable
from hotreload.queue.alone import Alone
from hotreload.queue.claims import Claim, Claims
from hotreload.queue.contract import Enqueued, Exchanged, QueueDepth
from hotreload.queue.database import Connect, Database, as_error, connect
from hotreload.queue.drained import Drained
from hotreload.queue.exchange import Exchange, Exchanges
from hotreload.queue.guard import run_guarded
from hotreload.queue.health import Health
from hotreload.queue.job import Backoff, Done, JobRow, JobState, NewJob, Verdict, decide
from hotreload.queue.ledger import Ledger
from hotreload.queue.lock import StoreLock
from hotreload.queue.marking import DrainMark
from hotreload.queue.people import Reader
from hotreload.queue.recover import LAST_ID, Recovered, Report, fact, recover
from hotreload.queue.rows import Raw, leased, to_json
from hotreload.queue.schema import migrate
from hotreload.queue.sql import one
from hotreload.queue.tended import Tended
from hotreload.queue.tending import Tending
from hotreload.queue.upkeep import StoreUpkeep
from hotreload.queue.verbs import NewJobs, Progress, Settlement, Verbs
from hotreload.queue.waking import Waking
from hotreload.queue.writer import Writer

log = logging.getLogger(__name__)

R = TypeVar("R")
DAY_S: Final = 86_400.0


class SqliteQueue(Tended, Drained):
    """Meets `Queue`; see there for what each verb promises. Open it with `open`.

    Any number of event loops and threads of the one owning process may use it. Every write waits for its
    turn in the writer's thread and returns once it is on the disk; where the store cannot be written the call
    raises StoreUnavailable and the next call tries anew. Nothing of it happened then, unless the disk failed in the
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
        self._alone = Alone(time.monotonic)
        self._waking = Waking(self._alone)
        self._ledger = Ledger(self._waking.committed)
        self._verbs = Verbs(self._ledger, now_ms)
        self._claims = Claims(self._ledger, now_ms, self._alone)
        self._exchanges = Exchanges(self._ledger, self._verbs, self._claims)
        self._tending = Tending(self._ledger, now_ms)
        self._upkeep = StoreUpkeep(
            self._ledger,
            now_ms=now_ms,
            monotonic=time.monotonic,
            keep_done_s=keep_done_s,
            keep_done_most=keep_done_most,
            blocked=self._waking.blocked,
            unblock=self._waking.everyone,
        )
        self._health = Health()
        self._lock = StoreLock(path)
        self._reader = Reader(path, opens)
        database = Database(path, opens, opened=self._opened)
        try:
            self.recovered = self._begin(database, cut, report_cut)
        except BaseException:
            database.close()
            self._lock.release()
            raise
        self._writer = Writer(database, self._ledger, self._upkeep, self._health)

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

    @property
    def trouble(self) -> str | None:
        """Why the store cannot be written now, None where it can; tried by itself every second meanwhile."""
        return self._health.trouble

    def _begin(self, database: Database, cut: DrainMark | None, report: Report | None) -> Recovered:
        last = cut if cut is not None and self._lock.before and cut.owner == self._lock.before else None
        try:
            return recover(database.connection(), self._ledger, self._now_ms(), cut=last, report=report)
        except apsw.Error as error:
            raise as_error(error, self.path) from error

    def _opened(self, connection: apsw.Connection) -> None:
        """Bring in step with the file what is held in memory; at each new connection of the writer."""
        migrate(connection, self._now_ms())
        self._ledger.load(connection)
        highest = one(connection, "SELECT coalesce(max(id), 0) FROM hotreload_jobs")
        self._verbs.next_id = max(self._verbs.next_id, highest + 1, (fact(connection, LAST_ID) or 0) + 1)
        connection.set_wal_hook(self._wrote)

    def _wrote(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        """Note a commit that is on the disk; SQLite's WAL hook. One that changed nothing says nothing of the disk."""
        self._upkeep.wrote(pages)
        self._health.worked()
        return apsw.SQLITE_OK

    # The verbs of `Queue`.

    async def enqueue(self, jobs: Sequence[NewJob], *, unless_done_since_ms: int | None = None) -> Enqueued:
        """As `Queue.enqueue`. QueueDraining after `refuse_new`; TypeError or ValueError for a payload not JSON."""
        return await self._writer.run(self._verbs.enqueue, self._new_jobs(jobs, unless_done_since_ms))

    def enqueue_sync(
        self, jobs: Sequence[NewJob], *, unless_done_since_ms: int | None = None, timeout_s: float = 30.0
    ) -> Enqueued:
        """As `enqueue`, from any thread; TimeoutError after `timeout_s`: it may happen yet."""
        new = self._new_jobs(jobs, unless_done_since_ms)
        return self._writer.run_sync(self._verbs.enqueue, new, timeout_s=timeout_s)

    def _new_jobs(self, jobs: Sequence[NewJob], unless_done_since_ms: int | None) -> NewJobs:
        if self._draining:
            raise QueueDraining("the service is draining; enqueue again after the restart")
        return NewJobs(tuple(jobs), [to_json(job.payload) for job in jobs], unless_done_since_ms)

    async def claim(self, queue: str, limit: int) -> list[JobRow]:
        """As `Queue.claim`; at once, without the writer, where nothing is ready. Cancelled, what it took goes back."""
        if limit <= 0 or not self._promising(queue):
            return []
        rows = await self._writer.run(self._claims.claim, Claim(queue, limit), abandoned=self._unclaim)
        return [leased(row) for row in rows]

    def _promising(self, queue: str) -> bool:
        standing = self._ledger.standings().get(queue)
        if self._draining or standing is None or standing.paused:
            return False
        return standing.ready > 0 or (standing.next_due_ms is not None and standing.next_due_ms <= self._now_ms())

    def _unclaim(self, rows: Sequence[Raw]) -> None:
        if rows:
            try:
                self._writer.post(self._claims.unclaim, rows)
            except StoreUnavailable:  # closed: the next open puts them back
                return

    async def checkpoint(
        self, row: JobRow, cursor: Any, *, within: Callable[[apsw.Connection], object] | None = None
    ) -> None:
        """As `Queue.checkpoint`. `within(connection)` writes rows of the job's own into the same file and savepoint.

        Both are durable on return, or neither happened: where `within` raises, its error is raised here and the
        cursor stays; where the job is fenced, `within` is not called. It runs in the writer's thread: SQL only.
        """
        progress = Progress(row, to_json(cursor))
        if within is None:
            lost = await self._writer.run(self._verbs.checkpoint, progress)
        else:
            lost = await self._writer.run(partial(self._checkpoint_within, within), progress)
        assert lost is None  # a LeaseLost is raised by the writer

    def _checkpoint_within(
        self,
        within: Callable[[apsw.Connection], object],
        connection: apsw.Connection,
        calls: Sequence[Progress],
    ) -> Sequence[BaseException | None]:
        outcome = self._verbs.checkpoint(connection, calls)
        if outcome[0] is None:
            run_guarded(connection, within)
        return outcome

    async def write(self, function: Callable[[apsw.Connection], R]) -> R:
        """Run `function(connection)` in the writer's thread, in its group's transaction and a savepoint of its own.

        Its result, durable on return; where it raises, what it wrote is undone and the error is raised here.
        """
        return await self._writer.run(partial(_written, function), None)

    async def settle(self, row: JobRow, verdict: Verdict) -> JobState:
        """As `Queue.settle`. TypeError or ValueError for a result that is no JSON value; the claim stands then."""
        return await self._writer.run(self._verbs.settle, self._settlement(row, verdict))

    def _settlement(self, row: JobRow, verdict: Verdict) -> Settlement:
        to = decide(row, verdict, self._now_ms(), jitter=self._jitter(), backoff=self._backoff)
        return Settlement(row, to, None if to.result is None else to_json(to.result))

    async def exchange(self, queue: str, limit: int, ended: Sequence[tuple[JobRow, Verdict]]) -> Exchanged:
        """As `Queue.exchange`. Cancelled, the verdicts may be written; what it took goes back."""
        comes_back = any(not isinstance(verdict, Done) for _, verdict in ended)
        claim = Claim(queue, limit) if limit > 0 and (comes_back or self._promising(queue)) else None
        if claim is None and not ended:
            return Exchanged([], [])
        call = Exchange([self._settlement(*one) for one in ended], claim)
        states, rows = await self._writer.run(
            self._exchanges.exchange, call, abandoned=lambda given: self._unclaim(given[1])
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
        """As `Queue.on_ready`; also called when the run of a suspect has ended."""
        self._waking.listeners.append(listener)

    def close(self, timeout_s: float = 5.0) -> bool:
        """Do what waits, give the store back; False where the writer was stuck for `timeout_s`.

        Rows still running are put back as interrupted: an orderly end is no crash. The mark of a drain ends: it went
        through. A second call returns True.
        """
        self.refuse_new()
        try:
            if any(standing.running for standing in self._ledger.standings().values()):
                self.requeue_running(list(self._ledger.standings()), timeout_s)
            if self._marked:
                self._writer.run_sync(self._tending.unmark_draining, None, timeout_s=timeout_s, urgent=True)
                self._marked = False
        except (StoreUnavailable, TimeoutError) as error:
            log.warning("store.close_left_running error=%s", error)
        self._reader.close()
        ended = self._writer.close(timeout_s)
        if ended:
            self._lock.release()
        return ended


def _written(
    function: Callable[[apsw.Connection], R], connection: apsw.Connection, _calls: Sequence[None]
) -> Sequence[R]:
    return [run_guarded(connection, function)]
