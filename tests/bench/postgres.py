"""The engine on PostgreSQL beside other queues on the same server, interleaved in one run; medians, and their ratios.

    python -m tests.bench.postgres [ROUNDS]        pgqueuer and procrastinate where they are installed

Each measurement has a fresh database; every commit is on the disk (fsync, synchronous_commit on). The peers are used as
their pages say: pgqueuer with asyncpg, procrastinate with psycopg's pool. All make each job of the same mapping.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import logging
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import psycopg

from hotreload.queue.job import Done, JobRow, NewJob, Verdict
from hotreload.queue.postgres import PostgresQueue
from tests.bench.pool import noop_jobs, pool_of
from tests.bench.queue import PAYLOAD, per_s
from tests.contracts.postgres import Server

ONE, BATCH, CYCLES, POOL_10, POOL_100, DISPATCH = (
    "enqueue, 1 caller, jobs/s",
    "enqueue, batches of 1,000, jobs/s",
    "enqueue + claim + ack, batches of 100, jobs/s",
    "no-op jobs through the pool, limit 10, jobs/s",
    "no-op jobs through the pool, limit 100, jobs/s",
    "idle dispatch to another node, median, ms",
)
CLAIM = "claim of 1 with {:,} pending, median, ms"
SINGLES, BATCHES, JOBS, DISPATCHES = 300, 10, 3_000, 60
Round = Callable[[str], Awaitable[float]]


def jobs(count: int) -> list[NewJob]:
    """Make so many jobs for us."""
    return [NewJob("a", PAYLOAD) for _ in range(count)]


def texts(count: int) -> list[bytes]:
    """Make the payloads of so many jobs for pgqueuer, which takes bytes."""
    return [json.dumps(PAYLOAD).encode() for _ in range(count)]


def ours(measure: Callable[[PostgresQueue], Awaitable[float]]) -> Round:
    """Make a round of a measurement with one node."""

    async def run(dsn: str) -> float:
        queue = PostgresQueue.open(dsn)
        try:
            return await measure(queue)
        finally:
            queue.close()

    return run


async def enqueue_one(queue: PostgresQueue) -> float:
    """One job after the other; jobs/s."""
    began = time.perf_counter()
    for _ in range(SINGLES):
        await queue.enqueue([NewJob("a", PAYLOAD)])
    return per_s(SINGLES, began)


async def enqueue_batches(queue: PostgresQueue) -> float:
    """1,000 jobs a call, one call after the other; jobs/s."""
    began = time.perf_counter()
    for _ in range(BATCHES):
        await queue.enqueue(jobs(1_000))
    return per_s(BATCHES * 1_000, began)


async def cycles(queue: PostgresQueue) -> float:
    """Enqueue, claim and acknowledge 100 at a time, as a pool does it; jobs/s."""
    began = time.perf_counter()
    ended: list[tuple[JobRow, Verdict]] = []
    for _ in range(JOBS // 100):
        await queue.enqueue(jobs(100))
        ended = [(row, Done()) for row in (await queue.exchange("a", 100, ended)).rows]
    await queue.exchange("a", 0, ended)
    return per_s(JOBS, began)


async def idle_dispatch(dsn: str) -> float:
    """Measure from an enqueue on one node to the first line of its job on another, nothing else to do; median, ms."""
    begun, began = asyncio.Event(), 0.0
    times: list[float] = []

    async def tells(_job: Any, _settings: Any) -> None:
        times.append((time.perf_counter() - began) * 1_000)
        begun.set()

    one, other = PostgresQueue.open(dsn, "one"), PostgresQueue.open(dsn, "two")
    try:
        async with pool_of(other, tells, 4) as pool:  # pyright: ignore[reportArgumentType]
            for queue in (one, other):
                while queue.wake_up != "listening":  # noqa: ASYNC110 - the store has no event for it
                    await asyncio.sleep(0.01)
            await asyncio.sleep(1.1)  # the first node sees the second at its next look
            for _ in range(DISPATCHES):
                begun, began = asyncio.Event(), time.perf_counter()
                await one.enqueue([NewJob("a", PAYLOAD)])
                await begun.wait()
                await pool.idle()
                await asyncio.sleep(0.03)
    finally:
        other.close()
        one.close()
    return statistics.median(times)


def claim_with(pending: int) -> Round:
    """Make a round of claims of one job with so many waiting: the median, ms."""

    async def run(dsn: str) -> float:
        PostgresQueue.open(dsn).close()
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                "INSERT INTO hotreload_jobs (id, queue, state, priority, run_at_ms, max_attempts, version, "
                "enqueued_at_ms, payload) SELECT nextval('hotreload_job_ids'), 'a', 'ready', 0, n, 25, 1, n, %s "
                "FROM generate_series(1, %s) AS n",
                (json.dumps(PAYLOAD), pending),
            )
            connection.execute("INSERT INTO hotreload_queues (name, ready) VALUES ('a', %s)", (pending,))
            connection.execute("VACUUM ANALYZE hotreload_jobs")
        queue = PostgresQueue.open(dsn)
        try:
            times: list[float] = []
            for _ in range(200):
                began = time.perf_counter()
                await queue.claim("a", 1)
                times.append((time.perf_counter() - began) * 1_000)
            return statistics.median(times)
        finally:
            queue.close()

    return run


# --- pgqueuer ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _pgqueuer(dsn: str, *, install: bool = True) -> AsyncIterator[Any]:
    asyncpg: Any = importlib.import_module("asyncpg")
    connection = await asyncpg.connect(dsn)
    driver = importlib.import_module("pgqueuer.db").AsyncpgDriver(connection)
    queries: Any = importlib.import_module("pgqueuer.queries").Queries(driver)
    if install:
        await queries.install()
    try:
        yield queries
    finally:
        await connection.close()


async def pgqueuer_one(dsn: str) -> float:
    """One job after the other; jobs/s."""
    async with _pgqueuer(dsn) as queries:
        began = time.perf_counter()
        for _ in range(SINGLES):
            await queries.enqueue("a", *texts(1), 0)
        return per_s(SINGLES, began)


async def pgqueuer_batches(dsn: str) -> float:
    """1,000 jobs a call, one call after the other; jobs/s."""
    async with _pgqueuer(dsn) as queries:
        began = time.perf_counter()
        for _ in range(BATCHES):
            await queries.enqueue(["a"] * 1_000, texts(1_000), [0] * 1_000)
        return per_s(BATCHES * 1_000, began)


async def pgqueuer_cycles(dsn: str) -> float:
    """Enqueue, take and log as successful 100 at a time; jobs/s."""
    parameters = importlib.import_module("pgqueuer.ports.repository").EntrypointExecutionParameter(concurrency_limit=0)
    uuid4 = importlib.import_module("uuid").uuid4
    async with _pgqueuer(dsn) as queries:
        manager = uuid4()
        began = time.perf_counter()
        for _ in range(JOBS // 100):
            await queries.enqueue(["a"] * 100, texts(100), [0] * 100)
            jobs = await queries.dequeue(100, {"a": parameters}, manager, None, timedelta(seconds=30))
            assert len(jobs) == 100
            await queries.log_jobs([(job, "successful", None) for job in jobs])
        return per_s(JOBS, began)


def pgqueuer_pool(limit: int) -> Round:
    """Make a round of no-op jobs through its queue manager; jobs/s."""

    async def run(dsn: str) -> float:
        modes: Any = importlib.import_module("pgqueuer.types").QueueExecutionMode
        async with _pgqueuer(dsn) as queries:
            manager = importlib.import_module("pgqueuer.qm").QueueManager(queries)

            async def noop(_job: Any) -> None:
                pass

            manager.entrypoint("a")(noop)
            for _ in range(JOBS // 1_000):
                await queries.enqueue(["a"] * 1_000, texts(1_000), [0] * 1_000)
            began = time.perf_counter()
            await manager.run(batch_size=limit, max_concurrent_tasks=2 * limit, mode=modes.drain)
            return per_s(JOBS, began)

    return run


async def pgqueuer_dispatch(dsn: str) -> float:
    """Measure from an enqueue on one connection to the job on another; median, ms."""
    async with _pgqueuer(dsn) as queries, _pgqueuer(dsn, install=False) as other:
        manager: Any = importlib.import_module("pgqueuer.qm").QueueManager(other)

        async def serve(tells: Callable[[], None]) -> None:
            async def begins(_job: Any) -> None:
                tells()

            manager.entrypoint("a")(begins)
            await manager.run()

        try:
            return await _dispatched(serve, lambda: queries.enqueue("a", *texts(1), 0))
        finally:
            manager.shutdown.set()


# --- procrastinate ----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _procrastinate(dsn: str, *, install: bool = True) -> AsyncIterator[Any]:
    package: Any = importlib.import_module("procrastinate")
    app = package.App(connector=package.PsycopgConnector(conninfo=dsn))
    async with app.open_async():
        if install:
            await app.schema_manager.apply_schema_async()
        yield app


def _task(app: Any, body: Callable[[], None] = lambda: None) -> Any:
    async def task(uri: str, n: int) -> None:
        body()

    return app.task(queue="a", name="task")(task)


async def procrastinate_one(dsn: str) -> float:
    """One job after the other; jobs/s."""
    async with _procrastinate(dsn) as app:
        task = _task(app)
        began = time.perf_counter()
        for _ in range(SINGLES):
            await task.defer_async(**PAYLOAD)
        return per_s(SINGLES, began)


async def procrastinate_batches(dsn: str) -> float:
    """1,000 jobs a call, one call after the other; jobs/s."""
    async with _procrastinate(dsn) as app:
        task = _task(app)
        began = time.perf_counter()
        for _ in range(BATCHES):
            await task.batch_defer_async(*[PAYLOAD] * 1_000)
        return per_s(BATCHES * 1_000, began)


async def procrastinate_cycles(dsn: str) -> float:
    """Enqueue 100 at a time, take and finish one by one: it has no other way; jobs/s."""
    status: Any = importlib.import_module("procrastinate.jobs").Status.SUCCEEDED
    async with _procrastinate(dsn) as app:
        task = _task(app)
        worker = await app.job_manager.register_worker()
        began = time.perf_counter()
        for _ in range(JOBS // 1_000):
            await task.batch_defer_async(*[PAYLOAD] * 100)
            for _ in range(100):
                job = await app.job_manager.fetch_job(["a"], worker)
                await app.job_manager.finish_job(job, status, delete_job=False)
        return per_s(JOBS // 10, began)


def procrastinate_pool(limit: int) -> Round:
    """Make a round of no-op jobs through its worker; jobs/s."""

    async def run(dsn: str) -> float:
        async with _procrastinate(dsn) as app:
            task = _task(app)
            await task.batch_defer_async(*[PAYLOAD] * (JOBS // 3))
            began = time.perf_counter()
            await app.run_worker_async(queues=["a"], wait=False, concurrency=limit, install_signal_handlers=False)
            return per_s(JOBS // 3, began)

    return run


async def procrastinate_dispatch(dsn: str) -> float:
    """Measure from a defer by one application to the job in another; median, ms."""
    async with _procrastinate(dsn) as app, _procrastinate(dsn, install=False) as other:
        task = _task(app)

        async def serve(tells: Callable[[], None]) -> None:
            _task(other, tells)
            await other.run_worker_async(queues=["a"], concurrency=4, install_signal_handlers=False)

        return await _dispatched(serve, lambda: task.defer_async(**PAYLOAD))


async def _dispatched(
    serve: Callable[[Callable[[], None]], Awaitable[None]], enqueue: Callable[[], Awaitable[object]]
) -> float:
    begun, began = asyncio.Event(), 0.0
    times: list[float] = []

    def tells() -> None:
        times.append((time.perf_counter() - began) * 1_000)
        begun.set()

    serving = asyncio.ensure_future(serve(tells))
    await asyncio.sleep(1.1)
    for _ in range(DISPATCHES):
        begun, began = asyncio.Event(), time.perf_counter()
        await enqueue()
        await begun.wait()
        await asyncio.sleep(0.03)
    serving.cancel()
    await asyncio.wait([serving], timeout=5)
    return statistics.median(times)


OURS: dict[str, Round] = {
    ONE: ours(enqueue_one),
    BATCH: ours(enqueue_batches),
    CYCLES: ours(cycles),
    POOL_10: ours(noop_jobs(10, JOBS)),  # pyright: ignore[reportArgumentType]
    POOL_100: ours(noop_jobs(100, JOBS)),  # pyright: ignore[reportArgumentType]
    DISPATCH: idle_dispatch,
}
PEERS: dict[str, dict[str, Round]] = {
    "pgqueuer": {
        ONE: pgqueuer_one,
        BATCH: pgqueuer_batches,
        CYCLES: pgqueuer_cycles,
        POOL_10: pgqueuer_pool(10),
        POOL_100: pgqueuer_pool(100),
        DISPATCH: pgqueuer_dispatch,
    },
    "procrastinate": {
        ONE: procrastinate_one,
        BATCH: procrastinate_batches,
        CYCLES: procrastinate_cycles,
        POOL_10: procrastinate_pool(10),
        POOL_100: procrastinate_pool(100),
        DISPATCH: procrastinate_dispatch,
    },
}
GOALS: dict[str, float] = {BATCH: 3, CYCLES: 3}
DISPATCH_MOST_MS, BACKLOG_MOST = 5.0, 1.2
Figures = dict[tuple[str, str], list[float]]


def measured(server: Server, rounds: int, only: str) -> Figures:
    """Run every measurement `rounds` times, all that is compared one right after the other."""
    there = {"hotreload": OURS, **{name: runs for name, runs in PEERS.items() if importlib.util.find_spec(name)}}
    figures: Figures = {}
    for number in range(rounds):
        for measure in OURS:
            for who, runs in there.items():
                if only in measure:
                    figures.setdefault((measure, who), []).append(_apart(server, f"{who}_{number}", runs[measure]))
    for pending in (1_000, 1_000_000):
        claim = CLAIM.format(pending)
        if only in claim:
            figures[claim, "hotreload"] = [_apart(server, f"claim_{pending}", claim_with(pending))]
    return figures


def _apart(server: Server, name: str, run: Round) -> float:
    """Make one round in a database of its own."""
    with psycopg.connect(server.dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        found = asyncio.run(_awaited(run(server.dsn.replace("/postgres?", f"/{name}?"))))
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
    return found


async def _awaited(measure: Awaitable[float]) -> float:
    return await measure


def shown(figures: Figures) -> None:
    """Print the medians with their range, then what is compared, and how it stands to its goal."""
    for (measure, who), found in figures.items():
        print(f"{measure:48} {who:14} {statistics.median(found):10,.2f}   {min(found):10,.2f} to {max(found):10,.2f}")
    for measure in OURS:
        own = figures.get((measure, "hotreload"), [])
        peers = [figures[measure, name] for name in PEERS if (measure, name) in figures]
        if not own or not peers:
            continue
        best = [(min if measure is DISPATCH else max)(of_round) for of_round in zip(*peers, strict=True)]
        ratio = statistics.median(mine / peer for mine, peer in zip(own, best, strict=True))
        goal = GOALS.get(measure)
        met = "" if goal is None else f"≥ {goal:g} {'met' if ratio >= goal else 'short'}"
        print(f"÷ the best peer: {measure:46} {ratio:10.2f}   {met}")
    if (DISPATCH, "hotreload") in figures:
        took_ms = statistics.median(figures[DISPATCH, "hotreload"])
        met = "met" if took_ms <= DISPATCH_MOST_MS else "short"
        print(f"{DISPATCH:63} {took_ms:10.2f}   ≤ {DISPATCH_MOST_MS:g} {met}")
    few, many = ((CLAIM.format(pending), "hotreload") for pending in (1_000, 1_000_000))
    if few in figures:
        ratio = figures[many][0] / figures[few][0]
        met = "met" if ratio <= BACKLOG_MOST else "short"
        print(f"{'claim with 1,000,000 pending ÷ with 1,000':63} {ratio:10.2f}   ≤ {BACKLOG_MOST:g} {met}")
    if missing := [name for name in PEERS if not importlib.util.find_spec(name)]:
        print(f"not installed: {', '.join(missing)}")


def main(rounds: int, only: str = "") -> None:
    """Measure `rounds` times what has `only` in its name, and print it."""
    logging.disable(logging.WARNING)
    server = Server(durable=True)
    try:
        shown(measured(server, rounds, only))
    finally:
        server.remove()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, *sys.argv[2:3])
