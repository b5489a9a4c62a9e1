"""A user's function inside the store's own transaction."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeVar, cast

import apsw

R = TypeVar("R")

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


class Authorizer:
    """Asked by SQLite for each statement it prepares, whatever its text looks like; refuses while `guards`."""

    def __init__(self) -> None:
        self.guards = False
        self.refused: str | None = None

    def __call__(self, operation: int, one: str | None, two: str | None, _db: str | None, _by: str | None) -> int:
        """Answer for one operation."""
        if self.guards and _forbidden(operation, one or "", two or ""):
            self.refused = f"{apsw.mapping_authorizer_function[operation]} {one or ''}"
            return apsw.SQLITE_DENY
        return apsw.SQLITE_OK


def _forbidden(operation: int, one: str, two: str) -> bool:
    if operation == apsw.SQLITE_SAVEPOINT:
        return two.lower().startswith("hotreload")
    if operation == apsw.SQLITE_PRAGMA:
        return one.lower() not in _READS
    return operation in (apsw.SQLITE_TRANSACTION, apsw.SQLITE_ATTACH, apsw.SQLITE_DETACH)


def install(connection: apsw.Connection) -> None:
    """Put an authorizer on a new connection: setting one later would have every statement prepared anew."""
    connection.authorizer = Authorizer()


def run_guarded(connection: apsw.Connection, function: Callable[[apsw.Connection], R]) -> R:
    """Call `function(connection)`; ValueError for SQL that would reach beyond its own rows.

    That is what ends the transaction of everyone else, attaches a database, or changes how the store is kept.
    Savepoints of its own are welcome.
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
        raise ValueError(f"{authorizer.refused}: not for a function inside the store's transaction") from error
    finally:
        authorizer.guards = False
        connection.exec_trace = before
    if not connection.in_transaction:
        raise ValueError("the function ended the transaction that it was called in")
    return found


def _refuse(_cursor: apsw.Cursor, sql: str, _bindings: object) -> bool:
    """Refuse the texts that the store itself runs: those are prepared already, the authorizer is not asked again."""
    if _ENDS.match(sql):
        raise ValueError(f"{sql.strip()!r}: the transaction is the store's; use a SAVEPOINT for a part of it")
    return True
