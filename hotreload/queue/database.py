"""The store's file: how it is opened, what its errors mean, and how it is opened again once their cause is gone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import apsw

from hotreload.errors import HotreloadError, StoreUnavailable
from hotreload.queue import guard
from hotreload.queue.sql import run

Connect = Callable[[str], apsw.Connection]

WAITS_FOR_A_LOCK_MS: Final = 2_000
WAL_FILE_BYTES: Final = 64 * 1024 * 1024
PRAGMAS: Final = f"""
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA mmap_size = 0;
PRAGMA cache_size = -16000;
PRAGMA temp_store = MEMORY;
PRAGMA journal_size_limit = {WAL_FILE_BYTES};
"""
CAUSES: Final[tuple[tuple[type[apsw.Error], str], ...]] = (
    (apsw.FullError, "the disk is full"),
    (apsw.ReadOnlyError, "the file is read-only"),
    (apsw.CorruptError, "the file is corrupt; restore a backup, or move it away to begin anew"),
    (apsw.NotADBError, "the file is no SQLite database; move it away to begin anew"),
    (apsw.IOError, "reading or writing the disk failed"),
    (apsw.CantOpenError, "the file or its folder cannot be opened"),
    (apsw.PermissionsError, "access was refused"),
    (apsw.BusyError, "another process holds a lock on the file"),
    (apsw.NoMemError, "out of memory"),
    (apsw.AuthError, "its file layer failed"),  # with an error of one written in Python pending, apsw refuses all
)
# After these the connection may hold stale pages or locks: a new one reads the file as it is.
REOPENED_AFTER: Final = (
    apsw.IOError,
    apsw.CorruptError,
    apsw.NotADBError,
    apsw.CantOpenError,
    apsw.ReadOnlyError,
    apsw.AuthError,
)


def connect(path: str) -> apsw.Connection:
    """Open a connection with SQLite's own file layer."""
    return apsw.Connection(path)


def unavailable(error: BaseException, path: str) -> StoreUnavailable | None:
    """Return what an error of SQLite means for the store, None where it is the caller's own (SQL, a constraint)."""
    for kind, cause in CAUSES:
        if isinstance(error, kind):
            return StoreUnavailable(f"{path}: {cause} ({error}); nothing acknowledged is lost")
    return None


class Database:
    """One connection to one file, opened when it is asked for and again after it was dropped.

    Not for two threads at once. Every page goes through this connection: no memory map and no second writer,
    because SQLite before 3.51.3 can corrupt a WAL that several connections reset (sqlite.org/wal.html#walresetbug).
    """

    def __init__(self, path: Path, opens: Connect, *, opened: Callable[[apsw.Connection], None]) -> None:
        self.path = path
        self._opens = opens
        self._opened = opened
        self._connection: apsw.Connection | None = None
        self._unsynced = False

    def connection(self) -> apsw.Connection:
        """Return the open connection; an apsw.Error where the file cannot be opened now.

        `opened` is called with each new connection, to bring in step what is held in memory.
        """
        if self._connection is None:
            self._connection = self._prepare()
        return self._connection

    def _prepare(self) -> apsw.Connection:
        _create_private(self.path)
        connection = self._opens(str(self.path))
        try:
            connection.set_busy_timeout(WAITS_FOR_A_LOCK_MS)
            run(connection, PRAGMAS).fetchall()  # a statement after one with rows runs as those are read
            connection.wal_autocheckpoint(0)
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # closing is part of a drain
            if self._unsynced:
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            self._opened(connection)
            guard.install(connection)
        except BaseException:
            connection.close(True)
            raise
        self._unsynced = False
        return connection

    def failed(self, error: BaseException) -> None:
        """Undo what is half-way; drop the connection where `error` says that it is not to be trusted further.

        After a failed fsync the kernel may take pages for written that never were (lwn.net/Articles/752063): the
        next connection writes all of the WAL anew, into the file, before anything builds on it.
        """
        self._unsynced = self._unsynced or isinstance(error, apsw.IOError)
        if self._connection is None:
            return
        if self._connection.in_transaction:
            try:
                run(self._connection, "ROLLBACK")
            except apsw.Error:
                self.close()
                return
        if isinstance(error, REOPENED_AFTER):
            self.close()

    def close(self) -> None:
        """Close the connection; what was committed is in the file or its WAL. A second call does nothing."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close(True)
            except apsw.Error:  # an I/O error while the WAL is folded in: it stays, the next open reads it
                return


def _create_private(path: Path) -> None:
    """Create the file readable by its owner alone, as payloads may be private; the WAL takes over its mode."""
    if path.exists():
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreUnavailable(f"{path}: cannot be created: {error.strerror}") from error


def as_error(error: BaseException, path: Path) -> BaseException:
    """Return the error a caller gets for `error`: a fresh StoreUnavailable where it is the store's, else itself."""
    if isinstance(error, HotreloadError):
        return type(error)(*error.args) if isinstance(error, StoreUnavailable) else error
    if isinstance(error, StopIteration):  # no future can carry one
        return RuntimeError(f"a function raised {error!r}")
    found = unavailable(error, str(path))
    if found is None:
        return error
    found.__cause__ = error
    return found
