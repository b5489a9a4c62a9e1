"""The store side by side with other durable queues, interleaved in one run; medians, and ratios to the best of them.

    python -m tests.bench.queue [ROUNDS]        huey, litequeue, persist-queue, OpenViking where they are installed

Everybody commits with synchronous=FULL. The peers have no waiting callers to serve together: they commit one by one.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from hotreload.queue.job import Done, NewJob
from hotreload.queue.sqlite import SqliteQueue
from tests.bench.pool import APART, MEASURES

PAYLOAD = {"uri": "viking://resources/a/b", "n": 1}
Round = Callable[[Path], float]


def per_s(count: int, began: float) -> float:
    """Return how many a second since `began`."""
    return count / (time.perf_counter() - began)


def ours(measure: Callable[[SqliteQueue], Awaitable[float]]) -> Round:
    """Make a round of a measurement on a fresh store."""

    def run(folder: Path) -> float:
        queue = SqliteQueue.open(folder / "queue.db")
        try:
            return asyncio.run(_awaited(measure(queue)))
        finally:
            queue.close()

    return run


def apart(name: str) -> Round:
    """Make a round of a measurement in a process of its own."""

    def run(folder: Path) -> float:
        command = [sys.executable, "-m", "tests.bench.pool", name, str(folder / "queue.db")]
        return float(subprocess.run(command, capture_output=True, check=True).stdout)

    return run


async def _awaited(measured: Awaitable[float]) -> float:
    return await measured


async def enqueue_100_callers(queue: SqliteQueue) -> float:
    """100 callers, each waiting until its job is on the disk; jobs/s."""

    async def caller() -> None:
        for _ in range(100):
            await queue.enqueue([NewJob("a", PAYLOAD)])

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(100)))
    return per_s(10_000, began)


async def enqueue_1_caller(queue: SqliteQueue) -> float:
    """One caller after the other; jobs/s."""
    began = time.perf_counter()
    for _ in range(500):
        await queue.enqueue([NewJob("a", PAYLOAD)])
    return per_s(500, began)


async def cycles(queue: SqliteQueue) -> float:
    """Enqueue, claim and acknowledge in batches of 100; jobs/s."""
    began = time.perf_counter()
    for _ in range(50):
        await queue.enqueue([NewJob("a", PAYLOAD)] * 100)
        await asyncio.gather(*(queue.settle(row, Done()) for row in await queue.claim("a", 100)))
    return per_s(5_000, began)


async def in_flight(queue: SqliteQueue) -> float:
    """Checkpoint 10,000 running jobs and put them back; ms."""
    await queue.enqueue([NewJob("a", PAYLOAD)] * 10_000)
    rows = await queue.claim("a", 10_000)
    began = time.perf_counter()
    await asyncio.gather(*(queue.checkpoint(row, {"at": 5}) for row in rows))
    queue.requeue_running(["a"], 10)
    return (time.perf_counter() - began) * 1_000


def claims_with(pending: int) -> Callable[[SqliteQueue], Awaitable[float]]:
    """Measure the median of claims of one job with so many waiting; ms."""

    async def run(queue: SqliteQueue) -> float:
        for _ in range(pending // 1_000):
            await queue.enqueue([NewJob("a", PAYLOAD)] * 1_000)
        times: list[float] = []
        for _ in range(200):
            began = time.perf_counter()
            await queue.claim("a", 1)
            times.append((time.perf_counter() - began) * 1_000)
        return statistics.median(times)

    return run


def huey(folder: Path) -> float:
    """Enqueue one by one; jobs/s."""
    storage: Any = importlib.import_module("huey.storage").SqliteStorage(filename=str(folder / "huey.db"), fsync=True)
    return _one_by_one(lambda: storage.enqueue(b"x" * 40))


def litequeue(folder: Path) -> float:
    """Enqueue one by one; jobs/s."""
    queue: Any = importlib.import_module("litequeue").LiteQueue(str(folder / "lite.db"))
    queue.conn.execute("PRAGMA synchronous = FULL")
    return _one_by_one(lambda: queue.put("x" * 40))


def persistqueue(folder: Path) -> float:
    """Enqueue one by one; jobs/s."""
    queue: Any = importlib.import_module("persistqueue").SQLiteQueue(str(folder), auto_commit=True)
    return _one_by_one(lambda: queue.put(PAYLOAD))


def queuefs(folder: Path) -> float:
    """Enqueue, dequeue and acknowledge in OpenViking's own store, which commits with synchronous=NORMAL; jobs/s."""
    client: Any = importlib.import_module("openviking.pyagfs").get_binding_client()[0]()
    client.mount("queuefs", "/queue", {"backend": "sqlite", "db_path": str(folder / "queue.db")})
    client.mkdir("/queue/a")

    def cycle() -> None:
        client.write("/queue/a/enqueue", b'{"uri": "viking://resources/a/b", "n": 1}')
        message = json.loads(client.read("/queue/a/dequeue"))
        client.write("/queue/a/ack", str(message["id"]).encode())

    return _one_by_one(cycle)


def _one_by_one(put: Callable[[], object]) -> float:
    began = time.perf_counter()
    for _ in range(1_000):
        put()
    return per_s(1_000, began)


PEERS: dict[str, tuple[str, Round]] = {
    "huey": ("huey, enqueue, jobs/s", huey),
    "litequeue": ("litequeue, enqueue, jobs/s", litequeue),
    "persistqueue": ("persist-queue, enqueue, jobs/s", persistqueue),
    "openviking": ("OpenViking QueueFS, enqueue + claim + ack, jobs/s", queuefs),
}
ENQUEUE, CYCLES = "enqueue, 100 callers, jobs/s", "enqueue + claim + ack, batches of 100, jobs/s"
CLAIM = "claim p50 with {:,} pending, ms"
OURS: dict[str, Round] = {
    ENQUEUE: ours(enqueue_100_callers),
    "enqueue, 1 caller, jobs/s": ours(enqueue_1_caller),
    CYCLES: ours(cycles),
    **{name: ours(measure) for name, measure in MEASURES.items()},
    **{name: apart(name) for name in APART},
    "10,000 in flight: checkpoint + requeue, ms": ours(in_flight),
    **{CLAIM.format(pending): ours(claims_with(pending)) for pending in (1_000, 100_000, 1_000_000)},
}
RATIOS = (
    ("enqueue, 100 callers ÷ huey", ENQUEUE, "huey"),
    ("enqueue, 100 callers ÷ litequeue", ENQUEUE, "litequeue"),
    ("enqueue, 100 callers ÷ persist-queue", ENQUEUE, "persistqueue"),
    ("enqueue + claim + ack ÷ OpenViking QueueFS", CYCLES, "openviking"),
)


def main(rounds: int) -> None:
    """Run all, interleaved, and print the medians; the largest backlog is built in the first round only."""
    there = {package: named for package, named in PEERS.items() if importlib.util.find_spec(package)}
    figures: dict[str, list[float]] = {}
    for number in range(rounds):
        for name, run in (*OURS.items(), *there.values()):
            if number and "1,000,000" in name:
                continue
            with tempfile.TemporaryDirectory(dir=".") as folder:
                figures.setdefault(name, []).append(run(Path(folder)))
    medians = {name: statistics.median(found) for name, found in figures.items()}
    for name, found in figures.items():
        print(f"{name:52} {medians[name]:12,.2f}   {min(found):,.2f} to {max(found):,.2f}")
    for name, mine, package in RATIOS:
        if package in there:
            print(f"{name:52} {medians[mine] / medians[there[package][0]]:12.1f}")
    claims = [medians[CLAIM.format(pending)] for pending in (1_000, 1_000_000)]
    print(f"{'claim with 1,000,000 pending ÷ with 1,000':52} {claims[1] / claims[0]:12.2f}")
    if missing := set(PEERS) - set(there):
        print(f"not installed: {', '.join(sorted(missing))}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
