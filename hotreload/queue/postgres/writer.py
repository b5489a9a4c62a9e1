"""One thread that does every write: whatever waits becomes one transaction.

    inbox → group → BEGIN · verbs · ledger · COMMIT (durable) → results

Calls of the same verb go together in few statements. Where one of several fails, the transaction is rolled back and
made again with a savepoint for each caller: one caller's failure fails no other. A connection that is lost before
COMMIT is opened again and the transaction made again. One that is lost in COMMIT may have ended it either way: the
database is asked whether it was committed, and its callers wait for the answer. While the database cannot be reached
callers are refused at once, and it is tried again after growing pauses.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any, Final, NamedTuple

import psycopg

from hotreload.errors import StoreLost, StoreUnavailable
from hotreload.queue.calls import AnyCall, Inbox, SyncCall, by_verb, deliver, perform
from hotreload.queue.ledger import Ledger
from hotreload.queue.postgres.connection import Connection, Node, as_error, commit, rolled_back, run
from hotreload.queue.postgres.statements import counting
from hotreload.queue.postgres.wakeup import NOTIFY, Announcer, topics_of

log = logging.getLogger(__name__)

AGAIN_MOST: Final = 3
"""How often a transaction is made again that got in another's way, or whose connection was lost before COMMIT."""
LOOK_S: Final = 1.0
"""How often the writer keeps its lease, and looks what other processes changed."""
REFRESH_S: Final = 0.02
"""How long after others told of more jobs the counters are read."""
BACKOFF_FIRST_S: Final = 0.1
BACKOFF_MOST_S: Final = 5.0
SILENT_S: Final = 3.0
"""A database that did not answer for so long is in trouble, even if the connection to it stands."""

_IN_THE_WAY: Final = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)


class Unresolved(NamedTuple):
    """A transaction whose COMMIT was not answered."""

    calls: Sequence[AnyCall]
    number: int


class Health:
    """Set by the writer's thread, read by any. Of a database nothing is put right or lost from here."""

    incident: str | None = None
    lost: str | None = None

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._since = self._next = 0.0
        self._pause_s = BACKOFF_FIRST_S
        self._told: str | None = None
        self._asked: float | None = None
        self.lost_listeners: list[Callable[[str], None]] = []

    @property
    def trouble(self) -> str | None:
        """Why the database cannot be written now, None where it can."""
        asked = self._asked
        if self._told is None and asked is not None and self._monotonic() - asked > SILENT_S:
            return "the database does not answer"
        return self._told

    def asks(self) -> None:
        """Note that the database was asked for something."""
        self._asked = self._monotonic()

    def answered(self) -> None:
        """Note that the database did what it was asked for."""
        self._asked, self._pause_s = None, BACKOFF_FIRST_S
        if self._told is not None:
            self._told = None
            log.warning("store.available after_s=%.1f", self._monotonic() - self._since)

    def failed(self, error: StoreUnavailable) -> None:
        """Note why it could not be reached, and put off the next attempt."""
        self._asked = None
        if self._told is None:
            self._since = self._monotonic()
            log.error("store.unavailable error=%s", error)
        self._told = str(error)
        self._next = self._monotonic() + self._pause_s
        self._pause_s = min(BACKOFF_MOST_S, self._pause_s * 2)
        if isinstance(error, StoreLost):
            self._pause_s = BACKOFF_MOST_S
            for listener in self.lost_listeners:
                listener(self._told)
            self.lost_listeners = []

    def wait_s(self) -> float:
        """Return how long to wait until the database may be tried again; 0 where it may be now."""
        return 0.0 if self._told is None else max(0.0, self._next - self._monotonic())


class Writer:
    """What the thread of `inbox` does with its connection. Started by the constructor, ended by `Inbox.close`.

    `opens` returns a new connection, `node` owns it from then on. `upkeep` says what to do while no caller waits.
    `takes_over` is called every `look_s` once this process has kept its own lease that long: only then does the silence
    of another node say something.
    """

    def __init__(
        self,
        inbox: Inbox,
        connection: Connection,
        opens: Callable[[], Connection],
        node: Node,
        ledger: Ledger,
        health: Health,
        upkeep: Callable[[bool], SyncCall[Any, Any] | None],
        takes_over: Callable[[Connection], None],
        looks: Callable[[Connection], None],
        where: str,
        look_s: float = LOOK_S,
    ) -> None:
        self._inbox = inbox
        self._connection: Connection | None = connection
        self._opens = opens
        self._node = node
        self._ledger = ledger
        self._health = health
        self._upkeep = upkeep
        self._takes_over = takes_over
        self._looks = looks
        self._steady_since: float | None = None
        self._where = where
        self._look_s = look_s
        self._unresolved: Unresolved | None = None
        self._looked_at = float("-inf")
        self._hints: SimpleQueue[str | None] = SimpleQueue()
        self._refresh_at = math.inf
        self._announcer = Announcer()
        inbox.start(self._main)

    def look(self, queue: str = "") -> None:
        """Look at once what other processes changed, in `queue` or in all; from any thread, returns at once."""
        self._hints.put(queue)
        self._inbox.wake()

    def look_around(self) -> None:
        """Look at once, as every `look_s`, at the other nodes and what they ask for; from any thread."""
        self._hints.put(None)
        self._inbox.wake()

    def _main(self) -> None:
        while self._unresolved is not None or not self._inbox.done:
            waits = self._unresolved is not None or (self._inbox.idle and not self._inbox.closing)
            self._inbox.collect(self._wait_s() if waits else 0)
            if self._unresolved is not None and not self._health.wait_s():
                self._resolve()
            calls = self._inbox.group()
            if self._unresolved is not None:
                self._failed(calls, StoreUnavailable(str(self._health.trouble)))
                continue
            if calls:
                self._transact(calls)
            self._maintain(idle=self._inbox.idle)
        self._drop()

    def _wait_s(self) -> float:
        until_look_s = self._looked_at + self._look_s - time.monotonic()
        until_refresh_s = self._refresh_at - time.monotonic()
        until_s = min(self._look_s, until_look_s, until_refresh_s, self._announcer.wait_s())
        return max(0.001, self._health.wait_s() or until_s)

    def _maintain(self, *, idle: bool) -> None:
        if self._health.wait_s() or self._node.left:
            return
        self._take_hints()
        if self._health.trouble is not None or time.monotonic() - self._looked_at >= self._look_s:
            self._looked_at, self._refresh_at = time.monotonic(), math.inf
            self._look()
        if time.monotonic() >= self._refresh_at:
            self._refresh_at = math.inf
            self._look(lease=False)
        if self._announcer.wait_s() == 0.0 and not self._health.trouble:
            self._transact([SyncCall(_nothing, None)])
        upkeep = None if self._health.trouble else self._upkeep(idle)
        if upkeep is not None:
            self._transact([upkeep])

    def _take_hints(self) -> None:
        """Wake those who wait for what others made ready: a claim finds it, the counters are read a moment later."""
        for _ in range(self._hints.qsize()):
            queue = self._hints.get()
            if queue is None:
                self._looked_at = float("-inf")
                continue
            known = self._ledger.hint(queue)
            self._refresh_at = min(self._refresh_at, time.monotonic() + (REFRESH_S if known else 0.0))

    def _look(self, *, lease: bool = True) -> None:
        """Keep the lease and take note of what others changed, or did not; a lost connection is opened again."""
        error = self._refreshed(lease=lease) and self._refreshed(lease=lease)
        if error is not None:
            self._note(as_error(error, self._where))

    def _refreshed(self, *, lease: bool) -> Exception | None:
        try:
            self._health.asks()
            connection = self._connected()
            gap_s, now = self._node.keep(connection) if lease else 0.0, time.monotonic()
            self._ledger.refresh(connection)
            if lease:
                self._looks(connection)
            if lease and (self._steady_since is None or gap_s > self._node.lease_s / 2):
                self._steady_since = now
            if lease and now - (self._steady_since or now) >= self._node.lease_s:
                self._takes_over(connection)
            self._health.answered()
        except Exception as error:  # noqa: BLE001 - the thread must live
            self._drop()
            return error
        return None

    # --- one transaction --------------------------------------------------------------------------------------------

    def _transact(self, calls: list[AnyCall]) -> None:
        """Make one transaction of `calls`: durable for all that did not fail by themselves, or for none."""
        if self._health.wait_s():
            self._failed(calls, StoreUnavailable(str(self._health.trouble)))
            return
        calls, self._inbox.posted = [*self._inbox.posted, *calls], []
        apart = False
        error = self._attempt(calls, apart=apart)
        for _ in range(AGAIN_MOST):
            if error is None or isinstance(error, StoreUnavailable):  # a new connection failed, or the node was taken
                break
            apart = apart or not (self._connection is None or isinstance(error, _IN_THE_WAY))
            if apart and len(calls) == 1:
                break
            error = self._attempt(calls, apart=apart)
        if error is not None:
            self._failed(calls, as_error(error, self._where))

    def _attempt(self, calls: Sequence[AnyCall], *, apart: bool) -> BaseException | None:
        """Do it once; the error where nothing of it happened, None where the callers have or will have their answer."""
        number = 0
        committing = False
        for call in calls:
            call.error = None
        try:
            self._health.asks()
            connection = self._connected()
            number = self._node.begin(connection)
            self._perform(connection, calls, apart=apart)
            sums = self._ledger.sums()
            told = self._topics()
            committing = True
            rows = commit(connection, *([counting(sums)] if sums else []), *([(NOTIFY, [told])] if told else []))
            if sums:
                self._ledger.wrote(rows[0])
        except BaseException as error:  # noqa: BLE001 - the thread must live, the callers must be told
            self._ledger.dropped()
            self._undo()
            if committing and self._connection is None:
                self._unresolved = Unresolved(calls, number)
                self._note(as_error(error, self._where))
                return None
            return error
        self._health.answered()
        self._ledger.committed()
        self._announcer.committed()
        deliver(calls)
        return None

    def _topics(self) -> list[str]:
        """Return what other nodes are to be told, nothing where none is there."""
        if self._node.others:
            return self._announcer.due(topics_of(self._ledger.woken))
        self._announcer.forget()
        return []

    def _connected(self) -> Connection:
        if self._connection is None:
            try:
                self._connection = self._opens()
                self._node.lock_again(self._connection)
            except (psycopg.Error, StoreUnavailable) as error:
                self._drop()
                raise as_error(error, self._where) from error
        return self._connection

    def _undo(self) -> None:
        """Roll back; without a connection that can, the server does."""
        if self._connection is not None:
            rolled_back(self._connection)
            if self._connection.closed:
                self._drop()

    def _drop(self) -> None:
        connection, self._connection, self._steady_since = self._connection, None, None
        if connection is not None:
            connection.close()

    def _failed(self, calls: Sequence[AnyCall], error: BaseException) -> None:
        self._note(error)
        for call in calls:
            call.error = error
            if call.posted and isinstance(error, StoreUnavailable):
                self._inbox.posted.append(call)
        deliver(calls)

    def _note(self, error: BaseException) -> None:
        """Note an error that is the database's; one of the caller's says nothing of it."""
        if isinstance(error, StoreUnavailable):
            if not self._health.wait_s():
                self._health.failed(error)
        else:
            self._health.answered()

    def _resolve(self) -> None:
        """Ask for the fate of a transaction whose COMMIT was not answered; without an answer it is asked again."""
        assert self._unresolved is not None
        calls, number = self._unresolved
        try:
            self._health.asks()
            connection = self._connected()
            committed = self._node.committed(connection, number)
            self._ledger.refresh(connection)
        except Exception as error:  # noqa: BLE001 - the thread must live
            self._drop()
            self._note(as_error(error, self._where))
            return
        self._unresolved = None
        self._health.answered()
        log.warning("store.commit_resolved committed=%s calls=%d", committed, len(calls))
        if committed:
            deliver(calls)
        else:
            self._transact(list(calls))

    def _perform(self, connection: Connection, calls: Sequence[AnyCall], *, apart: bool) -> None:
        for together in by_verb(calls):
            if not apart:
                perform(connection, together)
                continue
            for call in together:
                self._protected(connection, call)

    def _protected(self, connection: Connection, call: AnyCall) -> None:
        mark = self._ledger.mark()
        run(connection, "SAVEPOINT hotreload_caller")
        try:
            perform(connection, [call])
            run(connection, "RELEASE hotreload_caller")
        except Exception as error:
            connection.forget()
            if connection.closed or isinstance(error, _IN_THE_WAY):
                raise
            run(connection, "ROLLBACK TO hotreload_caller; RELEASE hotreload_caller")
            self._ledger.undo(mark)
            call.error = as_error(error, self._where)


def _nothing(_connection: Connection, calls: Sequence[None]) -> Sequence[None]:
    """Write nothing: what is held back for other processes goes with the transaction."""
    return list(calls)
