"""A connection whose statements go to the server together, in one trip: libpq's pipeline mode.

A statement whose answer is not needed at once waits for the next one that is asked for its answer; the server skips
what follows one that failed, up to the end of the trip. Statements are prepared when first used, but not behind a
pooler, where the next transaction may be on another server connection. Values go and come as texts.
"""

from __future__ import annotations

import re
import select
from collections.abc import Callable, Sequence
from functools import cache
from itertools import count
from typing import Any, Final, NamedTuple

import psycopg
from psycopg.adapt import Transformer
from psycopg.pq import ConnStatus, ExecStatus
from psycopg.pq.abc import PGresult

PREPARED_MOST: Final = 200
"""Statements beyond so many are not prepared."""


class Answer(NamedTuple):
    """What the server said to a statement: its rows, how many it returned or changed, the tag of the command."""

    rows: list[tuple[Any, ...]]
    changed: int
    tag: str


class _Asked(NamedTuple):
    sql: bytes
    given: Sequence[bytes | None]
    refused: Exception | None
    then: Callable[[Answer], None] | None


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection of the store. One thread at a time; what psycopg itself runs on it does not send what waits."""

    pooled = False
    """Whether a pooler is between here and the server, so that nothing but a transaction stays on one session."""
    guards = False
    """Whether a user's function has it: what it closed would end the transaction of all callers."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._waiting: list[_Asked] = []
        self._behind: list[_Asked] = []
        self._name_of: dict[bytes, bytes] = {}
        self._numbers = count()
        self._poll = select.poll()
        self._rows_of = Transformer(self)

    def close(self) -> None:
        """Close it; ValueError within a user's function."""
        if self.guards:
            raise ValueError("the connection is the store's, and stays open after the function")
        super().close()

    def later(
        self,
        sql: str,
        given: Sequence[Any] = (),
        *,
        refused: Exception | None = None,
        then: Callable[[Answer], None] | None = None,
    ) -> None:
        """Run a statement with the next trip, and call `then` with its answer.

        `refused` is raised where the statement divides by zero: a condition was not met.
        """
        self._waiting.append(_asked(sql, given, refused, then))

    def behind(self, sql: str, given: Sequence[Any], then: Callable[[Answer], None]) -> None:
        """As `later`, right behind the statement that is asked for its answer next."""
        self._behind.append(_asked(sql, given, None, then))

    def ask(self, sql: str, given: Sequence[Any] = ()) -> Answer:
        """Run what waits and then a statement; its answer, or the error of the first that failed."""
        self.later(sql, given)
        place = len(self._waiting) - 1
        self._waiting += self._behind
        self._behind = []
        return self.answers()[place]

    def answers(self) -> list[Answer]:
        """Run what waits, in one trip, and return the answer to each; the error of the first that failed."""
        asked, self._waiting = self._waiting, []
        if not asked:
            return []
        found: list[Answer] = []
        for one, result in zip(asked, self._trip(asked), strict=True):
            if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
                raise self._error(one, result)
            answer = self._answer(result)
            found.append(answer)
            if one.then is not None:
                one.then(answer)
        return found

    def forget(self) -> None:
        """Drop what waits: the transaction it belongs to is rolled back."""
        self._waiting, self._behind = [], []

    def _trip(self, asked: Sequence[_Asked]) -> list[PGresult]:
        """Send statements and return one result for each, a failed preparation in place of its statement."""
        try:
            self.pgconn.enter_pipeline_mode()
            new = [self._send(one) for one in asked]
            self.pgconn.pipeline_sync()
            results = iter(self._results())
            self.pgconn.exit_pipeline_mode()
        except BaseException:
            self.close()
            raise
        found: list[PGresult] = []
        for one, name in zip(asked, new, strict=True):
            result = next(results)
            if name is not None:
                prepared, result = result, next(results)
                if prepared.status == ExecStatus.COMMAND_OK:
                    self._name_of[one.sql] = name
                else:
                    result = prepared
            found.append(result)
        return found

    def _send(self, asked: _Asked) -> bytes | None:
        """Put a statement into the pipeline; the name under which it is prepared in this trip, None where it is not."""
        sql, given, *_ = asked
        if not given or self.pooled or (sql not in self._name_of and len(self._name_of) >= PREPARED_MOST):
            self.pgconn.send_query_params(sql, given)
            return None
        name = self._name_of.get(sql)
        if name is not None:
            self.pgconn.send_query_prepared(name, given)
            return None
        name = f"hotreload_{next(self._numbers)}".encode()
        self.pgconn.send_prepare(name, sql)
        self.pgconn.send_query_prepared(name, given)
        return name

    def _results(self) -> list[PGresult]:
        """Return all results of the trip; psycopg.OperationalError where the connection is lost."""
        pgconn, found = self.pgconn, list[PGresult]()
        self._poll.register(pgconn.socket, select.POLLIN)
        while pgconn.flush():
            self._poll.register(pgconn.socket, select.POLLIN | select.POLLOUT)
            self._poll.poll()
            pgconn.consume_input()
        self._poll.register(pgconn.socket, select.POLLIN)
        while True:
            while pgconn.is_busy():
                self._poll.poll()
                pgconn.consume_input()
            result = pgconn.get_result()
            if pgconn.status == ConnStatus.BAD:
                raise psycopg.OperationalError(pgconn.get_error_message())
            if result is None:
                continue
            if result.status == ExecStatus.PIPELINE_SYNC:
                return found
            found.append(result)

    def _error(self, asked: _Asked, result: PGresult) -> Exception:
        error = psycopg.errors.error_from_result(result, encoding=self.info.encoding)
        if asked.refused is not None and isinstance(error, psycopg.errors.DivisionByZero):
            return asked.refused
        if isinstance(error, psycopg.errors.InvalidSqlStatementName):
            self.close()  # a function of a user removed what was prepared: begin with another connection
        return error

    def _answer(self, result: PGresult) -> Answer:
        rows: list[tuple[Any, ...]] = []
        if result.ntuples:
            self._rows_of.set_pgresult(result)
            rows = self._rows_of.load_rows(0, result.ntuples, tuple)
        return Answer(rows, result.command_tuples or 0, (result.command_status or b"").decode())


def _asked(sql: str, given: Sequence[Any], refused: Exception | None, then: Callable[[Answer], None] | None) -> _Asked:
    return _Asked(_numbered(sql), [_text(value) for value in given], refused, then)


@cache
def _numbered(sql: str) -> bytes:
    """Return a statement with the server's names of its bindings: `$1` in place of the first `%s`."""
    numbers = count(1)
    return re.sub("%s", lambda _: f"${next(numbers)}", sql).encode()


def _text(value: str | int | Sequence[Any] | None) -> bytes | None:
    """Return a binding as the server reads it; psycopg.DataError for NUL, at which it would end unnoticed."""
    if value is None:
        return None
    text = (value if isinstance(value, str) else array(value) if isinstance(value, list) else str(value)).encode()
    if b"\0" in text:
        raise psycopg.DataError("a text in PostgreSQL cannot contain NUL")
    return text


def array(values: list[Any]) -> str:
    """Return values as the text of an array."""
    if values and type(values[0]) is int and None not in values:
        return "{" + str(values)[1:-1] + "}"
    return "{" + ",".join([_element(value) for value in values]) + "}"


def _element(value: str | int | None) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value)
