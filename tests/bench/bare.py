"""The least that a durable queue on SQLite must do, to measure ours beside it: no fencing, no retries, no metrics.

Each measure is given the path of a new store and returns what `tests.bench.pool` returns of the same name.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio

BareMeasure = Callable[[Path], Awaitable[float]]
PAYLOAD = json.dumps({"n": 1})
SCHEMA = """
CREATE TABLE jobs (id INTEGER PRIMARY KEY, state TEXT NOT NULL, payload TEXT NOT NULL, cursor TEXT);
CREATE INDEX ready ON jobs (id) WHERE state = 'ready';
"""
CLAIM = """
UPDATE jobs SET state = 'running'
WHERE id IN (SELECT id FROM jobs WHERE state = 'ready' ORDER BY id LIMIT ?) RETURNING id, payload
"""


def store_of(path: Path, count: int, state: str) -> sqlite3.Connection:
    """Make a store with `count` jobs in it."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; {SCHEMA}")
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO jobs (state, payload) VALUES (?, ?)", [(state, PAYLOAD)] * count)
    connection.execute("COMMIT")
    return connection


def _turn(connection: sqlite3.Connection, limit: int, ended: Sequence[int]) -> list[tuple[int, str]]:
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany("UPDATE jobs SET state = 'done' WHERE id = ?", [(job_id,) for job_id in ended])
    rows = connection.execute(CLAIM, (limit,)).fetchall()
    connection.execute("COMMIT")
    return rows


def noop_jobs(limit: int, count: int = 10_000) -> BareMeasure:
    """Measure no-op jobs, a task each: one transaction a turn ends what ran and claims `limit`; jobs/s."""

    async def noop(payload: Any) -> None:
        assert payload

    async def run(path: Path) -> float:
        connection = store_of(path, count, "ready")
        began = time.perf_counter()
        rows = await asyncio.to_thread(_turn, connection, limit, [])
        while rows:
            await asyncio.gather(*(noop(json.loads(payload)) for _, payload in rows))
            rows = await asyncio.to_thread(_turn, connection, limit, [job_id for job_id, _ in rows])
        took_s = time.perf_counter() - began
        connection.close()
        return count / took_s

    return run


def _put_back(connection: sqlite3.Connection, count: int, cursor: str | None) -> None:
    connection.execute("BEGIN IMMEDIATE")
    rows = ((cursor, job_id) for job_id in range(1, count + 1))
    connection.executemany("UPDATE jobs SET state = 'ready', cursor = ? WHERE id = ?", rows)
    connection.execute("COMMIT")


def put_back(cursor: Any, count: int = 10_000) -> BareMeasure:
    """Measure the end of `count` sleeping jobs: all cancelled by one scope, back in one transaction; ms."""

    async def run(path: Path) -> float:
        connection = store_of(path, count, "running")
        tasks = await anyio.create_task_group().__aenter__()
        for _ in range(count):
            tasks.start_soon(anyio.sleep_forever)
        await asyncio.sleep(0)
        began = time.perf_counter()
        tasks.cancel_scope.cancel()
        await tasks.__aexit__(None, None, None)
        await asyncio.to_thread(_put_back, connection, count, None if cursor is None else json.dumps(cursor))
        took_ms = (time.perf_counter() - began) * 1_000
        connection.close()
        return took_ms

    return run
