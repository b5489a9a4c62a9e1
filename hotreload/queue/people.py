"""The queue as people look at it: pages of jobs, one job whole, documents; read beside the writer, never through it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import apsw

from hotreload.queue.database import WAITS_FOR_A_LOCK_MS, Connect, as_error
from hotreload.queue.job import JobState
from hotreload.queue.rows import from_json
from hotreload.queue.sql import Binding, run

R = TypeVar("R")

_SHOWN: Final = (
    "id, queue, state, priority, run_at_ms, lease_seq, attempts, max_attempts, interruptions, crashes, suspect, "
    "version, enqueued_at_ms, ended_at_ms, dedupe_key, reason, payload, cursor, result, traceback"
)
_TEXTS: Final = 16


@dataclass(frozen=True, slots=True)
class JobView:
    """One job as it is shown. Times are Unix ms; `ended_at_ms` is None until it is done or dead.

    `payload`, `cursor` and `result` are JSON values, `reason` and `traceback` those of the last failure. In a
    page (`jobs`) payload, cursor, result and traceback are left out (None).
    """

    id: str
    queue: str
    state: JobState
    priority: int
    run_at_ms: int
    lease_seq: int
    attempts: int
    max_attempts: int
    interruptions: int
    crashes: int
    suspect: bool
    version: int
    enqueued_at_ms: int
    ended_at_ms: int | None
    dedupe_key: str | None
    reason: str | None
    payload: Any = None
    cursor: Any = None
    result: Any = None
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON value kept under a kind and an id, `at_ms` when it was put."""

    kind: str
    id: str
    at_ms: int
    body: Any


class Reader:
    """A second, read-only connection, opened when first asked; calls from several threads take turns."""

    def __init__(self, path: Path, opens: Connect) -> None:
        self._path = path
        self._opens = opens
        self._turn = threading.Lock()
        self._connection: apsw.Connection | None = None

    def page(self, queue: str | None, state: JobState | None, limit: int, before: str | None) -> Sequence[JobView]:
        """Return up to `limit` jobs, newest first, those before the id `before`."""
        wanted: list[tuple[str, Binding]] = [
            ("queue = ?", queue),
            ("state = ?", state),
            ("id < ?", None if before is None else number(before)),
        ]
        asked = [(clause, value) for clause, value in wanted if value is not None]
        where = f" WHERE {' AND '.join(clause for clause, _ in asked)}" if asked else ""
        table = "hotreload_jobs"
        if state is JobState.DEAD:  # a partial index is for a query that says its condition
            table += " INDEXED BY hotreload_jobs_dead"
            where += " AND state = 'dead'"
        sql = f"SELECT {_SHOWN} FROM {table}{where} ORDER BY id DESC LIMIT ?"
        bindings = [*(value for _, value in asked), limit]
        rows = self.read(lambda connection: run(connection, sql, bindings).fetchall())
        return [_view(row[:_TEXTS]) for row in rows]

    def job(self, job_id: str) -> JobView | None:
        """Return one job with everything, None where there is none of that id."""
        sql = f"SELECT {_SHOWN} FROM hotreload_jobs WHERE id = ?"
        row = self.read(lambda connection: run(connection, sql, (number(job_id),)).fetchone())
        return None if row is None else _view(row)

    def documents(self, kind: str, newest: int) -> Sequence[Document]:
        """Return up to `newest` documents of a kind, the one put last first."""
        sql = "SELECT kind, id, at_ms, body FROM hotreload_documents WHERE kind = ? ORDER BY seq DESC LIMIT ?"
        rows = self.read(lambda connection: run(connection, sql, (kind, newest)).fetchall())
        return [Document(*row[:3], body=from_json(row[3])) for row in rows]

    def read(self, query: Callable[[apsw.Connection], R]) -> R:
        """Run a query and return its result; StoreUnavailable where the store cannot be read."""
        with self._turn:
            try:
                return query(self._open())
            except apsw.Error as error:
                self._drop()
                raise as_error(error, self._path) from error

    def _open(self) -> apsw.Connection:
        if self._connection is None:
            self._connection = self._opens(str(self._path))
            self._connection.set_busy_timeout(WAITS_FOR_A_LOCK_MS)
            self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            run(self._connection, "PRAGMA query_only = ON; PRAGMA mmap_size = 0").fetchall()
        return self._connection

    def close(self) -> None:
        """Close; the next read opens anew."""
        with self._turn:
            self._drop()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close(True)


def number(job_id: str) -> int:
    """Return the number an id stands for, -1 (which no job has) for a text that is no id."""
    return int(job_id) if job_id.isascii() and job_id.isdigit() and len(job_id) < 19 else -1


def _view(row: Sequence[Any]) -> JobView:
    told = list(row)
    told[0], told[2], told[10] = str(told[0]), JobState(told[2]), bool(told[10])
    for place in range(_TEXTS, len(told) - 1):
        told[place] = from_json(told[place])
    return JobView(*told)
