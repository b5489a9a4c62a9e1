"""Three nodes on a PostgreSQL while nodes, database and network fail at random, and the checker over the history.

HOTRELOAD_FLEET_ROUNDS says how many failures, _FLEET_JOBS how many jobs, _FLEET_STOP how many seconds a node is stopped
at most; `make campaign-postgres` has large counts.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
import psycopg
import pytest

from hotreload.errors import StoreUnavailable
from hotreload.queue.job import JobState, NewJob
from hotreload.queue.postgres import PostgresQueue
from tests.contracts.postgres import Server
from tests.contracts.proxy import FailingProxy
from tests.counts import counted, patience_s

from .fleet_node import FAILS_EVERY, STEPS, TTL_S
from .running import ROOT, UNMEASURED
from .wall_clock import WallClock

HOUR_S = 3_600
SOON_MS = 60_000
STOP_LEAST_S = 0.5 * TTL_S
STOP_MOST_S = counted("FLEET_STOP", 8, least=5)
# A server with this default loses what it acknowledged when it is killed, unless a client asks for more.
_LOSES = "ALTER ROLE tests SET synchronous_commit = off"
_WITNESS = """
CREATE TABLE acks (job bigint NOT NULL);
CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN INSERT INTO acks VALUES (new.id); RETURN new; END $$;
CREATE TRIGGER witnessed AFTER UPDATE OF state ON hotreload_jobs FOR EACH ROW
WHEN (new.state = 'done') EXECUTE FUNCTION witness()
"""


class Broken(AssertionError):
    """The history holds what must not happen."""


class Fleet:
    """The nodes, each behind a network of its own, what they wrote down, and what was asked of them."""

    def __init__(self, server: Server, folder: Path, *, step_s: float, unfenced: str = "") -> None:
        self.server = server
        server.start()  # whatever a test before did to it
        self.address = server.schema(folder.name.replace("-", "_").lower())
        self.folder = folder
        self._step_s = step_s
        self._unfenced = unfenced
        self.proxies = {name: FailingProxy(server.folder) for name in ("one", "two", "three")}
        self.clocks = {name: WallClock(folder / f"{name}.clock") for name in self.proxies}
        self.nodes: dict[str, subprocess.Popen[bytes]] = {}
        self.stopped: dict[str, float] = {}
        self.gone: list[subprocess.Popen[bytes]] = []
        self.wanted: set[str] = set()
        with psycopg.connect(self.address, autocommit=True) as connection:
            connection.execute(_LOSES)
        # The jobs are asked for here; results stay, for the checker.
        self.queue = PostgresQueue.open(self.address, "driver", keep_done_most=10_000_000)
        with psycopg.connect(self.address, autocommit=True) as connection:
            connection.execute(_WITNESS)

    def start(self, name: str) -> None:
        """Start a node, or one that ended again."""
        address, history = self.proxies[name].dsn(self.address), str(self.folder / name)
        fenced = "no" if name == self._unfenced else "yes"
        command = [sys.executable, "-m", "tests.process.fleet_node", address, name, history, str(self._step_s), fenced]
        environment = UNMEASURED | self.clocks[name].environment
        with (self.folder / f"{name}.log").open("ab") as log:
            self.nodes[name] = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def tend(self) -> None:
        """Wake the nodes that were stopped for long enough, start those that have ended."""
        for name, until in list(self.stopped.items()):
            if time.monotonic() >= until:
                self.wake(name)
        for name, node in list(self.nodes.items()):
            if node.poll() is not None:
                self.stopped.pop(name, None)
                self.start(name)

    def stop(self, name: str, seconds: float) -> None:
        """Stop a node where it is; `tend` wakes it."""
        self.nodes[name].send_signal(signal.SIGSTOP)
        self.stopped[name] = time.monotonic() + seconds

    def wake(self, name: str) -> None:
        """Let a stopped node go on."""
        self.nodes[name].send_signal(signal.SIGCONT)
        self.stopped.pop(name, None)

    def drop(self, name: str) -> subprocess.Popen[bytes]:
        """Look after a node no longer, so that it is not started again; returns its process, which `close` ends."""
        self.gone.append(self.nodes.pop(name))
        return self.gone[-1]

    def enqueue(self, first: int, count: int, within_s: float) -> None:
        """Ask for jobs by key, again and again while the database is out: each is there once."""
        jobs = [NewJob("a", number, dedupe_key=str(number)) for number in range(first, first + count)]
        until = time.monotonic() + within_s
        while True:
            try:
                added = self.queue.enqueue_sync(jobs, unless_done_since_ms=0, timeout_s=within_s)
                break
            except (StoreUnavailable, TimeoutError):
                if time.monotonic() > until:
                    raise
                self.rest(0.1)
        self.wanted.update(job.id for job in added.jobs)

    def rest(self, seconds: float) -> None:
        """Let time pass, and the nodes be looked after."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.tend()
            signal.sigtimedwait([signal.SIGCHLD], min(left, 0.1))

    def count(self, of: str) -> int:
        """Return how many rows there are of a table or of a part of it; the database is asked until it answers."""
        while True:
            with suppress(psycopg.Error), psycopg.connect(self.address) as connection:
                row = connection.execute(f"SELECT count(*) FROM {of}".encode()).fetchone()
                assert row is not None
                return row[0]
            self.rest(0.1)

    def until_done(self, within_s: float) -> None:
        """Wait until no job is left to do; those that were parked by chance are tried again."""
        until = time.monotonic() + within_s
        while self.count("(SELECT FROM hotreload_jobs WHERE state <> 'done' LIMIT 1) AS left_to_do"):
            assert time.monotonic() < until, self.logs()
            if self.count("hotreload_jobs WHERE state = 'dead'"):
                anyio.run(self._retry_dead)
            self.rest(0.1)

    async def _retry_dead(self) -> None:
        dead = await self.queue.jobs(state=JobState.DEAD, limit=1_000)
        await self.queue.retry([job.id for job in dead])

    def logs(self) -> str:
        """Return the end of what each node said."""
        return "\n".join(f"{name}: {(self.folder / f'{name}.log').read_text()[-1500:]}" for name in self.nodes)

    def end(self) -> None:
        """Let each node end in its own way: what one that was stopped still wants to write is written before."""
        for name in list(self.stopped):
            self.wake(name)
        for node in self.nodes.values():
            node.terminate()
        for node in self.nodes.values():
            node.wait(60)

    def close(self) -> None:
        """End everything."""
        for node in (*self.nodes.values(), *self.gone):
            node.kill()
            node.wait()
        self.queue.close()
        for proxy in self.proxies.values():
            proxy.close()


def check(fleet: Fleet) -> str:
    """Hold the history against the database; Broken names the first job that is wrong. Return the figures."""
    lines = [line.split() for name in fleet.proxies if (fleet.folder / name).exists() for line in _lines(fleet, name)]
    failed = Counter(job for kind, job, *_ in lines if kind == "F")
    begun = Counter((job, step) for kind, job, *rest in lines if kind == "S" for step in rest)
    with psycopg.connect(fleet.address) as connection:
        acks = Counter(str(job) for (job,) in connection.execute("SELECT job FROM acks"))
        sql = "SELECT id, state, attempts + interruptions + crashes FROM hotreload_jobs"
        jobs = {str(job): (state, ends - failed[str(job)]) for job, state, ends in connection.execute(sql)}
    if lost := fleet.wanted - set(jobs):
        raise Broken(f"lost: {sorted(lost)[:9]}")
    repeated = Counter[str]()
    for (job, _step), times in begun.items():
        repeated[job] += times - 1
    for job, (state, ends) in jobs.items():
        if state != JobState.DONE or acks[job] != 1:
            raise Broken(f"job {job} is {state}, acknowledged {acks[job]} times")
        if missing := [step for step in range(STEPS) if not begun[job, str(step)]]:
            raise Broken(f"job {job} is done, but its steps {missing} never began")
        if repeated[job] > ends:
            raise Broken(f"job {job} repeated {repeated[job]} steps over {ends} ends of a claim")
    ends = sum(ends for _, ends in jobs.values())
    return f"{len(jobs):,} jobs, 0 lost, 0 acknowledged twice, {sum(repeated.values())} steps repeated over {ends} cuts"


def _lines(fleet: Fleet, name: str) -> list[str]:
    return [line for line in (fleet.folder / name).read_text().split("\n")[:-1] if line]


WAYS = ("kill", "stop", "cut", "delay", "half-close", "swallow", "clock", "database", "database killed", "backend")


def fail(way: str, fleet: Fleet, chance: random.Random) -> None:
    """Let one thing fail."""
    name = chance.choice(list(fleet.nodes))
    proxy, node = fleet.proxies[name], fleet.nodes[name]
    if way == "kill":
        node.kill()
    elif way == "stop":
        fleet.stop(name, chance.uniform(STOP_LEAST_S, STOP_MOST_S))
    elif way == "clock":
        fleet.clocks[name].set(chance.choice((-1, 1)) * chance.choice((5, HOUR_S, 400 * 24 * HOUR_S)))
    elif way in ("cut", "half-close"):
        (proxy.cut if way == "cut" else proxy.half_close)()
    elif way == "delay":
        proxy.delay(chance.uniform(0.01, 0.3))
        fleet.rest(chance.uniform(0.5, 2))
        proxy.heal()
    elif way == "swallow":
        proxy.swallow()
        fleet.rest(chance.uniform(0.5, 1.5) * TTL_S)
        proxy.heal()
    elif way in ("database", "database killed"):
        fleet.server.kill() if way == "database killed" else fleet.server.stop("immediate")
        fleet.rest(chance.uniform(0, 2))
        fleet.server.start()
    else:
        with suppress(ProcessLookupError):
            os.kill(chance.choice(fleet.server.backends()), signal.SIGKILL)


@pytest.mark.deadline
@pytest.mark.timeout(0)
def test_whatever_fails_no_job_is_lost_or_acknowledged_twice_and_a_crash_repeats_one_step(
    server: Server, short_path: Path, figures: Callable[[str], None]
) -> None:
    rounds = counted("FLEET_ROUNDS", len(WAYS))
    jobs = counted("FLEET_JOBS", 600)
    each = jobs // rounds
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    fleet = Fleet(server, short_path, step_s=0.005)
    ways = Counter[str]()
    began = time.monotonic()
    try:
        for name in fleet.proxies:
            fleet.start(name)
        once_each, then = chance.sample(WAYS, len(WAYS)), chance.choices(WAYS, k=rounds)
        for number, way in enumerate([*once_each, *then][:rounds]):
            fleet.enqueue(number * each, each, 60)
            fleet.rest(chance.uniform(0, 1.5))
            ways[way] += 1
            fail(way, fleet, chance)
        fleet.until_done(patience_s(60, jobs, 600))
        fleet.end()
        found = check(fleet)
    finally:
        fleet.close()
    named = ", ".join(f"{count} {way}" for way, count in sorted(ways.items()))
    figures(f"{rounds} rounds in {time.monotonic() - began:.0f} s ({named}; seed {seed}): {found}")


@pytest.mark.timeout(100)
@pytest.mark.parametrize("unfenced", ["", "one"])
def test_the_checker_finds_a_node_that_writes_without_its_token(
    server: Server, short_path: Path, unfenced: str
) -> None:
    fleet = Fleet(server, short_path, step_s=0.5, unfenced=unfenced)
    try:
        fleet.start("one")
        fleet.enqueue(1, 1, 20)
        while not (short_path / "one").exists() or not _lines(fleet, "one"):
            fleet.rest(0.02)
        fleet.stop("one", 600)
        fleet.start("two")
        fleet.until_done(60)
        gone = fleet.drop("one")
        gone.send_signal(signal.SIGCONT)
        if unfenced:
            while fleet.count("acks") < 2:
                fleet.rest(0.02)
            gone.terminate()
        gone.wait(30)
        if unfenced:
            with pytest.raises(Broken, match="acknowledged 2 times"):
                check(fleet)
        else:
            assert "1 jobs, 0 lost" in check(fleet)
    finally:
        fleet.close()


@pytest.mark.timeout(100)
@pytest.mark.parametrize("ahead_s", [HOUR_S, -HOUR_S])
def test_what_a_node_writes_is_on_the_clock_of_the_database(server: Server, short_path: Path, ahead_s: int) -> None:
    fleet = Fleet(server, short_path, step_s=0)
    off = "abs({0} - extract(epoch FROM clock_timestamp()) * 1000) > {1}"
    wrong = " OR ".join(off.format(each, SOON_MS) for each in ("run_at_ms", "ended_at_ms"))
    try:
        fleet.clocks["one"].set(ahead_s)
        fleet.start("one")
        fleet.enqueue(0, FAILS_EVERY, 20)
        fleet.until_done(60)
        fleet.clocks["one"].set(-ahead_s)
        fleet.enqueue(FAILS_EVERY, FAILS_EVERY, 20)
        fleet.until_done(60)
        fleet.end()
        assert fleet.count("hotreload_jobs WHERE attempts > 0") == 2
        assert not fleet.count(f"hotreload_jobs WHERE {wrong}")
    finally:
        fleet.close()
