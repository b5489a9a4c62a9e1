"""The store side by side with other durable queues, interleaved in one run; medians, and ratios to the best of them.

    python -m tests.bench.queue [ROUNDS]        huey, litequeue, persist-queue, OpenViking where they are installed

Everybody commits with synchronous=FULL. The peers have no waiting callers to serve together: they commit one by one.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from hotreload.queue.job import Done, JobRow, NewJob, Verdict
from hotreload.queue.sqlite import SqliteQueue
from tests.bench import bare
from tests.bench.pool import APART, CANCEL, DISPATCH, KEEP, MEASURES, POOL_10, POOL_100

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


def least(measure: bare.BareMeasure) -> Round:
    """Make a round of what a bare minimum takes."""

    def run(folder: Path) -> float:
        return asyncio.run(_awaited(measure(folder / "bare.db")))

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
    """Enqueue, claim and acknowledge in batches of 100, as a pool does it: verdicts and claims go together; jobs/s."""
    began = time.perf_counter()
    ended: list[tuple[JobRow, Verdict]] = []
    for _ in range(50):
        await queue.enqueue([NewJob("a", PAYLOAD)] * 100)
        ended = [(row, Done()) for row in (await queue.exchange("a", 100, ended)).rows]
    await queue.exchange("a", 0, ended)
    return per_s(5_000, began)


class Backlogs:
    """Stores with so many jobs waiting, built once; every round claims from each and puts back what it took."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def round(self, pending: int) -> Round:
        """Make a round: the median of claims of one job, ms."""
        path = self._folder / f"{pending}.db"

        async def measured(queue: SqliteQueue) -> float:
            if not queue.depths():
                for _ in range(pending // 1_000):
                    await queue.enqueue([NewJob("a", PAYLOAD)] * 1_000)
            times: list[float] = []
            for _ in range(200):
                began = time.perf_counter()
                await queue.claim("a", 1)
                times.append((time.perf_counter() - began) * 1_000)
            return statistics.median(times)

        def run(_folder: Path) -> float:
            queue = SqliteQueue.open(path)
            try:
                return asyncio.run(measured(queue))
            finally:
                queue.close()

        return run


def huey(folder: Path) -> float:
    """Enqueue one by one; jobs/s."""
    storage = _huey(folder)
    return _one_by_one(lambda: storage.enqueue(b"x" * 40))


def huey_cycles(folder: Path) -> float:
    """Enqueue, take (which forgets the job) one by one; jobs/s."""
    storage = _huey(folder)

    def cycle() -> None:
        storage.enqueue(b"x" * 40)
        assert storage.dequeue()

    return _one_by_one(cycle)


def _huey(folder: Path) -> Any:
    return importlib.import_module("huey.storage").SqliteStorage(filename=str(folder / "huey.db"), fsync=True)


def litequeue(folder: Path) -> float:
    """Enqueue one by one; jobs/s."""
    queue = _litequeue(folder)
    return _one_by_one(lambda: queue.put("x" * 40))


def litequeue_cycles(folder: Path) -> float:
    """Enqueue, take, acknowledge one by one; jobs/s."""
    queue = _litequeue(folder)

    def cycle() -> None:
        queue.put("x" * 40)
        queue.done(queue.pop().message_id)

    return _one_by_one(cycle)


def _litequeue(folder: Path) -> Any:
    queue: Any = importlib.import_module("litequeue").LiteQueue(str(folder / "lite.db"))
    queue.conn.execute("PRAGMA synchronous = FULL")
    return queue


def persistqueue(folder: Path) -> float:
    """Enqueue one by one; jobs/s."""
    queue: Any = importlib.import_module("persistqueue").SQLiteQueue(str(folder), auto_commit=True)
    return _one_by_one(lambda: queue.put(PAYLOAD))


def persistqueue_cycles(folder: Path) -> float:
    """Enqueue, take, acknowledge one by one; jobs/s."""
    queue: Any = importlib.import_module("persistqueue").SQLiteAckQueue(str(folder), auto_commit=True)

    def cycle() -> None:
        queue.put(PAYLOAD)
        queue.ack(queue.get())

    return _one_by_one(cycle)


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


PEERS: dict[str, dict[str, Round]] = {
    "huey": {"huey, enqueue, jobs/s": huey, "huey, enqueue + take, jobs/s": huey_cycles},
    "litequeue": {
        "litequeue, enqueue, jobs/s": litequeue,
        "litequeue, enqueue + claim + ack, jobs/s": litequeue_cycles,
    },
    "persistqueue": {
        "persist-queue, enqueue, jobs/s": persistqueue,
        "persist-queue, enqueue + claim + ack, jobs/s": persistqueue_cycles,
    },
    "openviking": {"OpenViking QueueFS, enqueue + claim + ack, jobs/s": queuefs},
}
ENQUEUE, CYCLES = "enqueue, 100 callers, jobs/s", "enqueue + claim + ack, batches of 100, jobs/s"
CLAIM = "claim p50 with {:,} pending, ms"
PENDING = (1_000, 100_000, 1_000_000)
BARE: dict[str, Round] = {
    POOL_10: least(bare.noop_jobs(10)),
    POOL_100: least(bare.noop_jobs(100)),
    KEEP: least(bare.put_back({"at": 5})),
    CANCEL: least(bare.put_back(None)),
}
"""The same as ours of the same name; measured right after it."""
BARELY = "bare minimum: {}"
BESIDE_BARE: dict[str, tuple[str, float]] = {
    POOL_10: ("≥", 0.5),
    POOL_100: ("≥", 0.5),
    KEEP: ("≤", 3),
    CANCEL: ("≤", 3),
}
"""The goal of ours ÷ the bare minimum."""
OURS: dict[str, Round] = {
    ENQUEUE: ours(enqueue_100_callers),
    "enqueue, 1 caller, jobs/s": ours(enqueue_1_caller),
    CYCLES: ours(cycles),
    **{
        each: run
        for name, measure in MEASURES.items()
        for each, run in ((name, ours(measure)), (BARELY.format(name), BARE.get(name)))
        if run
    },
    **{name: apart(name) for name in APART},
}
AT_MOST: dict[str, float] = {DISPATCH: 1.5}
BEST_ENQUEUE, QUEUEFS = "÷ the best peer: enqueue, 100 callers", "÷ OpenViking QueueFS: enqueue + claim + ack"
BEST_CYCLES, BACKLOG = "÷ the best peer: enqueue + claim + ack", "claim with 1,000,000 pending ÷ with 1,000"


def ratios(figures: dict[str, list[float]]) -> dict[str, tuple[float, str, bool]]:
    """Return what is compared side by side: the median of the rounds' ratios, its goal, whether it was met.

    A ratio is taken within a round, where both were measured one right after the other.
    """
    found: dict[str, tuple[float, str, bool]] = {}

    def beside(name: str, mine: str, peers: list[str], goal: float, sign: str = "≥") -> None:
        there = [figures[peer] for peer in peers if peer in figures]
        if there:
            best = [max(of_round) for of_round in zip(*there, strict=True)]
            ratio = statistics.median(own / peer for own, peer in zip(figures[mine], best, strict=True))
            found[name] = (ratio, f"{sign} {goal:g}", ratio >= goal if sign == "≥" else ratio <= goal)

    enqueues = [name for peer in PEERS.values() for name in peer if name.endswith("enqueue, jobs/s")]
    cycled = [name for peer in PEERS.values() for name in peer if "enqueue +" in name and "QueueFS" not in name]
    beside(BEST_ENQUEUE, ENQUEUE, enqueues, 10)
    beside(BEST_CYCLES, CYCLES, cycled, 10)
    beside(QUEUEFS, CYCLES, list(PEERS["openviking"]), 5)
    beside(BACKLOG, CLAIM.format(PENDING[-1]), [CLAIM.format(PENDING[0])], 1.2, "≤")
    for name, (sign, goal) in BESIDE_BARE.items():
        beside(f"÷ the bare minimum: {name.rpartition(',')[0]}", name, [BARELY.format(name)], goal, sign)
    return found


def verdict(name: str, value: float) -> tuple[str, str]:
    """Return the goal of a figure and whether it was met, "" for one without."""
    if name in AT_MOST:
        return f"≤ {AT_MOST[name]:g}", "met" if value <= AT_MOST[name] else "short"
    return "", ""


def _in_order(runs: dict[str, Round]) -> list[tuple[str, Round]]:
    """Put what is compared side by side: enqueues, then whole cycles, then the rest."""
    return sorted(runs.items(), key=lambda run: 2 if "enqueue" not in run[0] else int("+" in run[0]))


def main(rounds: int) -> None:
    """Run all, interleaved, and print the medians with their range, and how each stands to its goal."""
    there = {
        name: run
        for package, named in PEERS.items()
        if importlib.util.find_spec(package)
        for name, run in named.items()
    }
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(dir=".") as backlog:
        backlogs = Backlogs(Path(backlog))
        claims = {CLAIM.format(pending): backlogs.round(pending) for pending in PENDING}
        for _ in range(rounds):
            for name, run in _in_order({**OURS, **claims, **there}):
                with tempfile.TemporaryDirectory(dir=".") as folder:
                    os.sync()  # what the one before left to the disk is not to be paid by this one
                    gc.collect()
                    figures.setdefault(name, []).append(run(Path(folder)))
    medians = {name: statistics.median(found) for name, found in figures.items()}
    for name, found in figures.items():
        goal, met = verdict(name, medians[name])
        print(f"{name:66} {medians[name]:12,.2f}   {min(found):10,.2f} to {max(found):10,.2f}   {goal:9} {met}")
    for name, (ratio, goal, met) in ratios(figures).items():
        print(f"{name:66} {ratio:12.2f}   {'':24}   {goal:9} {'met' if met else 'short'}")
    if missing := {package for package in PEERS if not importlib.util.find_spec(package)}:
        print(f"not installed: {', '.join(sorted(missing))}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
