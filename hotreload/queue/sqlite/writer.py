"""One thread that does every write: whatever waits becomes one transaction, each caller in a savepoint.

    inbox → group → BEGIN · verbs · ledger · COMMIT (on the disk) → results

Group commit (DeWitt et al. 1984): one fsync serves every caller that waits. Calls of the same verb go together in one
savepoint and, with SQL over many rows, in few statements, because SQLite gives the interpreter's lock back with
every statement and a busy event loop keeps it for up to 5 ms. Where the savepoint of several fails, it is rolled
back and each has one of its own: one caller's failure fails no other. Results are handed out after the commit.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import apsw

from hotreload.errors import StoreLost, StoreUnavailable
from hotreload.queue.calls import AnyCall, Inbox, R, SyncCall, Verb, deliver
from hotreload.queue.ledger import Ledger
from hotreload.queue.sqlite.connection import REOPENED_AFTER, Database, as_error, run
from hotreload.queue.sqlite.files import StoreFiles
from hotreload.queue.sqlite.statements import put_fact
from hotreload.queue.verbs import LOOK_EVERY_S, Retention

log = logging.getLogger(__name__)

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

    After `QUIET_S` without a caller all of the WAL is folded in. Under load that never pauses it is folded only once it
    exceeds `WAL_MOST_PAGES`, and results are removed once there are too many. In a drain nothing is done until its end:
    folding a WAL can take 0.3 s.
    """

    def __init__(self, ledger: Ledger, retention: Retention, monotonic: Callable[[], float]) -> None:
        self._ledger = ledger
        self._retention = retention
        self._monotonic = monotonic
        self.wal_pages = 0
        """How many pages of the WAL are not folded in yet."""
        self._busy_at = monotonic()

    def wrote(self, pages: int) -> None:
        """Note a commit; the WAL has so many pages now."""
        self.wal_pages = pages
        self._busy_at = self._monotonic()

    def due(self, *, idle: bool) -> bool:
        """Say whether `run` has something to do now; `idle` is False while callers wait."""
        if self._retention.suspended:
            return False
        if not idle:
            return self.wal_pages > WAL_MOST_PAGES or self._retention.too_many
        if self._quiet_s() < QUIET_S:
            return False
        return self.wal_pages > 0 or self._retention.due

    def wait_s(self) -> float | None:
        """Return how long the writer may wait for a caller before it asks again, None where nothing is to be done."""
        if self._retention.suspended:
            return None
        if self.wal_pages or self._retention.more:
            return max(0.0, QUIET_S - self._quiet_s()) + 0.001
        return LOOK_EVERY_S if self._retention.done else None

    def run(self, connection: apsw.Connection) -> bool:
        """Remove some old results; True where the WAL is to be folded in now. Outside of any transaction."""
        self._busy_at = self._monotonic()
        self._retention.looks()
        with connection:  # a transaction
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
    """What the thread of `inbox` does. Started by the constructor, ended by `Inbox.close`."""

    def __init__(
        self,
        inbox: Inbox,
        database: Database,
        files: StoreFiles,
        ledger: Ledger,
        upkeep: Upkeep,
        health: Health,
        whole: Callable[[apsw.Connection], bool],
        reopened: Callable[[], None],
    ) -> None:
        self._inbox = inbox
        self._database = database
        self._files = files
        self._whole = whole
        self._reopened = reopened
        self._ledger = ledger
        self._upkeep = upkeep
        self._health = health
        self._look_at = 0.0
        inbox.start(self._main)

    def _main(self) -> None:
        while not self._inbox.done:
            self._inbox.collect(self._wait_s() if self._inbox.idle and not self._inbox.closing else 0)
            if calls := self._inbox.group():
                self._transact(calls)
            if not self._inbox.closing:
                self._maintain(idle=self._inbox.idle)
        self._look()
        self._database.close(fold=self._health.trouble is None)

    def _wait_s(self) -> float | None:
        wait_s = self._health.wait_s()
        return min(LOOK_S, self._upkeep.wait_s() or LOOK_S) if wait_s is None else wait_s

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

    def _transact(self, calls: list[AnyCall]) -> None:
        """Make one transaction of `calls`: durable for all that did not fail by themselves, or for none."""
        calls, self._inbox.posted = [*self._inbox.posted, *calls], []
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
                self._inbox.posted.append(call)

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
