"""The connection to the store's file: how SQL is run, what errors mean, and what a user's function may do in it."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, cast

import apsw

from hotreload.errors import HotreloadError, StoreLost, StoreUnavailable
from hotreload.queue.sqlite.files import StoreFiles

R = TypeVar("R")
Binding = str | int | None
Connect = Callable[[str], apsw.Connection]


class Rows(Protocol):
    """What a statement returned."""

    @property
    def get(self) -> Any:
        """The only column of the only row; None where there is no row."""
        ...

    def __iter__(self) -> Iterator[tuple[Any, ...]]: ...

    def fetchone(self) -> tuple[Any, ...] | None:
        """Return the next row, None after the last."""
        ...

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return the rows that are left."""
        ...


_execute: Final = cast(
    "Callable[[apsw.Connection, str, Sequence[Binding]], Rows]",
    apsw.Connection.execute,  # pyright: ignore[reportUnknownMemberType]
)


def run(connection: apsw.Connection, sql: str, bindings: Sequence[Binding] = ()) -> Rows:
    """Execute `sql` up to its first row: of several statements those after it run as the rows are read."""
    return _execute(connection, sql, bindings)


def one(connection: apsw.Connection, sql: str, bindings: Sequence[Binding] = ()) -> Any:
    """Return the only column of the only row of `sql`, None where there is no row."""
    return _execute(connection, sql, bindings).get


WAITS_FOR_A_LOCK_MS: Final = 2_000
BROUGHT_BACK_AT_MOST: Final = 3
CACHE_BYTES: Final = 32 * 1024 * 1024
"""A store up to this size is all in memory, so that it can be brought back where another program cut its file."""
WAL_FILE_BYTES: Final = 64 * 1024 * 1024
PRAGMAS: Final = f"""
PRAGMA synchronous = FULL;
PRAGMA mmap_size = 0;
PRAGMA cache_size = -{CACHE_BYTES // 1024 * 5 // 4};
PRAGMA temp_store = MEMORY;
PRAGMA journal_size_limit = {WAL_FILE_BYTES};
"""
CAUSES: Final[tuple[tuple[type[apsw.Error], str], ...]] = (
    (apsw.FullError, "the disk is full"),
    (apsw.ReadOnlyError, "the file is read-only"),
    (apsw.CorruptError, "the file is corrupt; restore a backup, or move it away to begin again"),
    (apsw.NotADBError, "the file is not an SQLite database; move it away to begin again"),
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
    """Open a connection whose locks and WAL index are in memory, shared by those of this process; see `StoreFiles`."""
    return _Connection(path, vfs="unix-excl")


class _Connection(apsw.Connection):
    """A connection that a user's function cannot close: with it the transaction of all callers would end."""

    def close(self, force: bool = False) -> None:
        """Close it; ValueError within a user's function."""
        if isinstance(self.authorizer, Authorizer) and self.authorizer.guards:
            raise ValueError("the connection is the store's, and stays open after the function")
        super().close(force)


class Database:
    """One connection to one file, opened when it is asked for and again after it was dropped.

    Not for two threads at once. Every page goes through this connection: no memory map and no second writer,
    because SQLite before 3.51.3 can corrupt a WAL that several connections reset (sqlite.org/wal.html#walresetbug).
    """

    def __init__(self, files: StoreFiles, opens: Connect, *, opened: Callable[[apsw.Connection], None]) -> None:
        self.path = files.path
        self._files = files
        self._opens = opens
        self._opened = opened
        self._connection: apsw.Connection | None = None
        self._unsynced = False

    def connection(self) -> apsw.Connection:
        """Return the open connection; an apsw.Error or StoreUnavailable where the file cannot be opened now.

        `opened` is called with each new connection, to bring in step what is held in memory.
        """
        if self._connection is None:
            try:
                self._connection = self._prepare()
            except OSError as error:  # no free file descriptor, say
                raise StoreUnavailable(f"{self.path}: {error.strerror}") from error
        return self._connection

    def _prepare(self) -> apsw.Connection:
        _create_private(self.path)
        connection = self._opens(str(self.path))
        try:
            connection.set_busy_timeout(WAITS_FOR_A_LOCK_MS)
            if one(connection, "PRAGMA journal_mode = WAL") != "wal":
                raise StoreUnavailable(f"{self.path}: this file system (of a network?) has no WAL; use a local folder")
            run(connection, PRAGMAS).fetchall()  # a statement after one with rows runs as those are read
            connection.wal_autocheckpoint(0)
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # closing is part of a drain
            connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)  # else each claim is prepared again
            if self._unsynced:
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            page_size, pages = one(connection, "PRAGMA page_size"), one(connection, "PRAGMA page_count")
            self._files.hold(page_size)  # before anything is written
            if pages * page_size <= CACHE_BYTES:
                self._read_all(connection)
            self._opened(connection)
            self._files.prove()
            connection.authorizer = Authorizer()  # set later, it would have every statement prepared again
        except BaseException:
            self._files.let_go()
            connection.close(True)
            raise
        self._unsynced = False
        return connection

    @staticmethod
    def _read_all(connection: apsw.Connection) -> None:
        found = one(connection, "PRAGMA quick_check(1)")
        if found != "ok":
            raise apsw.CorruptError(found)

    def failed(self, error: BaseException) -> None:
        """Undo what is half-way; drop the connection where `error` says that it is not to be trusted further.

        After a failed fsync the kernel may take pages for written that never were (lwn.net/Articles/752063): the
        next connection writes all of the WAL again, into the file, before anything builds on it.
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
        try:
            self._files.look(own=True)
            self._files.noted()
        except StoreUnavailable:  # what this connection sees is all there is of the store
            return
        if isinstance(error, REOPENED_AFTER):
            self.close()

    def bring_back(self, whole: Callable[[apsw.Connection], bool]) -> None:
        """Where the files are not those that were opened, have them replaced by what this connection sees.

        See `StoreFiles.replace`. Done again where the new file is harmed before it is open.
        """
        seen = self._connection
        if seen is None:
            raise StoreLost(f"{self.path}: it cannot be brought back: the file is closed")
        for left in reversed(range(BROUGHT_BACK_AT_MOST)):
            self._files.replace(seen, whole)
            try:
                self._connection = self._prepare()
                break
            except (StoreUnavailable, apsw.Error, OSError) as error:
                if not left:
                    raise StoreUnavailable(f"{self.path}: it cannot be brought back now: {error}") from error
        seen.close(True)

    def close(self, *, fold: bool = False) -> None:
        """Close the connection; what was committed is in the file or its WAL. A second call does nothing.

        With `fold` all of the WAL is folded into the file and removed.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            self._files.let_go()
            try:
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(not fold))
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
    """Return the error a caller gets for `error`: a fresh StoreUnavailable where it is the store's, else itself.

    The caller's own are those of SQL and constraints.
    """
    if isinstance(error, HotreloadError):
        return type(error)(*error.args) if isinstance(error, StoreUnavailable) else error
    if isinstance(error, StopIteration):  # a future cannot carry one
        return RuntimeError(f"a function raised {error!r}")
    for kind, cause in CAUSES:
        if isinstance(error, kind):
            found = StoreUnavailable(f"{path}: {cause} ({error}); nothing acknowledged is lost")
            found.__cause__ = error
            return found
    return error


class Reader:
    """A read-only connection, opened when first asked; calls from several threads take turns."""

    def __init__(self, path: Path, opens: Connect) -> None:
        self._path = path
        self._opens = opens
        self._turn = threading.Lock()
        self._connection: apsw.Connection | None = None

    def read(self, query: Callable[[apsw.Connection], R]) -> R:
        """Run a query and return its result; StoreUnavailable where the store cannot be read."""
        with self._turn:
            try:
                return query(self._open())
            except apsw.Error as error:
                self._drop()
                raise as_error(error, self._path) from error

    def read_guarded(self, query: Callable[[apsw.Connection], R]) -> R:
        """As `read` for a user's function; ValueError for SQL that does not only read."""
        return self.read(lambda connection: run_guarded(connection, query, inside=False))

    def close(self) -> None:
        """Close, and end what is read meanwhile; the next read opens it again."""
        connection = self._connection
        if connection is not None:
            connection.interrupt()
        with self._turn:
            self._drop()

    def _open(self) -> apsw.Connection:
        if self._connection is None:
            self._connection = self._opens(str(self._path))
            self._connection.set_busy_timeout(WAITS_FOR_A_LOCK_MS)
            self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            run(self._connection, "PRAGMA query_only = ON; PRAGMA mmap_size = 0").fetchall()
            self._connection.authorizer = Authorizer(reads=True)
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close(True)


# --- a user's function inside the store's own transaction -----------------------------------------------------------

_ENDS: Final = re.compile(r"\s*(BEGIN|COMMIT|END|ROLLBACK(?!\s+(TRANSACTION\s+)?TO\b))\b", re.IGNORECASE)
_READS: Final = frozenset(
    [
        "application_id",
        "collation_list",
        "compile_options",
        "data_version",
        "database_list",
        "foreign_key_check",
        "foreign_key_list",
        "freelist_count",
        "function_list",
        "index_info",
        "index_list",
        "index_xinfo",
        "integrity_check",
        "module_list",
        "page_count",
        "page_size",
        "quick_check",
        "table_info",
        "table_list",
        "table_xinfo",
        "user_version",
    ]
)
"""Pragmas that change nothing of how the store is kept."""
_LOOKS: Final = (apsw.SQLITE_READ, apsw.SQLITE_SELECT, apsw.SQLITE_FUNCTION, apsw.SQLITE_RECURSIVE)
_OURS: Final = re.compile(r"(?!\s*(SELECT|EXPLAIN|WITH)\b).*\bhotreload_", re.IGNORECASE | re.DOTALL)


class Authorizer:
    """Asked by SQLite for each statement it prepares, whatever its text looks like; refuses while `guards`.

    With `reads` it lets nothing pass but what only reads.
    """

    def __init__(self, *, reads: bool = False) -> None:
        self._reads = reads
        self.guards = False
        self.refused: str | None = None

    def __call__(self, operation: int, one: str | None, two: str | None, _db: str | None, _by: str | None) -> int:
        """Answer for one operation."""
        looks = operation in _LOOKS or operation == apsw.SQLITE_PRAGMA
        if self.guards and ((self._reads and not looks) or _forbidden(operation, one or "", two or "")):
            self.refused = f"{apsw.mapping_authorizer_function[operation]} {one or ''}"
            return apsw.SQLITE_DENY
        return apsw.SQLITE_OK


def _forbidden(operation: int, one: str, two: str) -> bool:
    if operation == apsw.SQLITE_PRAGMA:
        return one.lower() not in _READS
    if operation in (apsw.SQLITE_TRANSACTION, apsw.SQLITE_ATTACH, apsw.SQLITE_DETACH):
        return True
    return operation not in _LOOKS and any(name.lower().startswith("hotreload_") for name in (one, two))


def run_guarded(connection: apsw.Connection, function: Callable[[apsw.Connection], R], *, inside: bool = True) -> R:
    """Call `function(connection)`; ValueError for SQL that would reach beyond its own rows.

    That is what ends the transaction of all callers, attaches a database, changes how the store is kept, or writes to
    what is named `hotreload_…`. Savepoints of its own are welcome, and it may read all there is. `inside` says that
    there is a transaction, which the function must leave open.
    """
    authorizer = cast("Authorizer", connection.authorizer)
    before: apsw.ExecTracer | None = connection.exec_trace  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    connection.exec_trace = _refuse
    authorizer.guards, authorizer.refused = True, None
    try:
        found = function(connection)
    except apsw.AuthError as error:
        if authorizer.refused is None:
            raise
        where = "inside the store's transaction" if inside else "that reads the store"
        raise ValueError(f"{authorizer.refused}: not for a function {where}") from error
    finally:
        authorizer.guards = False
        connection.exec_trace = before
    if inside and not connection.in_transaction:
        raise ValueError("the function ended the transaction that it was called in")
    return found


def _refuse(_cursor: apsw.Cursor, sql: str, _bindings: object) -> bool:
    """Refuse the texts that the store itself runs: those are prepared already, the authorizer is not asked again."""
    if _ENDS.match(sql):
        raise ValueError(f"{sql.strip()!r}: the transaction is the store's; use a SAVEPOINT for a part of it")
    if _OURS.match(sql):
        raise ValueError(f"{sql.strip()[:80]!r}: not for a function inside the store's transaction")
    return True
