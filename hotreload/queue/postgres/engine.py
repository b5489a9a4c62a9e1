"""The engine on PostgreSQL: what it opens, in which order, and how it ends."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike
from typing import Any, ClassVar, Final

import psycopg

from hotreload.errors import NotOffered, StoreLost, StoreUnavailable
from hotreload.queue.calls import A, Inbox, R, SyncCall, Verb
from hotreload.queue.contract import DrainMark, Report
from hotreload.queue.job import Backoff
from hotreload.queue.ledger import Ledger
from hotreload.queue.postgres.connection import Connection, Node, connect, guarded, not_opened, place
from hotreload.queue.postgres.nodes import Nodes
from hotreload.queue.postgres.reads import Reader
from hotreload.queue.postgres.recovery import mark_of, recover, take_over
from hotreload.queue.postgres.schema import migrate
from hotreload.queue.postgres.statements import PostgresStatements
from hotreload.queue.postgres.wakeup import JOBS, ROUNDS, Listener, notify, topics_of
from hotreload.queue.postgres.writer import LOOK_S, Health, Writer
from hotreload.queue.recovery import Documents
from hotreload.queue.store import Store
from hotreload.queue.verbs import Retention, Verbs

log = logging.getLogger(__name__)

DAY_S: Final = 86_400.0
AGAIN_AFTER_S: Final = 0.05
LEASE: Final = 0.7
"""The part of `ttl_s` after which a node that was not seen is taken over: noticing it takes the rest."""


class PostgresQueue(Store):
    """The store in a database, as one of its nodes. Open it with `open`.

    What `write` and `within` are given may be called again: where a neighbour in its group failed, or the connection
    was lost before the commit. Nothing of the call before is in the database then, but what it did outside of it is.
    The server ends a transaction in which nothing was asked for 0.35 × `ttl_s`.
    """

    engine_type: ClassVar[type[PostgresEngine]]

    @classmethod
    def open(
        cls,
        dsn: str,
        node: str = "",
        *,
        now_ms: Callable[[], int] | None = None,
        jitter: Callable[[], float] = random.random,
        backoff: Backoff | None = None,
        keep_done_s: float = DAY_S,
        keep_done_most: int = 100_000,
        ttl_s: float = 15.0,
        look_s: float = LOOK_S,
        monotonic: Callable[[], float] = time.monotonic,
        cut: DrainMark | None = None,
        report_cut: Report | None = None,
    ) -> PostgresQueue:
        """Own `node` in the database at `dsn` (a `postgresql://` address) and put right what its last owner left.

        Brings the schema up to date, takes the node's lock, puts back what it was running (`recovered`). Blocks for
        some milliseconds, needs no event loop. StoreOwned where another process owns the node, StoreUnavailable where
        the database cannot be used (also: written by a newer release); then nothing is held and nothing was changed.
        Other nodes take its jobs over within `ttl_s` once it is not heard of; every `look_s` it says that it is there,
        and looks what the others did, whether or not it was told. `now_ms` is the database's clock where none is given.
        The others as `SqliteQueue.open`.
        """
        engine = cls.engine_type(
            dsn,
            node,
            now_ms=now_ms,
            keep_done_s=keep_done_s,
            keep_done_most=keep_done_most,
            ttl_s=ttl_s,
            look_s=look_s,
            monotonic=monotonic,
            cut=cut,
            report_cut=report_cut,
        )
        return cls(engine, now_ms=engine.now_ms, jitter=jitter, backoff=backoff)

    @property
    def wake_up(self) -> str | None:
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
        await self._inbox.ask(_publish, topic)

    @property
    def _listener(self) -> Listener:
        assert isinstance(self.engine, PostgresEngine)
        return self.engine.listener


def _publish(connection: Connection, calls: Sequence[str]) -> Sequence[None]:
    notify(connection, dict.fromkeys(calls))
    return [None] * len(calls)


class Upkeep:
    """Says when the writer is to remove ended jobs: while no caller waits, or once there are too many."""

    def __init__(self, retention: Retention) -> None:
        self._retention = retention

    def __call__(self, idle: bool) -> SyncCall[Any, Any] | None:
        """Return what to do now, None where that is nothing; `idle` is False while callers wait."""
        if self._retention.suspended or not ((idle and self._retention.due) or self._retention.too_many):
            return None
        self._retention.looks()
        return SyncCall(self._prune, None)

    def _prune(self, connection: Connection, calls: Sequence[None]) -> Sequence[None]:
        self._retention.prune(connection)
        return calls


class PostgresEngine:
    """Meets `Engine`: one node of a database, its lock, its connections, its writer."""

    node_type: ClassVar[type[Node]] = Node
    verbs_type: ClassVar[type[Verbs]] = Verbs

    def __init__(
        self,
        dsn: str,
        node: str,
        *,
        now_ms: Callable[[], int] | None,
        keep_done_s: float,
        keep_done_most: int,
        ttl_s: float,
        look_s: float,
        monotonic: Callable[[], float],
        cut: DrainMark | None,
        report_cut: Report | None,
    ) -> None:
        self._where = where = place(dsn)
        self.inbox = Inbox(where)
        self.node = self.node_type(node, where, ttl_s * LEASE)
        self.now_ms = now_ms = now_ms or self.node.clock
        self.sql = PostgresStatements(node)
        self.ledger = Ledger(self.sql)
        self.verbs = self.verbs_type(self.sql, self.ledger, now_ms)
        self.documents = Documents(self.sql, now_ms, mark_of(node))
        self.retention = Retention(self.ledger, self.verbs, now_ms, monotonic, keep_done_s, keep_done_most)
        self.upkeep = Upkeep(self.retention)
        self.health = Health()
        self.reader, self._user_reader = Reader(dsn), Reader(dsn)
        self.fleet = Nodes(self.node, self.reader)
        self._report_cut = report_cut
        try:
            connection = connect(dsn)
            try:
                migrate(connection)
                self.node.clock.look(connection)
                self.node.lock(connection)
                self.recovered = recover(connection, self.ledger, now_ms(), owner=self.node, cut=cut, report=report_cut)
            except BaseException:
                connection.close()
                raise
        except psycopg.Error as error:
            raise not_opened(error, where) from error
        self.writer = Writer(
            self.inbox,
            connection,
            partial(connect, dsn),
            self.node,
            self.ledger,
            self.health,
            self.upkeep,
            self._take_over,
            self.fleet.look,
            where,
            look_s,
        )
        self.listener = Listener(partial(connect, dsn), self._told)
        self.fleet.inbox = self.inbox

    def _take_over(self, connection: Connection) -> None:
        if self.verbs.closed:
            return
        taken = take_over(connection, self.ledger, self.now_ms(), owner=self.node, report=self._report_cut)
        for name, found in taken.items():
            if jobs := len(found.crashed) + len(found.interrupted):
                log.warning("store.node_taken_over node=%s jobs=%d", name, jobs)

    def _told(self, topic: str | None, pid: int) -> None:
        """Look where another process said that there is reason to; polling finds the same later."""
        if topic is None or topic == ROUNDS:
            self.writer.look_around()
        elif topic.startswith(JOBS) and pid != self.node.backend_pid:
            self.writer.look(topic.removeprefix(JOBS))

    @property
    def owner(self) -> str:
        return self.node.text

    def guarded(self, connection: Connection, function: Callable[[Connection], R]) -> R:
        return guarded(connection, function)

    def read(self, query: Callable[[Connection], R]) -> R:
        return self._user_reader.read(query)

    def backup(self, into: str | PathLike[str]) -> int:
        """Raise NotOffered: a database is copied by its own tools, for all who use it."""
        raise NotOffered(f"the store is {self._where}, not a file; copy it with pg_dump")

    def insist(self, verb: Verb[A, R], arg: A, timeout_s: float) -> R:
        """See `Engine`; raises what the last attempt met."""
        until, pause = time.monotonic() + timeout_s, threading.Event()
        while True:
            try:
                return self.inbox.ask_sync(verb, arg, timeout_s=max(0.0, until - time.monotonic()))
            except StoreLost:
                raise
            except TimeoutError:
                self._not_done()
                raise
            except StoreUnavailable:
                if self.health.trouble is None or time.monotonic() + AGAIN_AFTER_S >= until:
                    self._not_done()
                    raise
                pause.wait(AGAIN_AFTER_S)

    def _not_done(self) -> None:
        ttl_s = self.node.lease_s / LEASE
        said = "store.not_flushed node=%s: what ran comes back by expiry within %g s, or at the next start: %s"
        log.error(said, self.node.name, ttl_s, self.health.trouble)

    def release(self, connection: Connection) -> None:
        """See `Engine`; the other nodes are told at once, there may be no later, as for what is held back."""
        self.fleet.release(connection)
        notify(connection, topics_of(self.ledger.standings()))

    def leave(self, timeout_s: float) -> None:
        """See `Engine`; the node is removed."""
        self.inbox.ask_sync(self.fleet.leave, None, timeout_s=timeout_s)

    def close(self, timeout_s: float) -> bool:
        self.listener.close()
        self.reader.close()
        self._user_reader.close()
        return self.inbox.close(timeout_s)


PostgresQueue.engine_type = PostgresEngine
