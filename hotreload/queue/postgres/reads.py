"""The reading beside the writer, on a connection of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

import psycopg

from hotreload.queue.postgres.connection import Connection, as_error, connect, place, rolled_back, run

R = TypeVar("R")

CLOSE_WITHIN_S: Final = 1.0


class Reader:
    """A connection for reading, opened when first asked; calls from several threads take turns."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self._turn = threading.Lock()
        self._connection: Connection | None = None

    def read(self, query: Callable[[Connection], R]) -> R:
        """Run a query on one view of the database and return its result.

        StoreUnavailable where it cannot be read, ValueError for SQL that does not only read. A connection that was
        lost since the last call is opened again.
        """
        with self._turn:
            if self._connection is not None:
                with suppress(psycopg.OperationalError):
                    return self._read(self._connection, query)
                self._drop()
            try:
                self._connection = connect(self.dsn)
                return self._read(self._connection, query)
            except psycopg.Error as error:
                self._drop()
                raise as_error(error, place(self.dsn)) from error

    @staticmethod
    def _read(connection: Connection, query: Callable[[Connection], R]) -> R:
        run(connection, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        try:
            return query(connection)
        except psycopg.errors.ReadOnlySqlTransaction as error:
            raise ValueError(f"not for a function that reads the store: {error}") from error
        finally:
            rolled_back(connection)

    def close(self) -> None:
        """Close, and end what is read meanwhile; the next read opens it again."""
        connection = self._connection
        if connection is not None and self._turn.locked():
            with suppress(psycopg.Error):
                connection.cancel_safe(timeout=CLOSE_WITHIN_S)
        if self._turn.acquire(timeout=CLOSE_WITHIN_S):
            self._drop()
            self._turn.release()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
