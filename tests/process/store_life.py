"""Lives of a store's owner, and the checker over what it was told: nothing lost, nothing done twice.

The owner writes down what the store acknowledged (`history`), each line after the call returned: `E id` enqueued,
`K id token` claimed, `C id step` checkpointed with the step's effect in the same transaction, `A id` done, `P queue`
paused, `D id` a document put, `M` a drain marked. What takes something away is written down before: `f id` is to
fail, `x id` to be discarded, `p` old results are to go, `u queue` is to be resumed, `m` the mark is to end.

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
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import apsw

from hotreload.errors import LeaseLost, StoreUnavailable
from hotreload.queue.job import Done, Failed, Interrupted, JobRow, JobState, NewJob
from hotreload.queue.sqlite import SqliteQueue
from hotreload.queue.sqlite.connection import connect
from hotreload.queue.verbs import Claim, Exchange
from tests.contracts.stores import counters_agree

STEPS = 3
LEAST = 150
"""Statements that a life which calls everything has at least."""
Tell = Callable[[str], None]


class Lost(AssertionError):
    """The store broke a promise."""


async def live(queue: SqliteQueue, tell: Tell, rounds: int) -> None:
    """Enqueue, run, checkpoint, finish: several at once, so that groups form."""
    await make_effects(queue)
    await asyncio.gather(
        *(_enqueue(queue, tell, rounds) for _ in range(2)), *(_work(queue, tell, rounds) for _ in range(3))
    )


async def make_effects(queue: SqliteQueue) -> None:
    """Make the table of the jobs' own rows."""
    await queue.write(lambda connection: connection.execute("CREATE TABLE IF NOT EXISTS effects (job, step)") and None)


class Clock:
    """The monotonic clock of a store's upkeep; an hour passes when it is told so."""

    def __init__(self) -> None:
        self._ahead_s = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return time.monotonic() + self._ahead_s

    def let_an_hour_pass(self) -> None:
        """Have the next look find a quiet time behind it."""
        self._ahead_s += 3_600


async def disturb(queue: SqliteQueue, clock: Clock) -> None:
    """Beside `live`: put everything back that runs, fold the WAL in, prune; again and again."""
    while True:
        for _ in range(20):
            await queue.write(lambda _: None)
        queue.requeue_running(["a", "b"], 10)
        tend_now(queue, clock)


def tend_now(queue: SqliteQueue, clock: Clock) -> None:
    """Have the writer do its upkeep, as after a quiet time."""
    clock.let_an_hour_pass()
    queue.engine.inbox.wake()


async def every_verb(queue: SqliteQueue, clock: Clock, tell: Tell) -> None:
    """Call all there is, each at least once, a few at once; what the last owner left running was recovered before."""
    await make_effects(queue)
    await asyncio.gather(_enqueue(queue, tell, 2), _enqueue(queue, tell, 2))
    first = await _claim(queue, "a", 3, tell)
    await asyncio.gather(*(_run(queue, row, tell) for row in first[:2]))
    done = await queue.exchange("a", 1, [(row, Interrupted()) for row in first[2:]])
    for row in done.rows:
        tell(f"K {row.id} {row.lease_seq}")
        await queue.settle(row, Interrupted(0.001))
    inbox, verbs = queue.engine.inbox, queue.engine.verbs
    _, taken = await inbox.ask(verbs.exchange, Exchange([], Claim("b", 1)))
    inbox.post(verbs.unclaim, taken)
    for verb in (queue.retry, queue.discard):
        [failing] = await _claim(queue, "b", 1, tell)
        tell(f"f {failing.id}")
        await queue.settle(failing, Failed("as told", for_good=True))
        tell(f"x {failing.id}" if verb == queue.discard else f"f {failing.id}")
        assert await verb([failing.id]) == [failing.id]
    await queue.pause("a")
    tell("P a")
    tell("u a")
    await queue.resume("a")
    for number in range(3):
        await queue.put_document("kind", str(number), {}, keep=2)
        tell(f"D {number}")
    await _claim(queue, "b", 1, tell)
    queue.mark_draining(10)
    tell("M")
    [ending] = await _claim(queue, "a", 1, tell)
    queue.requeue_running(["a", "b"], 10, ended=[(ending, Interrupted())])
    tell("p")
    for name in ("a", "b"):
        queue.keep_done(name, -60)
    tend_now(queue, clock)
    while queue.engine.upkeep.wal_pages or any(standing.done for standing in queue.engine.ledger.standings().values()):
        await queue.write(lambda _: None)
    tell("m")


async def _claim(queue: SqliteQueue, name: str, limit: int, tell: Tell) -> list[JobRow]:
    rows = await queue.claim(name, limit)
    for row in rows:
        tell(f"K {row.id} {row.lease_seq}")
    return rows


async def _enqueue(queue: SqliteQueue, tell: Tell, rounds: int) -> None:
    for _ in range(rounds):
        for job_id in (await queue.enqueue([NewJob("a", {"n": 1}), NewJob("b", None, priority=1)])).ids:
            tell(f"E {job_id}")


async def _work(queue: SqliteQueue, tell: Tell, rounds: int) -> None:
    for _ in range(rounds):
        for row in [*await _claim(queue, "a", 2, tell), *await _claim(queue, "b", 1, tell)]:
            with suppress(LeaseLost):  # it was put back meanwhile
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
    rows = connection.execute("SELECT id, state, cursor, attempts, lease_seq FROM hotreload_jobs")
    states = {str(found): (state, int(cursor or 0), attempts, seq) for found, state, cursor, attempts, seq in rows}
    events = [line.split() for line in history]
    _check_jobs(states, events)
    _check_rest(connection, events)
    twice = connection.execute("SELECT job, step FROM effects GROUP BY job, step HAVING count(*) > 1").fetchall()
    _expect(not twice, f"effects twice: {twice}")
    effects = dict(connection.execute("SELECT job, max(step) FROM effects GROUP BY job"))
    wrong = {job_id: state for job_id, state in states.items() if effects.get(int(job_id), 0) != state[1]}
    _expect(not wrong, f"effects and cursors differ: {wrong}")


def _check_jobs(states: dict[str, tuple[str, int, int, int]], events: list[list[str]]) -> None:
    acks = [rest[0] for kind, *rest in events if kind == "A"]
    _expect(len(acks) == len(set(acks)), "acknowledged twice")
    failed = {rest[0] for kind, *rest in events if kind == "f"}
    going = {rest[0] for kind, *rest in events if kind == "x"}
    going |= set(acks) if ["p"] in events else set()
    tokens: dict[str, int] = {}
    for kind, *rest in events:
        if kind not in "EKCA" or rest[0] in going:
            continue
        job_id, number = rest[0], int((rest[1:] or ["0"])[0])
        _expect(job_id in states, f"job {job_id} is gone")
        state, cursor, attempts, seq = states[job_id]
        _expect(attempts == 0 or job_id in failed, f"job {job_id} used an attempt")
        _expect(kind != "A" or state == JobState.DONE, f"job {job_id} was done and is {state}")
        _expect(kind != "C" or cursor >= number, f"job {job_id} lost step {number}")
        if kind == "K":
            _expect(tokens.get(job_id, 0) < number <= seq, f"job {job_id} was claimed with {number} again, has {seq}")
            tokens[job_id] = number


def _check_rest(connection: apsw.Connection, events: list[list[str]]) -> None:
    """Compare pauses and documents."""
    paused = [rest[0] for kind, *rest in events if kind == "P"]
    if paused and ["u", paused[-1]] not in events:
        _expect(connection.execute("SELECT paused FROM hotreload_queues WHERE name = 'a'").get == 1, "a pause is gone")
    put = [rest[0] for kind, *rest in events if kind == "D"]
    kept = [found for (found,) in connection.execute("SELECT id FROM hotreload_documents WHERE kind = 'kind'")]
    _expect(not put or any(found >= put[-1] for found in kept), f"a document is gone: {put} {kept}")


def _expect(held: bool, what: str) -> None:
    if not held:
        raise Lost(what)


def finish(path: Path, history: Sequence[str] = ()) -> int:
    """Open what was left, run it to its end; return how many jobs are done."""

    async def run(queue: SqliteQueue) -> int:
        told: list[str] = []
        for depth in queue.depths():
            await queue.resume(depth.name)
        parked = await queue.jobs(state=JobState.DEAD, limit=1_000)  # killed thrice while alone: that is the rule
        await queue.retry([job.id for job in parked])
        while any(depth.ready or depth.scheduled for depth in queue.depths()):
            rows = [*await queue.claim("a", 500), *await queue.claim("b", 500)]
            await asyncio.gather(*(_run(queue, row, told.append) for row in rows))
        _expect(all(depth.running + depth.scheduled + depth.dead == 0 for depth in queue.depths()), "left over")
        return len(await queue.jobs(state=JobState.DONE, limit=100_000))

    queue = SqliteQueue.open(path)
    marked = "M" in history and "m" not in history
    _expect(not (marked and queue.recovered.crashed), "a kill in a drain was taken for a crash")
    done = asyncio.run(run(queue))
    _expect(queue.close(), "close")
    _expect(counters_agree(path), "counters")
    return done


def owner(path: Path, told: int, rounds: int, stop_at: int) -> None:
    """Be the owning process, with 0 rounds for every verb once; die before statement `stop_at` (0: never).

    Ends with 0 where it came to its end, after it told `T` and how many statements there were.
    """
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

    def tell(line: str) -> None:
        os.write(told, f"{line}\n".encode())

    clock = Clock()
    queue = SqliteQueue.open(path, opens=opens, monotonic=clock)
    asyncio.run(live(queue, tell, rounds) if rounds else every_verb(queue, clock, tell))
    queue.close()
    tell(f"T {seen}")


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
    """Kill before the first statement, the second, … of a life that calls everything; 0 lives: before each of them.

    Lives begin with nothing, until one comes to its first job; then with what an owner left that was killed at
    work, so that they recover first.
    """
    chance, fresh, left = random.Random(seed), 0, list[str]()
    history: list[str] = []
    while not history:
        fresh += 1
        path = folder / f"fresh{fresh}.db"
        life(path, history, rounds=0, stop_at=fresh)
        check(path, history)
        finish(path, history)
    before = folder / "before.db"
    life(before, left, rounds=10_000, stop_at=LEAST)
    whole, stop_at, killed = 1, 0, 0
    while stop_at < whole:
        stop_at += 1 if not lives else chance.randint(1, max(1, 2 * LEAST // lives))
        path, history = folder / f"{stop_at}.db", list(left)
        for suffix in ("", "-wal"):
            Path(f"{path}{suffix}").write_bytes(Path(f"{before}{suffix}").read_bytes())
        ended = life(path, history, rounds=0, stop_at=stop_at)
        killed += not ended
        whole = _statements(history) if ended else stop_at + 1
        history = [line for line in history if line[0] != "T"]
        check(path, history)
        finish(path, history)
        for left_over in folder.glob(f"{path.name}*"):
            left_over.unlink()
    _expect(whole >= LEAST, f"a whole life had {whole} statements")
    return f"{fresh - 1} kills before the first job, {killed} before {whole} statements of a life that calls everything"


def _statements(history: list[str]) -> int:
    return int(next(line.split()[1] for line in history if line[0] == "T"))


if __name__ == "__main__":
    way, place, count_of, seeded = sys.argv[1:]
    try:
        ways = {"random": at_random, "statements": at_statements}
        print(ways[way](Path(place), int(count_of), int(seeded)))
    except (Lost, StoreUnavailable) as broken:
        sys.exit(f"seed {seeded}: {broken}")
