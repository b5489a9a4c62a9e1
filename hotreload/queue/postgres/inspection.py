"""Look at a database that keeps jobs, running or not, and bring its schema up to date, without a node of it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg

from hotreload.errors import StoreUnavailable
from hotreload.queue.inspection import (
    COUNTED,
    Finding,
    Inspection,
    Migrated,
    NodeSeen,
    QueueRows,
    Severity,
    miscounted,
    schema_findings,
)
from hotreload.queue.postgres.connection import Connection, connect, not_opened, one, place, rolled_back, run
from hotreload.queue.postgres.schema import applied, migrate, steps

ENGINE: Final = "postgresql"
SILENT_S: Final = 60.0
OLDEST_SERVER: Final = 130_000
_MADE: Final = re.compile(r"^(CREATE|DROP) (?:UNIQUE )?(TABLE|INDEX|SEQUENCE) (hotreload_\w+)", re.MULTILINE)
_QUEUES: Final = f"SELECT name, {', '.join(COUNTED)}, paused FROM hotreload_queues ORDER BY name"
_NODES: Final = """
SELECT name, owner, extract(epoch FROM clock_timestamp() - seen_at)::float8,
    (SELECT count(*) FROM hotreload_jobs WHERE state = 'running' AND node = name)
FROM hotreload_nodes ORDER BY name
"""
_ROWS: Final = """
SELECT queue, replace(state, 'cancelled', 'done') AS counted, count(*) FROM hotreload_jobs GROUP BY queue, counted
"""
_OURS: Final = """
FROM pg_class WHERE relnamespace = quote_ident(current_schema())::regnamespace AND starts_with(relname, 'hotreload_')
"""
_SIZE: Final = f"SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint {_OURS} AND relkind = 'r'"
_THERE: Final = f"SELECT relname, relkind {_OURS} AND relkind IN ('r', 'i', 'S')"
_INVALID: Final = """
SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
WHERE NOT indisvalid
    AND relnamespace = quote_ident(current_schema())::regnamespace AND starts_with(relname, 'hotreload_')
"""
_PRIVILEGES: Final = f"""
SELECT relname, wanted FROM (SELECT oid, relname, relkind {_OURS} AND relkind IN ('r', 'S')) AS ours,
    unnest(CASE WHEN relkind = 'S' THEN '{{USAGE}}'::text[] WHEN relname = 'hotreload_schema' THEN '{{SELECT}}'::text[]
        ELSE '{{SELECT,INSERT,UPDATE,DELETE}}'::text[] END) AS wanted
WHERE NOT CASE WHEN relkind = 'S' THEN has_sequence_privilege(oid, wanted) ELSE has_table_privilege(oid, wanted) END
ORDER BY relname, wanted
"""
_KINDS: Final = {"TABLE": "r", "INDEX": "i", "SEQUENCE": "S"}


def inspect(dsn: str, *, check: bool) -> Inspection:
    """Return what is in the database; with `check` also what is wrong with it, for which all jobs are counted.

    Changes nothing, and services may run meanwhile. StoreUnavailable where it cannot be reached or read.
    """
    with _opened(dsn) as connection:
        run(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        has, needs = applied(connection), steps()[-1].version
        lacking = _lacking(connection) if check and has else []
        reads = has and not any("SELECT" in each.right for each in lacking)
        queues = [QueueRows(*row) for row in run(connection, _QUEUES)] if reads else []
        nodes = [_node(*row) for row in run(connection, _NODES)] if reads else []
        found = Inspection(
            engine=ENGINE,
            place=_named(connection, dsn),
            schema=has,
            needs=needs,
            size_bytes=one(connection, _SIZE),
            queues=queues,
            nodes=nodes,
            server=one(connection, "SHOW server_version"),
            role=one(connection, "SELECT current_user::text"),
            findings=_findings(connection, has, needs, queues, nodes, lacking) if check else None,
        )
        rolled_back(connection)
        return found


def migrate_store(dsn: str) -> Migrated:
    """Bring the schema to the newest version in one transaction; a second call does nothing.

    Services of the version before may run meanwhile. The role needs CREATE in the schema, and to own the tables there
    are. StoreUnavailable where it may not, where the database cannot be reached or a newer release wrote it.
    """
    with _opened(dsn) as connection:
        before = applied(connection)
        return Migrated(ENGINE, _named(connection, dsn), before, migrate(connection))


@contextmanager
def _opened(dsn: str) -> Generator[Connection]:
    where = place(dsn)
    try:
        connection = connect(dsn)
        try:
            yield connection
        finally:
            connection.close()
    except psycopg.Error as error:
        raise not_opened(error, where) from error


def _named(connection: Connection, dsn: str) -> str:
    schema = one(connection, "SELECT current_schema()")
    if schema is None:
        right = "GRANT USAGE ON SCHEMA … TO its role, and name the schema in the role's search_path"
        raise StoreUnavailable(f"{place(dsn)}: the role may use no schema of its search_path: {right}")
    return f"{place(dsn).removeprefix('postgresql ')}, schema {schema}"


def _node(name: str, owner: str, seen_s: float, running: int) -> NodeSeen:
    said: dict[str, Any] = json.loads(owner or "{}")
    return NodeSeen(name, said.get("pid"), said.get("host"), round(seen_s, 1), running)


def _findings(
    connection: Connection,
    has: int,
    needs: int,
    queues: Sequence[QueueRows],
    nodes: Sequence[NodeSeen],
    lacking: Sequence[Finding],
) -> list[Finding]:
    found = [*schema_findings(has, needs), *_server(connection), *_silent(nodes), *lacking]
    if has == needs:
        found += _missing(connection)
    if any(each.severity is Severity.ERROR for each in found):
        return found
    counted = Counter({(queue, state): count for queue, state, count in run(connection, _ROWS)})
    return [*found, *miscounted(counted, queues)]


def _silent(nodes: Sequence[NodeSeen]) -> list[Finding]:
    """Name the nodes that are gone and whose jobs no other node has taken over."""
    right = "they go back to the queue at its next start, or when another node runs"
    gone = [(node.name, node.seen_s, node.running) for node in nodes if node.running and node.seen_s > SILENT_S]
    said = [f"node {name} was not seen for {seen_s:,.0f} s, {jobs:,} jobs run under it" for name, seen_s, jobs in gone]
    return [Finding(Severity.NOTE, what, right) for what in said]


def _server(connection: Connection) -> list[Finding]:
    found: list[Finding] = []
    if connection.info.server_version < OLDEST_SERVER:
        found.append(Finding(Severity.ERROR, "the server is older than PostgreSQL 13", "upgrade the server"))
    for name, loses in (("fsync", Severity.ERROR), ("full_page_writes", Severity.ERROR), ("autovacuum", Severity.NOTE)):
        if one(connection, f"SHOW {name}") == "off":
            means = (
                "a power cut may lose acknowledged jobs" if loses is Severity.ERROR else "tables and claims get slow"
            )
            found.append(Finding(loses, f"{name} is off on the server: {means}", f"{name} = on in postgresql.conf"))
    return found


def _missing(connection: Connection) -> list[Finding]:
    """Compare with what the steps of the schema make."""
    wanted: set[tuple[str, str]] = set()
    for step in steps():
        for verb, kind, name in _MADE.findall(step.sql):
            (wanted.add if verb == "CREATE" else wanted.discard)((name, kind))
    there = set(run(connection, _THERE).fetchall())
    invalid = [name for (name,) in run(connection, _INVALID)]
    return [
        *(
            Finding(
                Severity.ERROR,
                f"the {kind.lower()} {name} is missing",
                "restore it from a dump, or begin in an empty schema",
            )
            for name, kind in sorted(wanted)
            if (name, _KINDS[kind]) not in there
        ),
        *(Finding(Severity.ERROR, f"the index {name} is not valid", f"REINDEX INDEX {name}") for name in invalid),
    ]


def _lacking(connection: Connection) -> list[Finding]:
    role = one(connection, "SELECT quote_ident(current_user)")
    return [
        Finding(
            Severity.ERROR,
            f"role {role} lacks {privilege} on {name}",
            f"GRANT {privilege} ON {'SEQUENCE ' if privilege == 'USAGE' else ''}{name} TO {role}",
        )
        for name, privilege in run(connection, _PRIVILEGES)
    ]
