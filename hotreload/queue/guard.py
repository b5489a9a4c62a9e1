"""A user's function inside the store's own transaction."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeVar

import apsw

R = TypeVar("R")

_ENDS: Final = re.compile(r"\s*(BEGIN|COMMIT|END|ROLLBACK(?!\s+(TRANSACTION\s+)?TO\b))\b", re.IGNORECASE)


def run_guarded(connection: apsw.Connection, function: Callable[[apsw.Connection], R]) -> R:
    """Call `function(connection)`; SQL that would end the transaction of everyone else is refused with ValueError.

    Savepoints of its own are welcome.
    """
    before: apsw.ExecTracer | None = connection.exec_trace  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    connection.exec_trace = _refuse
    try:
        return function(connection)
    finally:
        connection.exec_trace = before


def _refuse(_cursor: apsw.Cursor, sql: str, _bindings: object) -> bool:
    if _ENDS.match(sql):
        raise ValueError(f"{sql.strip()!r}: the transaction is the store's; use a SAVEPOINT for a part of it")
    return True
