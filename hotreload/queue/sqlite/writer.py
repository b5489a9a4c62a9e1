"""One thread that does every write: whatever waits becomes one transaction, each caller in a savepoint.

    callers ──inbox──→ urgent lane ─┐
                       normal lane ─┴→ BEGIN · verbs · ledger · COMMIT (on the disk) → results

Group commit (DeWitt et al. 1984): one fsync serves every caller that waits. Calls of the same verb go together in one
savepoint and, with SQL over many rows, in few statements, because SQLite gives the interpreter's lock back with
every statement and a busy event loop keeps it for up to 5 ms. Where the savepoint of several fails, it is rolled
back and each has one of its own: one caller's failure fails no other. Results are handed out after the commit.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final

import apsw

from hotreload.errors import StoreLost, StoreUnavailable
from hotreload.queue.calls import A, AnyCall, R, SyncCall, Verb, ask, ask_sync, deliver
from hotreload.queue.ledger import Ledger
from hotreload.queue.sqlite.connection import REOPENED_AFTER, Database, as_error, atomically, run
from hotreload.queue.sqlite.files import StoreFiles
from hotreload.queue.sqlite.statements import put_fact
from hotreload.queue.verbs import LOOK_EVERY_S, Retention

log = logging.getLogger(__name__)

GROUP_MOST: Final = 1_000
PROBE_S: Final = 1.0
LOOK_S: Final = 0.5
"""How often an idle writer looks, at least, whether the files are still there."""
INCIDENT_S: Final = 60.0
QUIET_S: Final = 0.5
WAL_MOST_PAGES: Final = 16_384


class Health:
    """Set by the writer's thread, read by any. While there is trouble the writer tries by itself every second."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._since = self._tried = 0.0
        self._incident: tuple[str, float] | None = None
        self._told = False
        self.trouble: str | None = None
        """Why the last write failed, None where it did not."""
        self.lost: str | None = None
        """Why what was acknowledged is not in the files, None where it is."""
        self.lost_listeners: list[Callable[[str], None]] = []

    def not_brought_back(self, error: StoreUnavailable) -> None:
        """Note that the files are not those that were opened, and why that stays so; for good: tell the listeners."""
        self.lost = str(error)
        self.failed(error)
        if isinstance(error, StoreLost) and not self._told:
            self._told = True
            log.critical("store.lost error=%s", error)
            for listener in self.lost_listeners:
                listener(self.lost)

    @property
    def incident(self) -> str | None:
        """What happened to the files not long ago, where it was put right; None without."""
        told, at = self._incident or ("", -INCIDENT_S)
        return told if self._monotonic() - at < INCIDENT_S else None

    def brought_back(self, what: str) -> None:
        """Note that the store was brought back after `what` had happened to its files."""
        self.lost = None
        self._incident = (f"{what}; what was acknowledged was brought back", self._monotonic())
        log.error("store.brought_back after=%s", what)

    def failed(self, error: BaseException) -> None:
        """Note what a write failed with; an error that is the caller's own says nothing of the store."""
        self._tried = self._monotonic()
        if not isinstance(error, StoreUnavailable):
            return
        if self.trouble is None:
            self._since = self._tried
            log.error("store.unavailable error=%s", error)
        self.trouble = str(error)

    def worked(self) -> None:
        """Note that something was written and is on the disk."""
        if self.trouble is not None:
            self.trouble = None
            log.warning("store.available after_s=%.1f", self._monotonic() - self._since)

    def wait_s(self) -> float | None:
        """Return how long the writer may wait until it tries by itself, None where it need not."""
        return None if self.trouble is None else max(0.0, self._tried + PROBE_S - self._monotonic())


class Upkeep:
    """What the writer does while no caller waits: a little at a time, so that one who comes waits for milliseconds.

    After `QUIET_S` without a caller all of the WAL is folded in. Under load that never pauses it is folded only
    once it exceeds `WAL_MOST_PAGES`, and results are removed once there are too many. In a drain
    (`suspended`) nothing is done until its end: folding a WAL can take 0.3 s.
    """

    def __init__(self, ledger: Ledger, retention: Retention, monotonic: Callable[[], float]) -> None:
        self._ledger = ledger
        self._retention = retention
        self._monotonic = monotonic
        self.wal_pages = 0
        """How many pages of the WAL are not folded in yet."""
        self._busy_at = monotonic()
        self.suspended = False

    def keep_done(self, queue: str, keep_s: float) -> None:
        """Keep ended jobs of a queue for another time than the others; from any thread."""
        self._retention.keep(queue, keep_s)

    def wrote(self, pages: int) -> None:
        """Note a commit; the WAL has so many pages now."""
        self.wal_pages = pages
        self._busy_at = self._monotonic()

    def due(self, *, idle: bool) -> bool:
        """Say whether `run` has something to do now; `idle` is False while callers wait."""
        if self.suspended:
            return False
        if not idle:
            return self.wal_pages > WAL_MOST_PAGES or self._retention.too_many
        if self._quiet_s() < QUIET_S:
            return False
        return self.wal_pages > 0 or self._retention.due

    def wait_s(self) -> float | None:
        """Return how long the writer may wait for a caller before it asks again, None where nothing is to be done."""
        if self.suspended:
            return None
        if self.wal_pages or self._retention.more:
            return max(0.0, QUIET_S - self._quiet_s()) + 0.001
        return LOOK_EVERY_S if self._retention.done else None

    def run(self, connection: apsw.Connection) -> bool:
        """Remove some old results; True where the WAL is to be folded in now. Outside of any transaction."""
        self._busy_at = self._monotonic()
        self._retention.looks()
        with atomically(connection):
            self._retention.prune(connection)
            self._ledger.write(connection)
        self._ledger.committed()
        return not self._retention.more

    def fold(self, connection: apsw.Connection) -> None:
        """Fold the WAL into the file as far as no reader needs it."""
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        self.wal_pages = 0

    def _quiet_s(self) -> float:
        return self._monotonic() - self._busy_at


class Writer:
    """The thread, its lanes and its transactions. Started by the constructor, ended by `close`."""

    def __init__(
        self,
        database: Database,
        files: StoreFiles,
        ledger: Ledger,
        upkeep: Upkeep,
        health: Health,
        whole: Callable[[apsw.Connection], bool],
        reopened: Callable[[], None],
    ) -> None:
        self._database = database
        self._files = files
        self._whole = whole
        self._reopened = reopened
        self._ledger = ledger
        self._upkeep = upkeep
        self._health = health
        self._posted: list[AnyCall] = []
        self._inbox: SimpleQueue[tuple[AnyCall | None, bool]] = SimpleQueue()
        self._urgent: deque[AnyCall] = deque()
        self._normal: deque[AnyCall] = deque()
        self._gate = threading.Lock()
        self._closing = False
        self._ended = False
        self._look_at = 0.0
        self._thread = threading.Thread(target=self._main, name="hotreload-store", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many calls came since the writer began the group it is at."""
        return self._inbox.qsize()

    def run(self, verb: Verb[A, R], arg: A, *, abandoned: Callable[[R], None] | None = None) -> Awaitable[R]:
        """Do `verb` with `arg` in the next group; awaited, its result once that is on the disk.

        Cancelled before its turn, nothing happens; cancelled later, it happens and `abandoned` is called with the
        result. StoreUnavailable where the store could not be written or is closed.
        """
        return ask(self._put, verb, arg, abandoned)

    def run_sync(self, verb: Verb[A, R], arg: A, *, timeout_s: float, urgent: bool = False) -> R:
        """As `run`, from any thread but the writer's; no event loop needed. `urgent` goes before all that waits.

        TimeoutError after `timeout_s` seconds: it may happen yet.
        """
        return ask_sync(partial(self._put, urgent=urgent), verb, arg, timeout_s, "the store's writer")

    def post(self, verb: Verb[A, R], arg: A) -> None:
        """Do `verb` in a next group, or in a later one until the store can be written; no caller waits for it."""
        call = SyncCall(verb, arg)
        call.posted = True
        if threading.current_thread() is self._thread:
            self._posted.append(call)  # before all others: what is claimed again must not be what is given back
        else:
            self._put(call)

    def nudge(self) -> None:
        """Have the writer ask for upkeep again."""
        self._inbox.put((None, False))

    def close(self, timeout_s: float) -> bool:
        """Refuse further calls, do those that wait, end the thread; False where that took over `timeout_s`.

        A second call only waits.
        """
        with self._gate:
            self._closing = True
            self._inbox.put((None, False))
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _put(self, call: AnyCall, *, urgent: bool = False) -> None:
        with self._gate:
            if self._closing:
                raise StoreUnavailable(f"{self._database.path}: the store is closed")
            self._inbox.put((call, urgent))

    def _main(self) -> None:
        while not self._ended:
            self._collect()
            lane = self._urgent or self._normal
            if lane:
                self._group([lane.popleft() for _ in range(min(len(lane), GROUP_MOST))])
            elif self._closing and self._inbox.empty():
                self._ended = True
                continue
            self._maintain(idle=not (self._urgent or self._normal or self._inbox.qsize()))
        self._look()
        self._database.close(fold=self._health.trouble is None)

    def _collect(self) -> None:
        """Move what waits into its lane; wait where nothing does."""
        if not (self._urgent or self._normal or self._closing):
            try:
                self._file(*self._inbox.get(timeout=self._wait_s()))
            except Empty:
                return
        for _ in range(self._inbox.qsize()):
            self._file(*self._inbox.get())

    def _wait_s(self) -> float | None:
        wait_s = self._health.wait_s()
        return min(LOOK_S, self._upkeep.wait_s() or LOOK_S) if wait_s is None else wait_s

    def _file(self, call: AnyCall | None, urgent: bool) -> None:
        if call is not None:
            (self._urgent if urgent else self._normal).append(call)

    def _maintain(self, *, idle: bool) -> None:
        wait_s = self._health.wait_s()
        if wait_s is not None:
            if wait_s <= 0 and idle:
                self._transact([SyncCall(_probe, None)])
            return
        if idle and time.monotonic() >= self._look_at:  # each commit has its proof, this is for the time between
            self._look()
            self._look_at = time.monotonic() + LOOK_S / 2
        if not self._upkeep.due(idle=idle):
            return
        try:
            connection = self._database.connection()
            fold = self._upkeep.run(connection)
            self._prove()
            if fold:
                self._upkeep.fold(self._database.connection())
                self._bring_back_unless(self._files.folded)
        except Exception as error:  # noqa: BLE001 - whatever it is, callers must go on to be served
            self._upkeep_failed(error)

    def _upkeep_failed(self, error: Exception) -> None:
        self._ledger.dropped()
        self._database.failed(error)
        found = as_error(error, self._database.path)
        self._health.failed(found)
        if not isinstance(found, StoreUnavailable):
            log.warning("store.upkeep_failed error=%r", error)

    def _look(self, *, own: bool = False) -> None:
        """See to it that the files are there while no caller waits; where they are not, it is tried again later."""
        try:
            self._bring_back_unless(partial(self._files.look, own=own))
        except Exception as error:  # noqa: BLE001 - as above
            self._upkeep_failed(error)

    def _prove(self) -> None:
        """Return once what was committed is in the files that have the store's names, brought back where need be."""
        if self._bring_back_unless(self._files.prove):
            self._health.worked()

    def _bring_back_unless(self, sound: Callable[[], R]) -> R | None:
        try:
            return sound()
        except StoreUnavailable as changed:
            self._health.failed(changed)
            try:
                self._database.bring_back(self._whole)
            except StoreUnavailable as error:
                self._health.not_brought_back(error)
                raise
            self._reopened()
            self._health.worked()
            self._health.brought_back(str(changed))
            return None

    def _group(self, calls: list[AnyCall]) -> None:
        """Make one transaction of `calls`: durable for all that did not fail by themselves, or for none."""
        calls = [call for call in calls if not call.unwanted()]
        if calls:
            self._transact(calls)

    def _transact(self, calls: list[AnyCall]) -> None:
        calls, self._posted = [*self._posted, *calls], []
        committing = False
        try:
            self._bring_back_unless(self._files.untouched)
            connection = self._database.connection()
            run(connection, "BEGIN IMMEDIATE")
            self._perform(connection, calls)
            self._ledger.write(connection)
            committing = True
            run(connection, "COMMIT")
            self._ledger.committed()
            self._prove()
        except BaseException as error:  # noqa: BLE001 - the thread must live, the callers must be told
            self._ledger.dropped()
            self._database.failed(error)
            self._failed(calls, error, committing=committing)
            if isinstance(error, REOPENED_AFTER):
                self._look(own=True)
        deliver(calls)

    def _failed(self, calls: Sequence[AnyCall], error: BaseException, *, committing: bool) -> None:
        for call in calls:
            if committing and call.error is None:
                call.give_back()
            call.error = as_error(error, self._database.path)
            self._health.failed(call.error)
            if call.posted and isinstance(call.error, StoreUnavailable):
                self._posted.append(call)

    def _perform(self, connection: apsw.Connection, calls: Sequence[AnyCall]) -> None:
        if len(calls) == 1:  # no neighbour to protect: the transaction is the savepoint
            self._apply(connection, calls)
            return
        by_verb: dict[Verb[Any, Any], list[AnyCall]] = {}
        for call in calls:
            by_verb.setdefault(call.verb, []).append(call)
        for together in by_verb.values():
            self._protected(connection, together)

    def _protected(self, connection: apsw.Connection, calls: Sequence[AnyCall]) -> None:
        mark = self._ledger.mark()
        run(connection, "SAVEPOINT hotreload_caller")
        try:
            self._apply(connection, calls)
        except BaseException as error:
            if isinstance(error, REOPENED_AFTER) or not connection.in_transaction:
                raise
            run(connection, "ROLLBACK TO hotreload_caller; RELEASE hotreload_caller")
            self._ledger.undo(mark)
            if len(calls) > 1:
                for call in calls:
                    self._protected(connection, [call])
            else:
                calls[0].error = as_error(error, self._database.path)
        else:
            run(connection, "RELEASE hotreload_caller")

    @staticmethod
    def _apply(connection: apsw.Connection, calls: Sequence[AnyCall]) -> None:
        outcomes = calls[0].verb(connection, [call.arg for call in calls])
        for call, outcome in zip(calls, outcomes, strict=True):
            if isinstance(outcome, BaseException):
                call.error = outcome
            else:
                call.result = outcome


def _probe(connection: apsw.Connection, calls: Sequence[None]) -> Sequence[None]:
    """Write something, as any caller would: whether the disk takes it is the question."""
    put_fact(connection, "probed", 1)
    put_fact(connection, "probed", 0)
    return calls
