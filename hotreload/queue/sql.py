"""The one place where SQL meets apsw, whose stubs name a type that Python 3.11 does not have."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol, cast

import apsw

Binding = str | int | None


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


@contextmanager
def atomically(connection: apsw.Connection) -> Generator[None]:
    """Make what follows one transaction, or a savepoint inside of one; an error undoes it and goes on."""
    with connection:
        yield
