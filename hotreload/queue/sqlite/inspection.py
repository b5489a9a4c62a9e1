"""Look at a store that no process owns now, and bring its schema up to date, without starting a service on it."""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import apsw

from hotreload import clock
from hotreload.errors import StoreUnavailable
from hotreload.queue.inspection import (
    COUNTED,
    Finding,
    Inspection,
    Migrated,
    QueueRows,
    Severity,
    miscounted,
    schema_findings,
)
from hotreload.queue.sqlite.connection import WAITS_FOR_A_LOCK_MS, as_error, connect, run
from hotreload.queue.sqlite.files import StoreLock
from hotreload.queue.sqlite.schema import applied, migrate, steps

ENGINE: Final = "sqlite"
_OURS: Final = "SELECT type, name FROM sqlite_schema WHERE name LIKE 'hotreload\\_%' ESCAPE '\\'"
_ROWS: Final = """
SELECT queue, iif(state = 'cancelled', 'done', state) AS counted, count(*) FROM hotreload_jobs GROUP BY queue, counted
"""


def inspect(path: Path, *, check: bool) -> Inspection:
    """Return what is in the store; with `check` also what is wrong with it, for which all of it is read.

    Changes nothing. StoreOwned while a process has it open, StoreUnavailable where it cannot be read.
    """
    wal_bytes = _wal_bytes(path)
    with _opened(path) as connection:
        run(connection, "PRAGMA query_only = ON").fetchall()
        has, needs = applied(connection), steps()[-1].version
        queues = _queues(connection) if has else []
        return Inspection(
            engine=ENGINE,
            place=str(path),
            schema=has,
            needs=needs,
            size_bytes=path.stat().st_size + wal_bytes,
            queues=queues,
            findings=_findings(connection, path, has, needs, wal_bytes, queues) if check else None,
        )


def migrate_store(path: Path) -> Migrated:
    """Bring the schema to the newest version, each step in a transaction of its own; a second call does nothing.

    StoreOwned while a process has it open, StoreUnavailable where it cannot be written or a newer release wrote it.
    """
    with _opened(path) as connection:
        run(connection, "PRAGMA synchronous = FULL").fetchall()
        before = applied(connection)
        return Migrated(ENGINE, str(path), before, migrate(connection, clock.now_ms()))


@contextmanager
def _opened(path: Path) -> Generator[apsw.Connection]:
    """Own the store for a look; what was in its WAL stays there."""
    lock = StoreLock(path, signs=False)
    try:
        connection = connect(str(path))
        try:
            connection.set_busy_timeout(WAITS_FOR_A_LOCK_MS)
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, int(_wal_bytes(path) > 0))
            yield connection
        finally:
            connection.close(True)
    except apsw.Error as error:
        raise _unavailable(error, path) from error
    finally:
        lock.release()


def _wal_bytes(path: Path) -> int:
    wal = path.with_name(f"{path.name}-wal")
    return wal.stat().st_size if wal.exists() else 0


def _unavailable(error: apsw.Error, path: Path) -> BaseException:
    found = as_error(error, path)
    return found if isinstance(found, StoreUnavailable) else StoreUnavailable(f"{path}: {error}")


def _queues(connection: apsw.Connection) -> list[QueueRows]:
    rows = run(connection, f"SELECT name, {', '.join(COUNTED)}, paused FROM hotreload_queues ORDER BY name")
    return [QueueRows(*row[:-1], paused=bool(row[-1])) for row in rows]


def _findings(
    connection: apsw.Connection, path: Path, has: int, needs: int, wal_bytes: int, queues: Sequence[QueueRows]
) -> list[Finding]:
    found = schema_findings(has, needs)
    if wal_bytes:
        found.append(Finding(Severity.NOTE, f"{wal_bytes:,} bytes are in the WAL; the next start reads them"))
    if running := sum(queue.running for queue in queues):
        what = f"{running:,} jobs ran when the last process ended; the next start puts them back"
        found.append(Finding(Severity.NOTE, what))
    if (mode := stat.S_IMODE(path.stat().st_mode)) & 0o077:
        what = f"others may read or write the file (mode {mode:03o})"
        found.append(Finding(Severity.NOTE, what, f"chmod 600 {path}"))
    broken = [str(line) for (line,) in run(connection, "PRAGMA quick_check")]
    if broken != ["ok"]:
        right = "restore a backup, or move the file away to begin again"
        return [*found, *(Finding(Severity.ERROR, f"quick_check: {line}", right) for line in broken)]
    if has == needs:
        found += _missing(connection)
    if any(each.severity is Severity.ERROR for each in found):
        return found
    return [*found, *_miscounted(connection, queues)]


def _missing(connection: apsw.Connection) -> list[Finding]:
    """Compare with a fresh store of this release."""
    fresh = apsw.Connection(":memory:")
    try:
        migrate(fresh, 0)
        wanted: set[tuple[Any, ...]] = set(run(fresh, _OURS))
    finally:
        fresh.close()
    there: set[tuple[Any, ...]] = set(run(connection, _OURS))
    right = "restore a backup"
    return [Finding(Severity.ERROR, f"the {kind} {name} is missing", right) for kind, name in sorted(wanted - there)]


def _miscounted(connection: apsw.Connection, queues: Sequence[QueueRows]) -> list[Finding]:
    counted = Counter({(queue, state): count for queue, state, count in run(connection, _ROWS)})
    return miscounted(counted, queues)
