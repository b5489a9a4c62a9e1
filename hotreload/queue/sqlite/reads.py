"""What is read beside the writer, never through it: pages of jobs, one job whole, documents, look-ups by key and id."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import apsw

from hotreload.queue.contract import Document, Duplicate, JobEvent, JobView
from hotreload.queue.job import JobState, from_json
from hotreload.queue.sqlite.connection import (
    WAITS_FOR_A_LOCK_MS,
    Authorizer,
    Binding,
    Connect,
    as_error,
    run,
    run_guarded,
)
from hotreload.queue.sqlite.statements import PAYLOAD, number, numbers

R = TypeVar("R")

NAMED: Final = 1_000
"""Dead jobs told by name."""
_SHOWN: Final = (
    "id, queue, state, priority, run_at_ms, lease_seq, attempts, max_attempts, interruptions, crashes, suspect, "
    "version, enqueued_at_ms, ended_at_ms, dedupe_key, reason"
)
_TEXTS: Final = 16
_ACTIVE: Final = """
SELECT dedupe_key, id, state FROM hotreload_jobs
WHERE queue = ? AND state IN ('ready', 'scheduled', 'running') AND dedupe_key IN (SELECT value FROM json_each(?))
"""
_ENDED: Final = """
SELECT dedupe_key, max(id), state FROM hotreload_jobs
WHERE queue = ? AND state IN ('done', 'dead', 'cancelled') AND (state = 'dead' OR state = 'done' AND ended_at_ms >= ?)
    AND dedupe_key IN (SELECT value FROM json_each(?))
GROUP BY dedupe_key
"""
_STATES: Final = """
SELECT state, count(*) FROM json_each(?) AS range CROSS JOIN hotreload_jobs
WHERE hotreload_jobs.id BETWEEN range.value ->> 0 AND range.value ->> 1 GROUP BY state
"""
_DEAD: Final = """
SELECT coalesce(dedupe_key, hotreload_jobs.id), coalesce(reason, '')
FROM json_each(?) AS range CROSS JOIN hotreload_jobs
WHERE hotreload_jobs.id BETWEEN range.value ->> 0 AND range.value ->> 1 AND state = 'dead' LIMIT ?
"""
_QUEUES: Final = """
SELECT queue, count(*) FROM hotreload_jobs WHERE id IN (SELECT value FROM json_each(?)) GROUP BY queue
"""
_STEPS: Final = "SELECT name, result FROM hotreload_steps WHERE job = ?"
_HISTORY: Final = "SELECT at_ms, event, reason FROM hotreload_history WHERE job = ? ORDER BY number"
_DOCUMENTS: Final = "SELECT kind, id, at_ms, body FROM hotreload_documents WHERE kind = ? ORDER BY seq DESC LIMIT ?"


class Reader:
    """A read-only connection, opened when first asked; calls from several threads take turns."""

    def __init__(self, path: Path, opens: Connect) -> None:
        self._path = path
        self._opens = opens
        self._turn = threading.Lock()
        self._connection: apsw.Connection | None = None

    def read(self, query: Callable[[apsw.Connection], R]) -> R:
        """Run a query and return its result; StoreUnavailable where the store cannot be read."""
        with self._turn:
            try:
                return query(self._open())
            except apsw.Error as error:
                self._drop()
                raise as_error(error, self._path) from error

    def read_guarded(self, query: Callable[[apsw.Connection], R]) -> R:
        """As `read` for a user's function; ValueError for SQL that does not only read."""
        return self.read(lambda connection: run_guarded(connection, query, inside=False))

    def close(self) -> None:
        """Close, and end what is read meanwhile; the next read opens it again."""
        connection = self._connection
        if connection is not None:
            connection.interrupt()
        with self._turn:
            self._drop()

    def _open(self) -> apsw.Connection:
        if self._connection is None:
            self._connection = self._opens(str(self._path))
            self._connection.set_busy_timeout(WAITS_FOR_A_LOCK_MS)
            self._connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
            run(self._connection, "PRAGMA query_only = ON; PRAGMA mmap_size = 0").fetchall()
            self._connection.authorizer = Authorizer(reads=True)
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close(True)

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
        if state is JobState.DEAD or state is JobState.RUNNING:
            # a partial index is for a query that says its condition
            table += f" INDEXED BY hotreload_jobs_{state.value}"
            where += f" AND state = '{state.value}'"
        sql = f"SELECT {_SHOWN} FROM {table}{where} ORDER BY id DESC LIMIT ?"
        bindings = [*(value for _, value in asked), limit]
        return [_view(row) for row in self.read(lambda connection: run(connection, sql, bindings).fetchall())]

    def job(self, job_id: str) -> JobView | None:
        """Return one job with everything, the results of steps in its cursor; None where there is none of that id."""
        sql = f"SELECT {_SHOWN}, {PAYLOAD}, cursor, result, traceback FROM hotreload_jobs WHERE id = ?"

        def found(connection: apsw.Connection) -> JobView | None:
            row = run(connection, sql, (number(job_id),)).fetchone()
            steps = run(connection, _STEPS, (number(job_id),)).fetchall()
            if row is None:
                return None
            history = [JobEvent(*event) for event in run(connection, _HISTORY, (row[0],))]
            return replace(_view(row, {name: from_json(result) for name, result in steps}), history=history)

        return self.read(found)

    def documents(self, kind: str, newest: int) -> Sequence[Document]:
        """Return up to `newest` documents of a kind, the one put last first."""
        rows = self.read(lambda connection: run(connection, _DOCUMENTS, (kind, newest)).fetchall())
        return [Document(*row[:3], body=from_json(row[3])) for row in rows]

    def duplicates(self, queue: str, keys: Sequence[str], since_ms: int) -> Mapping[str, Duplicate]:
        """Return the keys that have an active or dead job, or one that was done at `since_ms` or later."""
        asked = json.dumps(keys)

        def found(connection: apsw.Connection) -> Mapping[str, Duplicate]:
            ended = run(connection, _ENDED, (queue, since_ms, asked)).fetchall()
            active = run(connection, _ACTIVE, (queue, asked)).fetchall()
            return {key: Duplicate(str(job_id), JobState(state)) for key, job_id, state in [*ended, *active]}

        return self.read(found)

    def pending(self, ranges: Sequence[tuple[int, int]]) -> tuple[int, int, Mapping[str, str]]:
        """Return of the jobs in these ranges of ids: how many are unfinished, how many there are, the dead and why."""
        asked = json.dumps(ranges)

        def found(connection: apsw.Connection) -> tuple[int, int, Mapping[str, str]]:
            states = dict(run(connection, _STATES, (asked,)).fetchall())
            dead = dict(run(connection, _DEAD, (asked, NAMED)).fetchall()) if states.get("dead") else {}
            unfinished = sum(states.get(state, 0) for state in ("ready", "scheduled", "running"))
            return unfinished, sum(states.values()), dead

        return self.read(found)

    def queues_of(self, ids: Sequence[str]) -> Mapping[str, int]:
        """Return how many of these jobs each queue has."""
        return dict(self.read(lambda connection: run(connection, _QUEUES, (numbers(ids),)).fetchall()))


def _view(row: Sequence[Any], steps: Mapping[str, Any] | None = None) -> JobView:
    shown = list(row)
    shown[0], shown[2], shown[10] = str(shown[0]), JobState(shown[2]), bool(shown[10])
    for place in range(_TEXTS, len(shown) - 1):
        shown[place] = from_json(shown[place])
    if steps:
        cursor = shown[_TEXTS + 1]
        shown[_TEXTS + 1] = {**(cursor if isinstance(cursor, dict) else {}), "steps": steps}
    return JobView(*shown)
