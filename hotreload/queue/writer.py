"""One thread that does every write: whatever waits becomes one transaction, each caller in a savepoint.

    callers ──inbox──→ urgent lane ─┐
                       normal lane ─┴→ BEGIN · verbs · ledger · COMMIT (on the disk) → results

Group commit (DeWitt et al. 1984): one fsync serves everyone who waits. Calls of the same verb go together in one
savepoint and, with SQL over many rows, in few statements, because SQLite gives the interpreter's lock back with
every statement and a busy event loop keeps it for up to 5 ms. Where the savepoint of several fails, it is rolled
back and each has one of its own: one caller's failure fails no other. Results are handed out after the commit.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Any, Final, Protocol, TypeVar, cast

import apsw

from hotreload.errors import StoreUnavailable
from hotreload.queue.calls import AnyCall, Call, SyncCall, Verb, deliver
from hotreload.queue.database import REOPENED_AFTER, Database, as_error
from hotreload.queue.health import Health
from hotreload.queue.ledger import Ledger
from hotreload.queue.recover import PUT_FACT
from hotreload.queue.sql import run

log = logging.getLogger(__name__)

A = TypeVar("A")
R = TypeVar("R")
GROUP_MOST: Final = 1_000


class Upkeep(Protocol):
    """What is to be done when nobody waits."""

    def due(self, *, idle: bool) -> bool:
        """Say whether to run now; `idle` is False while callers wait."""
        ...

    def run(self, connection: apsw.Connection) -> None:
        """Do a little; outside of any transaction."""
        ...

    def wait_s(self) -> float | None:
        """Return how long to wait for callers before asking again, None where nothing is to be done."""
        ...


class Writer:
    """The thread, its lanes and its transactions. Started by the constructor, ended by `close`."""

    def __init__(self, database: Database, ledger: Ledger, upkeep: Upkeep, health: Health) -> None:
        self._database = database
        self._ledger = ledger
        self._upkeep = upkeep
        self._health = health
        self._owed: list[AnyCall] = []
        self._inbox: SimpleQueue[tuple[AnyCall | None, bool]] = SimpleQueue()
        self._urgent: deque[AnyCall] = deque()
        self._normal: deque[AnyCall] = deque()
        self._gate = threading.Lock()
        self._closing = False
        self._ended = False
        self._thread = threading.Thread(target=self._main, name="hotreload-store", daemon=True)
        self._thread.start()

    async def run(self, verb: Verb[A, R], arg: A, *, abandoned: Callable[[R], None] | None = None) -> R:
        """Do `verb` with `arg` in the next group; its result once that is on the disk.

        Cancelled before its turn, nothing happens; cancelled later, it happens and `abandoned` is called with the
        result. StoreUnavailable where the store could not be written or is closed.
        """
        call = Call(verb, arg)
        call.loop = asyncio.get_running_loop()
        call.future = future = call.loop.create_future()
        call.abandoned = abandoned
        self._put(call, urgent=False)
        return await future

    def run_sync(self, verb: Verb[A, R], arg: A, *, timeout_s: float, urgent: bool = False) -> R:
        """As `run`, from any thread but the writer's; no event loop needed. `urgent` goes before all that waits.

        TimeoutError after `timeout_s` seconds: it may happen yet.
        """
        call = SyncCall(verb, arg)
        self._put(call, urgent=urgent)
        if not call.settled.wait(timeout_s):
            raise TimeoutError(f"the store's writer did not answer within {timeout_s:g} s")
        if call.error is not None:
            raise call.error
        return cast("R", call.result)

    def post(self, verb: Verb[A, R], arg: A) -> None:
        """Do `verb` in a next group, or in a later one until the store can be written; nobody waits for the outcome."""
        call = SyncCall(verb, arg)
        call.owed = True
        if threading.current_thread() is self._thread:
            self._owed.append(call)  # before anybody else's: a claim made anew must not be the one given back
        else:
            self._put(call, urgent=False)

    def nudge(self) -> None:
        """Have the writer ask for upkeep anew."""
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

    def _put(self, call: AnyCall, *, urgent: bool) -> None:
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
        self._database.close()

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
        return self._upkeep.wait_s() if wait_s is None else wait_s

    def _file(self, call: AnyCall | None, urgent: bool) -> None:
        if call is not None:
            (self._urgent if urgent else self._normal).append(call)

    def _maintain(self, *, idle: bool) -> None:
        wait_s = self._health.wait_s()
        if wait_s is not None:
            if wait_s <= 0 and idle:
                self._transact([SyncCall(_probe, None)])
            return
        if not self._upkeep.due(idle=idle):
            return
        try:
            self._upkeep.run(self._database.connection())
        except Exception as error:  # noqa: BLE001 - whatever it is, callers must go on to be served
            self._ledger.dropped()
            self._database.failed(error)
            found = as_error(error, self._database.path)
            self._health.failed(found)
            if not isinstance(found, StoreUnavailable):
                log.warning("store.upkeep_failed error=%r", error)

    def _group(self, calls: list[AnyCall]) -> None:
        """Make one transaction of `calls`: durable for all that did not fail by themselves, or for none."""
        calls = [call for call in calls if not call.unwanted()]
        if calls:
            self._transact(calls)

    def _transact(self, calls: list[AnyCall]) -> None:
        calls, self._owed = [*self._owed, *calls], []
        committing = False
        try:
            connection = self._database.connection()
            run(connection, "BEGIN IMMEDIATE")
            self._perform(connection, calls)
            self._ledger.write(connection)
            committing = True
            run(connection, "COMMIT")
        except BaseException as error:  # noqa: BLE001 - the thread must live, the callers must hear
            self._ledger.dropped()
            self._database.failed(error)
            self._failed(calls, error, committing=committing)
        else:
            self._ledger.committed()
        deliver(calls)

    def _failed(self, calls: Sequence[AnyCall], error: BaseException, *, committing: bool) -> None:
        for call in calls:
            if committing and call.error is None:
                call.give_back()
            call.error = as_error(error, self._database.path)
            self._health.failed(call.error)
            if call.owed and isinstance(call.error, StoreUnavailable):
                self._owed.append(call)

    def _perform(self, connection: apsw.Connection, calls: Sequence[AnyCall]) -> None:
        if len(calls) == 1:  # nobody to protect: the transaction is the savepoint
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
    run(connection, PUT_FACT, ("probed", 1))
    run(connection, PUT_FACT, ("probed", 0))
    return calls
