"""The engine on one SQLite file: what it opens, in which order, and how it ends."""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Final

import apsw

from hotreload import clock
from hotreload.queue.calls import A, Inbox, R, Verb
from hotreload.queue.contract import DrainMark, Report
from hotreload.queue.job import Backoff
from hotreload.queue.ledger import Ledger
from hotreload.queue.recovery import Documents, put_back
from hotreload.queue.sqlite.connection import (
    Connect,
    Database,
    Reader,
    as_error,
    connect,
    one,
    run_guarded,
)
from hotreload.queue.sqlite.files import StoreFiles, copy, refuse_to_replace, sync_folder
from hotreload.queue.sqlite.schema import migrate
from hotreload.queue.sqlite.statements import SqliteStatements, put_fact
from hotreload.queue.sqlite.writer import Health, Upkeep, Writer
from hotreload.queue.store import Store
from hotreload.queue.verbs import Retention, Verbs

DAY_S: Final = 86_400.0


class SqliteQueue(Store):
    """The store in one file. Open it with `open`."""

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
        monotonic: Callable[[], float] = time.monotonic,
        cut: DrainMark | None = None,
        report_cut: Report | None = None,
    ) -> SqliteQueue:
        """Own the store at `path` (made where there is none, readable by its owner only) and put right what was left.

        Takes the lock, brings the schema up to date, puts back what was running (`recovered`). Blocks for some
        milliseconds, needs no event loop. StoreOwned where another process owns it, StoreUnavailable where it
        cannot be used (also: written by a newer release); then nothing is held and nothing was changed.
        Results stay for `keep_done_s`, the newest `keep_done_most` of them at most; `monotonic` is the clock by which
        old ones are looked for. `cut` is the mark of a
        drain that was left elsewhere, as its owner could not make it here; it counts if that was the last owner. Of a
        drain that was cut, `report_cut` makes the report, which is kept in the transaction that puts right the rest.
        """
        engine = SqliteEngine(
            Path(path).resolve(),
            opens=opens,
            now_ms=now_ms,
            keep_done_s=keep_done_s,
            keep_done_most=keep_done_most,
            monotonic=monotonic,
            cut=cut,
            report_cut=report_cut,
        )
        return cls(engine, now_ms=now_ms, jitter=jitter, backoff=backoff)


class SqliteEngine:
    """Meets `Engine`: one file, its lock, its connections, its writer. No other process shares it."""

    fleet = None

    def __init__(
        self,
        path: Path,
        *,
        opens: Connect,
        now_ms: Callable[[], int],
        keep_done_s: float,
        keep_done_most: int,
        monotonic: Callable[[], float],
        cut: DrainMark | None,
        report_cut: Report | None,
    ) -> None:
        self.path = path
        self._now_ms = now_ms
        self._opens = opens
        self.inbox = Inbox(str(path))
        self.sql = SqliteStatements()
        self.ledger = Ledger(self.sql)
        self.verbs = Verbs(self.sql, self.ledger, now_ms)
        self.documents = Documents(self.sql, now_ms)
        self.retention = Retention(self.ledger, self.verbs, now_ms, monotonic, keep_done_s, keep_done_most)
        self.upkeep = Upkeep(self.ledger, self.retention, monotonic)
        self.health = Health()
        self.files = StoreFiles(path)
        self.reader, self._user_reader = Reader(path, opens), Reader(path, opens)
        database = Database(self.files, opens, opened=self._opened)
        try:
            self._recover(database, cut, report_cut)
        except BaseException:
            database.close()
            self.files.release()
            raise
        Writer(
            self.inbox, database, self.files, self.ledger, self.upkeep, self.health, self._agrees, self._close_readers
        )

    @property
    def owner(self) -> str:
        return self.files.lock.text

    def _recover(self, database: Database, cut: DrainMark | None, report: Report | None) -> None:
        before, ended = self.files.lock.before, self.files.lock.machine_ended
        note = cut if cut is not None and before and cut.owner == before else None
        try:
            connection = database.connection()
            with connection:  # a transaction
                self.recovered = put_back(
                    connection,
                    self.sql,
                    self.documents,
                    self.ledger,
                    self._now_ms(),
                    note=note,
                    report=report,
                    machine_ended=ended,
                )
                self.ledger.write(connection)
            self.ledger.refresh(connection)
            self.files.prove()
        except apsw.Error as error:
            raise as_error(error, self.path) from error

    def _opened(self, connection: apsw.Connection) -> None:
        """Bring in step with the file what is held in memory; at each new connection of the writer."""
        connection.set_wal_hook(self._wrote)
        migrate(connection, self._now_ms())
        put_fact(connection, "opened_at_ms", self._now_ms())  # a WAL with a commit says how large the database is
        self.ledger.refresh(connection)
        self.sql.seen(connection)

    def _wrote(self, _connection: apsw.Connection, _name: str, pages: int) -> int:
        """Note a commit that is on the disk; SQLite's WAL hook. One that changed nothing says nothing of the disk."""
        self.upkeep.wrote(pages)
        self.files.wrote(pages)
        return apsw.SQLITE_OK

    def _agrees(self, connection: apsw.Connection) -> bool:
        return self.sql.agrees(connection, self.ledger)

    def guarded(self, connection: apsw.Connection, function: Callable[[apsw.Connection], R]) -> R:
        return run_guarded(connection, function)

    def read(self, query: Callable[[apsw.Connection], R]) -> R:
        return self._user_reader.read_guarded(query)

    def backup(self, into: str | PathLike[str]) -> int:
        """See `Engine`; an older copy of that name is replaced once the new one is whole and on the disk."""
        into = Path(into).resolve()
        if into.parent == self.path.parent.resolve() and into.name.startswith(self.path.name):
            raise ValueError(f"{into}: the copy would replace a file of the store")
        refuse_to_replace(into)
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

    def insist(self, verb: Verb[A, R], arg: A, timeout_s: float) -> R:
        """See `Engine`; a disk that refuses now is not waited for."""
        return self.inbox.ask_sync(verb, arg, timeout_s=timeout_s)

    def release(self, connection: apsw.Connection) -> None:
        """See `Engine`: nothing is shared."""

    def leave(self, timeout_s: float) -> None:
        """See `Engine`; the lock says so."""

    def close(self, timeout_s: float) -> bool:
        """See `Engine`; the WAL is folded into the file."""
        self._close_readers()
        ended = self.inbox.close(timeout_s)
        if ended:
            self.files.release()
        return ended

    def _close_readers(self) -> None:
        self.reader.close()
        self._user_reader.close()


def _plain(made: apsw.Connection) -> bool:
    """Make a copy one file by itself, without a WAL."""
    return one(made, "PRAGMA journal_mode = DELETE") == "delete"
