"""The engine on PostgreSQL: what it opens, in which order, and how it ends."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike
from typing import Any, Final, TypeVar

import psycopg

from hotreload import clock
from hotreload.errors import NotOffered, StoreLost, StoreUnavailable
from hotreload.queue.calls import SyncCall, Verb
from hotreload.queue.contract import DrainMark, Report
from hotreload.queue.job import Backoff
from hotreload.queue.ledger import Ledger
from hotreload.queue.postgres.connection import Connection, Node, connect, guarded, not_opened, place
from hotreload.queue.postgres.nodes import Nodes
from hotreload.queue.postgres.reads import Reader
from hotreload.queue.postgres.recovery import mark_of, recover, take_over
from hotreload.queue.postgres.schema import migrate
from hotreload.queue.postgres.statements import PostgresStatements
from hotreload.queue.postgres.writer import Health, Writer
from hotreload.queue.reads import Reads
from hotreload.queue.recovery import Documents
from hotreload.queue.store import Store
from hotreload.queue.verbs import PRUNED_AT_ONCE, Verbs

log = logging.getLogger(__name__)

A = TypeVar("A")
R = TypeVar("R")
DAY_S: Final = 86_400.0
LOOK_EVERY_S: Final = 30.0
AGAIN_AFTER_S: Final = 0.05
LEASE: Final = 0.7
"""The part of `ttl_s` after which a node that was not seen is taken over: noticing it takes the rest."""


class PostgresQueue(Store):
    """The store in a database, as one of its nodes. Open it with `open`.

    What `write` and `within` are given may be called again, where its transaction has to be made again; the server
    ends a transaction in which nothing was asked for 0.35 × `ttl_s`.
    """

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
        cut: DrainMark | None = None,
        report_cut: Report | None = None,
    ) -> PostgresQueue:
        """Own `node` in the database at `dsn` (a `postgresql://` address) and put right what its last owner left.

        Brings the schema up to date, takes the node's lock, puts back what it was running (`recovered`). Blocks for
        some milliseconds, needs no event loop. StoreOwned where another process owns the node, StoreUnavailable where
        the database cannot be used (also: written by a newer release); then nothing is held and nothing was changed.
        Other nodes take its jobs over within `ttl_s` once it is not heard of. The others as `SqliteQueue.open`.
        """
        engine = PostgresEngine(
            dsn,
            node,
            now_ms=now_ms,
            keep_done_s=keep_done_s,
            keep_done_most=keep_done_most,
            ttl_s=ttl_s,
            cut=cut,
            report_cut=report_cut,
        )
        return cls(engine, now_ms=now_ms, jitter=jitter, backoff=backoff)


class Upkeep:
    """Says when the writer is to remove ended jobs: while no caller waits, or once there are too many."""

    def __init__(self, ledger: Ledger, verbs: Verbs, now_ms: Callable[[], int], keep_done_s: float, most: int) -> None:
        self._ledger = ledger
        self._verbs = verbs
        self._now_ms = now_ms
        self._keep_done_s = keep_done_s
        self._most = most
        self._looked_at = time.monotonic()
        self._more = False
        self._keep_s: dict[str, float] = {}
        self.suspended = False

    def keep_done(self, queue: str, keep_s: float) -> None:
        """Keep ended jobs of a queue for another time than the others; from any thread."""
        self._keep_s[queue] = keep_s

    def __call__(self, idle: bool) -> SyncCall[Any, Any] | None:
        """Return what to do now, None where that is nothing; `idle` is False while callers wait."""
        done = sum(standing.done for standing in self._ledger.standings().values())
        due = self._more or time.monotonic() - self._looked_at >= LOOK_EVERY_S
        if self.suspended or not done or not ((idle and due) or done > self._most + PRUNED_AT_ONCE):
            return None
        self._looked_at = time.monotonic()
        return SyncCall(self._prune, None)

    def _before_ms(self, queue: str) -> int:
        return self._now_ms() - int(self._keep_s.get(queue, self._keep_done_s) * 1000)

    def _prune(self, connection: Connection, calls: Sequence[None]) -> Sequence[None]:
        self._more = self._verbs.prune(connection, self._before_ms, self._most)
        return calls


class PostgresEngine:
    """Meets `Engine`: one node of a database, its lock, its connections, its writer."""

    def __init__(
        self,
        dsn: str,
        node: str,
        *,
        now_ms: Callable[[], int],
        keep_done_s: float,
        keep_done_most: int,
        ttl_s: float,
        cut: DrainMark | None,
        report_cut: Report | None,
    ) -> None:
        self._where = where = place(dsn)
        self._now_ms = now_ms
        self.node = Node(node, where, ttl_s * LEASE)
        self.sql = PostgresStatements(node)
        self.ledger = Ledger(self.sql)
        self.verbs = Verbs(self.sql, self.ledger, now_ms)
        self.documents = Documents(self.sql, now_ms, mark_of(node))
        self.upkeep = Upkeep(self.ledger, self.verbs, now_ms, keep_done_s, keep_done_most)
        self.health = Health()
        self.reader, self._user_reader = Reader(dsn), Reader(dsn)
        self.reads = Reads(self.sql, self.reader)
        self.fleet = Nodes(self.node, self.reader)
        self._report_cut = report_cut
        try:
            connection = connect(dsn)
            try:
                migrate(connection)
                self.node.lock(connection)
                self.recovered = recover(connection, self.ledger, now_ms(), owner=self.node, cut=cut, report=report_cut)
            except BaseException:
                connection.close()
                raise
        except psycopg.Error as error:
            raise not_opened(error, where) from error
        self.writer = Writer(
            connection,
            partial(connect, dsn),
            self.node,
            self.ledger,
            self.health,
            self.upkeep,
            self._take_over,
            self.fleet.look,
            where,
        )
        self.fleet.writer = self.writer

    def _take_over(self, connection: Connection) -> None:
        if self.verbs.closed:
            return
        taken = take_over(connection, self.ledger, self._now_ms(), owner=self.node, report=self._report_cut)
        for name, found in taken.items():
            if jobs := len(found.crashed) + len(found.interrupted):
                log.warning("store.node_taken_over node=%s jobs=%d", name, jobs)

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
                return self.writer.run_sync(verb, arg, timeout_s=max(0.0, until - time.monotonic()))
            except StoreLost:
                raise
            except StoreUnavailable:
                if self.health.trouble is None or time.monotonic() + AGAIN_AFTER_S >= until:
                    raise
                pause.wait(AGAIN_AFTER_S)

    def release(self, connection: Connection) -> None:
        """See `Engine`."""
        self.fleet.release(connection)

    def leave(self, timeout_s: float) -> None:
        """See `Engine`; the node is removed."""
        self.writer.run_sync(self.fleet.leave, None, timeout_s=timeout_s)

    def close(self, timeout_s: float) -> bool:
        self.reader.close()
        self._user_reader.close()
        return self.writer.close(timeout_s)
