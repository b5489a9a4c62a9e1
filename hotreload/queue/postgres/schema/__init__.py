"""The store's tables in PostgreSQL, one SQL file per version, and the way from any older one to the newest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Final, NamedTuple

import psycopg

from hotreload.errors import StoreUnavailable
from hotreload.queue.postgres.connection import Connection, atomically, one, run

FILE_NAME: Final = re.compile(r"(\d{4})_(\w+)\.sql")
_LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended('hotreload schema ' || current_schema(), 0))"
# Not to_regclass: it may remember from before the lock was waited for that there is no such table.
_THERE: Final = """
SELECT count(*) FROM pg_class
WHERE relname = 'hotreload_schema' AND relnamespace = quote_ident(current_schema())::regnamespace
"""
# Every transaction of a node writes its row first: from here on none is half-way in the tables that the steps change.
_ALONE: Final = "LOCK TABLE hotreload_nodes IN SHARE ROW EXCLUSIVE MODE"
_VERSIONS: Final = """
CREATE TABLE hotreload_schema (version bigint PRIMARY KEY, name text NOT NULL, applied_at timestamptz DEFAULT now())
"""

# WHEN is asked once a statement, without a call; a table that a later step makes is guarded as well.
_GUARD: Final = """
DO $do$
DECLARE ours text;
BEGIN
    FOR ours IN
        SELECT relname FROM pg_class
        WHERE relnamespace = quote_ident(current_schema())::regnamespace AND relkind = 'r'
            AND starts_with(relname, 'hotreload_') AND NOT EXISTS (
                SELECT FROM pg_trigger WHERE tgrelid = pg_class.oid AND tgname = 'hotreload_guard')
    LOOP
        EXECUTE format('CREATE TRIGGER hotreload_guard BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %I
            FOR EACH STATEMENT WHEN (current_setting(''hotreload.function'', true) = ''on'')
            EXECUTE FUNCTION hotreload_refuse()', ours);
    END LOOP;
END $do$
"""


class Step(NamedTuple):
    """One version of the schema: the SQL that leads to it from the version before."""

    version: int
    name: str
    sql: str


def steps() -> Sequence[Step]:
    """Return every step this package has, oldest first."""
    found = ((FILE_NAME.fullmatch(file.name), file) for file in files(__name__).iterdir())
    return sorted(Step(int(match[1]), match[2], file.read_text("utf-8")) for match, file in found if match)


def migrate(connection: Connection, known: Sequence[Step] | None = None) -> Sequence[int]:
    """Bring the tables to the newest schema and return the versions applied, [] where they were there already.

    All missing steps are one transaction under an advisory lock, so that of several nodes one migrates. Tables made
    by a newer release are refused with StoreUnavailable and left as they are.
    """
    known = steps() if known is None else known
    if applied(connection) == known[-1].version:
        return []
    with atomically(connection):
        run(connection, _LOCK)
        has = applied(connection)
        if has > known[-1].version:
            raise StoreUnavailable(
                f"the store has schema {has}, this release knows up to {known[-1].version}: run the newer release"
            )
        missing = [step for step in known if step.version > has]
        try:
            _apply(connection, has, missing)
        except psycopg.errors.InsufficientPrivilege as error:
            raise StoreUnavailable(
                f"the store has schema {has}, this release needs {known[-1].version}, and the role may not migrate it "
                f"({str(error).splitlines()[0]}): hotreload store migrate, as the role that owns the tables"
            ) from error
    return [step.version for step in missing]


def _apply(connection: Connection, has: int, missing: Sequence[Step]) -> None:
    if has == 0:
        run(connection, _VERSIONS)
    else:
        run(connection, _ALONE)
    for step in missing:
        run(connection, step.sql)
        run(connection, "INSERT INTO hotreload_schema (version, name) VALUES (%s, %s)", (step.version, step.name))
    run(connection, _GUARD)


def applied(connection: Connection) -> int:
    """Return the schema's version, 0 where there are no tables."""
    if not one(connection, _THERE):
        return 0
    return int(one(connection, "SELECT coalesce(max(version), 0) FROM hotreload_schema"))
