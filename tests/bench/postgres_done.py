"""The store on PostgreSQL with few done jobs and with many: what a caller, a claim and the retention take.

    python -m tests.bench.postgres_done [DONE] [ROUNDS]        DONE 1,000,000, ROUNDS 9

Both stores are on one server, the rounds are interleaved; medians, and the many divided by the few.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence

import psycopg

from hotreload.clock import now_ms
from hotreload.queue.job import Done, NewJob
from hotreload.queue.postgres import PostgresQueue
from hotreload.queue.postgres.connection import Connection
from tests.contracts.postgres import Server

FEW = 1_000
KEEP_S, MOST = 1e9, 1 << 60
SEED = """
INSERT INTO hotreload_jobs (id, queue, state, priority, run_at_ms, lease_seq, max_attempts, version, enqueued_at_ms,
    ended_at_ms, dedupe_key, payload, result)
SELECT nextval('hotreload_job_ids'), 'a', 'done', 0, %(now)s - n, 1, 25, 1, %(now)s - n, %(now)s - n, 'key ' || n,
    '{"uri": "viking://resources/a/b", "n": ' || n || '}', 'null'
FROM generate_series(1, %(count)s) AS n
"""


def seeded(address: str, count: int) -> PostgresQueue:
    """Return a store with so many done jobs, none of which is removed before it is asked for."""
    PostgresQueue.open(address).close()
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute(SEED, {"now": now_ms(), "count": count})
        connection.execute("INSERT INTO hotreload_queues (name, done) VALUES ('a', %s)", (count,))
        connection.execute("VACUUM ANALYZE hotreload_jobs")
    return PostgresQueue.open(address, keep_done_s=KEEP_S, keep_done_most=MOST)


async def claim_ms(queue: PostgresQueue) -> float:
    """Return what one claim and its end take, of 300 in a row."""
    await queue.enqueue([NewJob("a", number) for number in range(300)])
    began = time.perf_counter()
    for _ in range(300):
        [row] = await queue.claim("a", 1)
        await queue.settle(row, Done())
    return (time.perf_counter() - began) / 300 * 1000


async def batch_ms(queue: PostgresQueue) -> float:
    """Return what it takes to enqueue, claim and end 100 jobs at once, of 20 in a row."""
    began = time.perf_counter()
    for _ in range(20):
        await queue.enqueue([NewJob("a", number, dedupe_key=str(number)) for number in range(100)])
        rows = await queue.claim("a", 100)
        await queue.exchange("a", 0, [(row, Done()) for row in rows])
    return (time.perf_counter() - began) / 20 * 1000


async def prune_ms(queue: PostgresQueue) -> float:
    """Return what the removal of one batch of done jobs takes, of 3 in a row; other callers wait for so long."""

    def prune(connection: Connection, calls: Sequence[None]) -> Sequence[None]:
        queue.engine.verbs.prune(connection, lambda _queue: now_ms(), MOST)
        return calls

    began = time.perf_counter()
    for _ in range(3):
        await queue.engine.inbox.ask(prune, None)
    took_s = time.perf_counter() - began
    return took_s / 3 * 1000


MEASURES: dict[str, Callable[[PostgresQueue], Awaitable[float]]] = {
    "claim 1 + end, ms": claim_ms,
    "enqueue, claim and end 100, ms": batch_ms,
    "remove a batch, ms": prune_ms,
}


def main(done: int, rounds: int) -> None:
    """Measure and print."""
    server = Server(durable=True)
    queues: dict[int, PostgresQueue] = {}
    try:
        for count in (FEW, done):
            queues[count] = seeded(server.schema(f"done_{count}"), count)
        found: dict[tuple[str, int], list[float]] = {}
        for turn in range(rounds):
            for name, measure in MEASURES.items():
                for count in sorted(queues, reverse=bool(turn % 2)):
                    found.setdefault((name, count), []).append(asyncio.run(_awaited(measure(queues[count]))))
        for name in MEASURES:
            few, many = (statistics.median(found[name, count]) for count in (FEW, done))
            print(f"{name:32} {FEW:,} done {few:8.2f}   {done:,} done {many:8.2f}   {many / few:.2f}×", flush=True)
    finally:
        for queue in queues.values():
            queue.close()
        server.remove()


async def _awaited(measured: Awaitable[float]) -> float:
    return await measured


if __name__ == "__main__":
    given = [int(each) for each in sys.argv[1:]]
    main(*given, *(1_000_000, 9)[len(given) :])
