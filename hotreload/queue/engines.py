"""Which engine keeps a store: SQLite in a file, or PostgreSQL where an address is given."""

from __future__ import annotations

import socket
from pathlib import Path

from hotreload.errors import StoreUnavailable
from hotreload.queue.contract import DrainMark, Report
from hotreload.queue.sqlite import SqliteQueue
from hotreload.queue.store import Store

__all__ = ["Store", "open_engine"]


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
    try:
        from hotreload.queue.postgres import PostgresQueue
    except ModuleNotFoundError as error:
        raise StoreUnavailable(
            "hotreload.store needs the driver for PostgreSQL: pip install 'openviking-hotreload[postgres]'"
        ) from error
    return PostgresQueue.open(
        address, f"{socket.gethostname()}:{file.parent}", ttl_s=ttl_s, cut=cut, report_cut=report_cut
    )
