"""Lives of a store's owner, and the checker over what it was told: nothing lost, nothing done twice.

The owner writes down what the store acknowledged (`history`), each line after the call returned: `E id` enqueued,
`C id step` checkpointed with the step's effect in the same transaction, `A id` done.

    python -m tests.process.store_life random FOLDER LIVES SEED       kill -9 at random instants, one store throughout
    python -m tests.process.store_life statements FOLDER LIVES SEED   kill -9 before every statement, a store each
"""

from __future__ import annotations

import asyncio
import os
import random
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import apsw

from hotreload.errors import StoreUnavailable
from hotreload.queue.database import connect
from hotreload.queue.job import Done, JobRow, JobState, NewJob
from hotreload.queue.sqlite import SqliteQueue

STEPS = 3
Tell = Callable[[str], None]


class Lost(AssertionError):
    """The store broke a promise."""


async def live(queue: SqliteQueue, tell: Tell, rounds: int) -> None:
    """Enqueue, run, checkpoint, finish: several at once, so that groups form."""
    await queue.write(lambda connection: connection.execute("CREATE TABLE IF NOT EXISTS effects (job, step)") and None)
    await asyncio.gather(
        *(_enqueue(queue, tell, rounds) for _ in range(2)), *(_work(queue, tell, rounds) for _ in range(3))
    )


async def _enqueue(queue: SqliteQueue, tell: Tell, rounds: int) -> None:
    for _ in range(rounds):
        for job_id in (await queue.enqueue([NewJob("a", {"n": 1}), NewJob("b", None, priority=1)])).ids:
            tell(f"E {job_id}")


async def _work(queue: SqliteQueue, tell: Tell, rounds: int) -> None:
    for _ in range(rounds):
        for row in [*await queue.claim("a", 2), *await queue.claim("b", 1)]:
            await _run(queue, row, tell)


async def _run(queue: SqliteQueue, row: JobRow, tell: Tell) -> None:
    for step in range((row.cursor or 0) + 1, STEPS + 1):

        def effect(connection: apsw.Connection, step: int = step) -> None:
            connection.execute("INSERT INTO effects VALUES (?, ?)", (int(row.id), step))

        await queue.checkpoint(row, step, within=effect)
        tell(f"C {row.id} {step}")
    assert await queue.settle(row, Done(row.attempts)) is JobState.DONE
    tell(f"A {row.id}")


def check(path: Path, history: list[str]) -> None:
    """Compare the file with what its owner was told; Lost where they disagree."""
    if not path.exists():
        _expect(not history, "acknowledged in a file that is not there")
        return
    connection = apsw.Connection(str(path))
    try:
        _check(connection, history)
    finally:
        connection.close()


def _check(connection: apsw.Connection, history: list[str]) -> None:
    _expect(connection.execute("PRAGMA integrity_check").get == "ok", "integrity")
    if not connection.table_exists("main", "effects"):
        _expect(not history, "acknowledged, and no table")
        return
    rows = connection.execute("SELECT id, state, cursor, attempts FROM hotreload_jobs")
    states = {str(found): (state, int(cursor or 0), attempts) for found, state, cursor, attempts in rows}
    acks = [line.split()[1] for line in history if line.startswith("A")]
    _expect(len(acks) == len(set(acks)), "acknowledged twice")
    for kind, job_id, *rest in (line.split() for line in history):
        _expect(job_id in states, f"job {job_id} is gone")
        state, cursor, attempts = states[job_id]
        _expect(attempts == 0, f"job {job_id} used an attempt")
        _expect(kind != "A" or state == JobState.DONE, f"job {job_id} was done and is {state}")
        _expect(kind != "C" or cursor >= int(rest[0]), f"job {job_id} lost step {rest}")
    twice = connection.execute("SELECT job, step FROM effects GROUP BY job, step HAVING count(*) > 1").fetchall()
    _expect(not twice, f"effects twice: {twice}")
    effects = dict(connection.execute("SELECT job, max(step) FROM effects GROUP BY job"))
    wrong = {job_id: state for job_id, state in states.items() if effects.get(int(job_id), 0) != state[1]}
    _expect(not wrong, f"effects and cursors differ: {wrong}")


def _expect(held: bool, what: str) -> None:
    if not held:
        raise Lost(what)


def finish(path: Path) -> int:
    """Open what was left, run it to its end; return how many jobs are done."""

    async def run(queue: SqliteQueue) -> int:
        told: list[str] = []
        parked = await queue.jobs(state=JobState.DEAD, limit=1_000)  # killed thrice while alone: that is the rule
        await queue.retry([job.id for job in parked])
        while any(depth.ready for depth in queue.depths()):
            rows = [*await queue.claim("a", 500), *await queue.claim("b", 500)]
            await asyncio.gather(*(_run(queue, row, told.append) for row in rows))
        _expect(all(depth.running + depth.scheduled + depth.dead == 0 for depth in queue.depths()), "left over")
        return len(await queue.jobs(state=JobState.DONE, limit=100_000))

    queue = SqliteQueue.open(path)
    done = asyncio.run(run(queue))
    _expect(queue.close(), "close")
    return done


def owner(path: Path, told: int, rounds: int, stop_at: int) -> None:
    """Be the owning process; die before statement `stop_at` (0: never). Ends with 0 where it came to its end."""
    seen = 0

    def count(_: dict[str, object]) -> None:
        nonlocal seen
        seen += 1
        if seen == stop_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def opens(file: str) -> apsw.Connection:
        connection = connect(file)
        connection.trace_v2(apsw.SQLITE_TRACE_STMT, count)
        return connection

    queue = SqliteQueue.open(path, opens=opens)
    asyncio.run(live(queue, lambda line: os.write(told, f"{line}\n".encode()) and None, rounds))
    queue.close()


def life(path: Path, history: list[str], *, rounds: int, stop_at: int = 0, kill_after_s: float | None = None) -> bool:
    """Have a child own the store, add to `history` what it was told; True where it came to its end."""
    hears, tells = os.pipe()
    child = os.fork()
    if not child:
        os.close(hears)
        try:
            owner(path, tells, rounds, stop_at)
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - a child tells, then ends
            os.write(2, f"{error!r}\n".encode())
            os._exit(3)
    os.close(tells)
    if kill_after_s is not None:
        select.select([], [], [], kill_after_s)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(hears, "rb") as heard:
        text = heard.read().decode()
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise Lost(f"the owner failed with {os.WEXITSTATUS(status)}")
    history.extend(line for line in text.splitlines() if line)
    return os.WIFEXITED(status)


def at_random(folder: Path, lives: int, seed: int) -> str:
    """Kill one store's owners at random instants."""
    chance, history, path = random.Random(seed), list[str](), folder / "queue.db"
    killed = 0
    for _ in range(lives):
        killed += not life(path, history, rounds=10_000, kill_after_s=chance.uniform(0.0, 0.2))
        check(path, history)
    acknowledged = {line.split()[1] for line in history if line.startswith("E")}
    _expect(finish(path) >= len(acknowledged), "acknowledged jobs are missing")
    return f"{killed} killed, {len(history)} acknowledged"


def at_statements(folder: Path, lives: int, seed: int) -> str:
    """Kill before the first statement, the second, … of a small life; `lives` at most, spread over all (0: all)."""
    whole = _statements(folder / "whole.db")
    wanted = range(1, whole + 1)
    chosen = wanted if not lives or lives >= whole else random.Random(seed).sample(wanted, lives)
    for stop_at in chosen:
        history: list[str] = []
        path = folder / f"{stop_at}.db"
        life(path, history, rounds=1, stop_at=stop_at)
        check(path, history)
        finish(path)
    return f"{len(chosen)} of about {whole} statements"


def _statements(path: Path) -> int:
    """Return how many statements a small life has."""
    low, high = 1, 1
    while not life(path.with_name(f"try{high}.db"), [], rounds=1, stop_at=high):
        low, high = high, high * 2
    while high - low > 4:
        middle = (low + high) // 2
        ended = life(path.with_name(f"try{middle}.db"), [], rounds=1, stop_at=middle)
        low, high = (low, middle) if ended else (middle, high)
    return high


if __name__ == "__main__":
    way, place, count_of, seeded = sys.argv[1:]
    try:
        ways = {"random": at_random, "statements": at_statements}
        print(ways[way](Path(place), int(count_of), int(seeded)))
    except (Lost, StoreUnavailable) as broken:
        sys.exit(f"seed {seeded}: {broken}")
