"""The store's schema, one SQL file per version, and the way from any older one to the newest."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, cast

import apsw

from hotreload.errors import StoreUnavailable
from hotreload.queue.job import from_json, to_json
from hotreload.queue.sqlite.connection import one, run

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
    """One version of the schema: the SQL that leads to it from the version before, then `rows` rewrites the rows."""

    version: int
    name: str
    sql: str
    rows: Callable[[apsw.Connection], None] | None = None


def steps() -> tuple[Step, ...]:
    """Return every step this package has, oldest first."""
    found = ((FILE_NAME.fullmatch(file.name), file) for file in files(__name__).iterdir())
    known = [
        Step(int(match[1]), match[2], file.read_text("utf-8"), _ROWS.get(match[2])) for match, file in found if match
    ]
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
        with connection:  # a transaction
            run(connection, VERSIONS)
            run(connection, step.sql).fetchall()
            if step.rows is not None:
                step.rows(connection)
            run(connection, "INSERT INTO hotreload_schema VALUES (?, ?, ?)", (step.version, step.name, now_ms))
    return [step.version for step in missing]


def applied(connection: apsw.Connection) -> int:
    """Return the store's schema version, 0 for an empty file."""
    if not connection.table_exists("main", "hotreload_schema"):
        return 0
    return one(connection, "SELECT coalesce(max(version), 0) FROM hotreload_schema")


def _steps_as_rows(connection: apsw.Connection) -> None:
    """Move the results of steps out of the cursors: {"version", "cursor", "positions", "steps": {name: result}}."""
    progressed = "SELECT id FROM hotreload_jobs WHERE cursor IS NOT NULL AND state <> 'done'"
    for (job_id,) in run(connection, progressed).fetchall():
        value: Any = from_json(one(connection, "SELECT cursor FROM hotreload_jobs WHERE id = ?", (job_id,)))
        found: Any = value.pop("steps", None) if isinstance(value, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        if not isinstance(found, dict):
            continue
        progress, kept = cast("dict[str, Any]", value), cast("dict[str, Any]", found)
        rows = [(name, to_json([progress.get("version", 1), result])) for name, result in kept.items()]
        into = "INSERT INTO hotreload_steps SELECT ?, value ->> 0, value ->> 1 FROM json_each(?)"
        run(connection, into, (job_id, json.dumps(rows)))
        changed = "UPDATE hotreload_jobs SET cursor = ?, steps = ? WHERE id = ?"
        run(connection, changed, (to_json(progress), len(rows), job_id))


_ROWS = {"steps": _steps_as_rows}
