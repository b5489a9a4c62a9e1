"""The store's schema, one SQL file per version, and the way from any older one to the newest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import apsw

from hotreload.errors import StoreUnavailable
from hotreload.queue.sql import atomically, one, run

VERSIONS = """
CREATE TABLE IF NOT EXISTS hotreload_schema (
    version       INTEGER PRIMARY KEY,
    name          TEXT    NOT NULL,
    applied_at_ms INTEGER NOT NULL
) STRICT
"""
FILE_NAME = re.compile(r"(\d{4})_(\w+)\.sql")


@dataclass(frozen=True, slots=True)
class Step:
    """One version of the schema: the SQL that leads to it from the version before."""

    version: int
    name: str
    sql: str


def steps() -> tuple[Step, ...]:
    """Return every step this package has, oldest first."""
    found = ((FILE_NAME.fullmatch(file.name), file) for file in files(__name__).iterdir())
    known = [Step(int(match[1]), match[2], file.read_text("utf-8")) for match, file in found if match]
    return tuple(sorted(known, key=lambda step: step.version))


def migrate(connection: apsw.Connection, now_ms: int, known: Sequence[Step] | None = None) -> Sequence[int]:
    """Bring the store to the newest schema and return the versions applied, [] where it was there already.

    Each step and its record are one transaction: cut half-way, the next open goes on with the step that was
    cut. A store written by a newer release is refused with StoreUnavailable and left as it is.
    """
    known = steps() if known is None else known
    has = applied(connection)
    if has > known[-1].version:
        raise StoreUnavailable(
            f"the store has schema {has}, this release knows up to {known[-1].version}: run the newer release"
        )
    missing = [step for step in known if step.version > has]
    for step in missing:
        with atomically(connection):
            run(connection, VERSIONS)
            run(connection, step.sql)
            run(connection, "INSERT INTO hotreload_schema VALUES (?, ?, ?)", (step.version, step.name, now_ms))
    return [step.version for step in missing]


def applied(connection: apsw.Connection) -> int:
    """Return the store's schema version, 0 for an empty file."""
    if not connection.table_exists("main", "hotreload_schema"):
        return 0
    return one(connection, "SELECT coalesce(max(version), 0) FROM hotreload_schema")
