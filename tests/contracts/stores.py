"""What the tests of the store share: a clock set by hand, the engines, the check that the counters tell the truth."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import apsw

from hotreload.queue.job import Backoff, JobRow, NewJob
from hotreload.queue.sqlite import SqliteQueue

NOW_MS = 1_800_000_000_000


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
        queue._reader.close()
        assert queue._writer.close(5)
        queue._files.release()

    def sound(self, path: Path) -> bool:
        """See `Engine`."""
        return counters_agree(path)


ENGINES: Final[dict[str, Engine]] = {"sqlite": Sqlite()}


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
