"""Which engine keeps a store: SQLite in a file, or PostgreSQL where an address is given."""

from __future__ import annotations

import importlib.util
import os
import socket
from pathlib import Path

from hotreload.errors import StoreUnavailable
from hotreload.queue.contract import DrainMark, Report
from hotreload.queue.inspection import Inspection, Migrated
from hotreload.queue.sqlite import SqliteQueue
from hotreload.queue.sqlite import inspection as sqlite
from hotreload.queue.store import Store

__all__ = ["Store", "inspect_store", "migrate_store", "node_name", "open_engine"]


def open_engine(
    file: Path, address: str | None, *, ttl_s: float, cut: DrainMark | None, report_cut: Report | None
) -> Store:
    """Own the store in `file`, or in the database at `address`, and put right what its last owner left.

    In a database this process is the node of this machine and folder, so the next start there recovers what it left;
    where there is none, another node does within `ttl_s`.
    StoreOwned where another process owns it; StoreUnavailable where it cannot be used or the driver is not installed.
    """
    if address is None:
        return SqliteQueue.open(file, cut=cut, report_cut=report_cut)
    _need_driver()
    from hotreload.queue.postgres import PostgresQueue

    return PostgresQueue.open(address, node_name(file.parent), ttl_s=ttl_s, cut=cut, report_cut=report_cut)


def node_name(folder: Path) -> str:
    """Return the name of a process with this state folder: the same however the folder is spelled."""
    return f"{socket.gethostname()}:{os.path.abspath(folder)}"


def inspect_store(file: Path, address: str | None, *, check: bool) -> Inspection:
    """Look at the store in `file`, or at the database at `address`, and change nothing; see `inspect` of each engine.

    StoreOwned while a process has the file open; a database may be in use. StoreUnavailable where it cannot be read.
    """
    if address is None:
        return sqlite.inspect(file, check=check)
    _need_driver()
    from hotreload.queue.postgres import inspection

    return inspection.inspect(address, check=check)


def migrate_store(file: Path, address: str | None) -> Migrated:
    """Bring the schema of a store to what this release needs; see `migrate_store` of each engine.

    StoreOwned while a process has the file open. StoreUnavailable where it cannot be written.
    """
    if address is None:
        return sqlite.migrate_store(file)
    _need_driver()
    from hotreload.queue.postgres import inspection

    return inspection.migrate_store(address)


def _need_driver() -> None:
    if importlib.util.find_spec("psycopg") is None:
        raise StoreUnavailable(
            "hotreload.store needs the driver for PostgreSQL: pip install 'openviking-hotreload[postgres]'"
        )
