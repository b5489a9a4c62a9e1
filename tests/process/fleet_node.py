"""One node of a campaign: runs jobs of a few steps from a shared PostgreSQL and writes down what it does.

    python -m tests.process.fleet_node ADDRESS NAME HISTORY STEP_S FENCED

History, one line each, appended: `S job step` a step began, `C job step` its checkpoint is durable, `E job` all its
steps are done, `F job` it failed before its first step, as some do once, and is due later. FENCED `no` plants a bug:
what this node writes does not ask whether claim and node are still its own.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import anyio

from hotreload import Job
from hotreload.errors import LeaseLost
from hotreload.queue.job import Backoff, JobRow
from hotreload.queue.postgres import PostgresQueue
from hotreload.queue.postgres.connection import Connection, Node, run
from hotreload.queue.postgres.engine import PostgresEngine
from hotreload.queue.verbs import Checkpoint, Outcome, Settlement, Verbs
from tests.bench.pool import pool_of

STEPS = 3
FAILS_EVERY = 20
TTL_S = 3.0
LIMIT = 8
BACKOFF = Backoff(first_s=0.2, power=0)


class UnfencedNode(Node):
    """Goes on after it was taken over."""

    def begin(self, connection: Connection) -> int:
        """Begin without a look at the owner."""
        run(connection, "BEGIN")
        return 1

    def keep(self, connection: Connection) -> float:
        """Keep nothing."""
        return 0.0


class UnfencedVerbs(Verbs):
    """Writes of a job whatever its newest token is."""

    def checkpoint(self, connection: Connection, calls: Sequence[Checkpoint]) -> Sequence[LeaseLost | None]:
        """Write as if the claim were the newest."""
        return super().checkpoint(connection, [call._replace(row=_newest(connection, call.row)) for call in calls])

    def settle(self, connection: Connection, calls: Sequence[Settlement]) -> Sequence[Outcome]:
        """End the job as if the claim were the newest."""
        return super().settle(connection, [call._replace(row=_newest(connection, call.row)) for call in calls])


class UnfencedEngine(PostgresEngine):
    """One whose writes ask nothing."""

    node_type = UnfencedNode
    verbs_type = UnfencedVerbs


class Unfenced(PostgresQueue):
    """The planted bug."""

    engine_type = UnfencedEngine


def _newest(connection: Connection, row: JobRow) -> JobRow:
    sql = "UPDATE hotreload_jobs SET state = 'running' WHERE id = %s RETURNING lease_seq"
    found = run(connection, sql, (int(row.id),)).fetchone()
    assert found is not None
    return replace(row, lease_seq=found[0])


async def serve(queue: PostgresQueue, history: int, step_s: float) -> None:
    """Run jobs until SIGTERM."""

    async def work(job: Job[Any], _settings: Any) -> None:
        if job.attempt == 1 and job.cursor is None and job.payload % FAILS_EVERY == 0:
            os.write(history, f"F {job.id}\n".encode())
            raise ConnectionError("once")
        for step in range(job.cursor or 0, STEPS):
            os.write(history, f"S {job.id} {step}\n".encode())
            await anyio.sleep(step_s)
            await job.checkpoint(step + 1)
            os.write(history, f"C {job.id} {step}\n".encode())
        os.write(history, f"E {job.id}\n".encode())

    with anyio.open_signal_receiver(signal.SIGTERM) as signals:
        async with pool_of(queue, work, LIMIT):  # pyright: ignore[reportArgumentType]
            print("serving", flush=True)
            async for _ in signals:
                break


def main(address: str, name: str, history: str, step_s: str, fenced: str) -> None:
    """Own the node and serve; a node that is lost ends its process at once, as the host does."""
    store = Unfenced if fenced == "no" else PostgresQueue
    queue = store.open(address, name, ttl_s=TTL_S, backoff=BACKOFF)
    queue.on_lost(lambda _why: os._exit(3))
    file = os.open(history, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    anyio.run(serve, queue, file, float(step_s))
    queue.close()


if __name__ == "__main__":
    main(*sys.argv[1:6])
