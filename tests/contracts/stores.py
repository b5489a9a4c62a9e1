"""What the tests of the store share: a clock set by hand, the engines, the check that the counters tell the truth."""

from __future__ import annotations

import atexit
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2s
from pathlib import Path
from typing import Any, Final, Protocol

import apsw
import psycopg

from hotreload.queue.job import Backoff, JobRow, NewJob
from hotreload.queue.postgres import PostgresQueue
from hotreload.queue.sqlite import SqliteQueue

from .postgres import Server

NOW_MS = 1_800_000_000_000
COUNTED: Final = ("ready", "scheduled", "running", "done", "dead")


@dataclass
class HandClock:
    """Unix ms as the test says."""

    now_ms: int = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


class Engine(Protocol):
    """What a test needs of an engine beside its verbs; `path` stands for one store."""

    def open(self, path: Path, **options: Any) -> Any:
        """Own the store, as the start of a service does."""
        ...

    def abandon(self, queue: Any) -> None:
        """End the owner without a word to its running jobs, as a kill does."""
        ...

    def has_table(self, connection: Any, name: str) -> bool:
        """Say whether there is a table of that name."""
        ...

    def sound(self, path: Path) -> bool:
        """Say whether the closed store agrees with itself."""
        ...


class Sqlite:
    """The engine on SQLite."""

    def open(self, path: Path, **options: Any) -> SqliteQueue:
        """See `Engine`."""
        return SqliteQueue.open(path, **options)

    def abandon(self, queue: SqliteQueue) -> None:
        """See `Engine`."""
        queue.engine.reader.close()
        assert queue.engine.inbox.close(5)
        queue.engine.files.release()

    def has_table(self, connection: apsw.Connection, name: str) -> bool:
        """See `Engine`."""
        return connection.table_exists("main", name)

    def sound(self, path: Path) -> bool:
        """See `Engine`."""
        return counters_agree(path)


class Postgres:
    """The engine on PostgreSQL: one server for all tests of a process, a schema for each store."""

    @cached_property
    def server(self) -> Server:
        """The server, started when first asked for."""
        server = Server()
        atexit.register(server.remove)
        return server

    def address(self, path: Path) -> str:
        """Return the address of the schema that stands for `path`."""
        return self.server.schema("t" + blake2s(str(path).encode(), digest_size=16).hexdigest())

    def open(self, path: Path, **options: Any) -> PostgresQueue:
        """See `Engine`."""
        return PostgresQueue.open(self.address(path), **options)

    def abandon(self, queue: PostgresQueue) -> None:
        """See `Engine`."""
        queue.engine.listener.close()
        assert queue.engine.inbox.close(5)

    def has_table(self, connection: psycopg.Connection, name: str) -> bool:
        """See `Engine`."""
        return connection.execute("SELECT to_regclass(%s)", (name,)).fetchone() != (None,)

    def sound(self, path: Path) -> bool:
        """See `Engine`."""
        with psycopg.connect(self.address(path)) as connection:
            kept = connection.execute(f"SELECT name, {', '.join(COUNTED)}, suspects FROM hotreload_queues").fetchall()
            rows = connection.execute("SELECT queue, replace(state, 'cancelled', 'done'), suspect FROM hotreload_jobs")
            jobs = rows.fetchall()
        counted = Counter((queue, state) for queue, state, _ in jobs)
        suspects = Counter(queue for queue, _, suspect in jobs if suspect)
        return {queue for queue, *_ in jobs} <= {name for name, *_ in kept} and all(
            numbers == [*(counted[name, state] for state in COUNTED), suspects[name]] for name, *numbers in kept
        )


ENGINES: Final[dict[str, Engine]] = {"sqlite": Sqlite(), "postgres": Postgres()}


@dataclass
class Store:
    """One store of an engine: opened, closed, opened again."""

    engine: Engine
    path: Path
    clock: HandClock
    opened: Any = None

    def open(self, **options: Any) -> Any:
        """Open the store, as the start of a service does."""
        options = {"now_ms": self.clock, "jitter": lambda: 0.0, "backoff": Backoff(first_s=2)} | options
        self.opened = self.engine.open(self.path, **options)
        return self.opened

    def crash(self, **options: Any) -> Any:
        """End the owner without a word to its running jobs, and open the store again."""
        self.engine.abandon(self.opened)
        return self.open(**options)


def counters_agree(path: Path) -> bool:
    """Compare the counters of every queue with a count over the rows, and the file with SQLite's own check."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        counted = Counter(
            {
                (queue, state): count
                for queue, state, count in connection.execute(
                    "SELECT queue, iif(state = 'cancelled', 'done', state) AS ended, count(*) FROM hotreload_jobs "
                    "GROUP BY queue, ended"
                )
            }
        )
        suspects = Counter(
            dict(connection.execute("SELECT queue, count(*) FROM hotreload_jobs WHERE suspect = 1 GROUP BY queue"))
        )
        kept = connection.execute(
            "SELECT name, ready, scheduled, running, done, dead, suspects FROM hotreload_queues"
        ).fetchall()
        same = all(
            list(numbers)
            == [counted[name, state] for state in ("ready", "scheduled", "running", "done", "dead")] + [suspects[name]]
            for name, *numbers in kept
        )
        known = {name for name, *_ in kept} >= {queue for queue, _ in counted}
        return same and known and connection.execute("PRAGMA integrity_check").get == "ok"
    finally:
        connection.close()


def new(*payloads: Any, **options: Any) -> list[NewJob]:
    return [NewJob("a", payload, **options) for payload in payloads]


async def claimed(queue: SqliteQueue, limit: int = 10, name: str = "a") -> list[JobRow]:
    return await queue.claim(name, limit)


async def one_of(queue: SqliteQueue, payload: Any = 1, **options: Any) -> JobRow:
    await queue.enqueue(new(payload, **options))
    (row,) = await claimed(queue, 1)
    return row


def depth(queue: SqliteQueue, name: str = "a") -> tuple[int, int, int, int]:
    (found,) = [found for found in queue.depths() if found.name == name]
    return found.ready, found.scheduled, found.running, found.dead
