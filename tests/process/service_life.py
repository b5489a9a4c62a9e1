"""Lives of a whole service, and the checker over its history; the store alone is the matter of store_life.py.

    python -m tests.process.service_life WAY FOLDER COUNT SEED

Ways: `kills` (kill -9 while running and while draining), `restarts` (SIGTERM under load), `drains` (random jobs that
resist in every way), `idle` (drains with nothing to do), `killer` (one of 16 jobs kills its process each time). Lives
are forked from this process, which has no threads and has imported everything. History: `S id step` begun, `C id step`
checkpointed with its effect.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import random
import select
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import apsw

from hotreload.cli import run_verb
from hotreload.host import cut
from hotreload.queue.job import JobState, NewJob
from hotreload.queue.sqlite import SqliteQueue

from . import odd_jobs
from .odd_jobs import STEPS
from .store_life import Lost

DEADLINE_S = 1.0
ALLOWED_S = 0.1
IDLE_MS = 50
JOBS = 16


def expect(held: bool, what: str) -> None:
    """Raise Lost unless it held."""
    if not held:
        raise Lost(what)


def apart(function: Callable[[], Any]) -> Any:
    """Call a function in a child and return its JSON value: it may start threads, and this process must have none."""
    hears, tells = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(tells, json.dumps(function()).encode())
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a child tells, then ends
            traceback.print_exc()
            os._exit(1)
    os.close(tells)
    with os.fdopen(hears, "rb") as heard:
        text = heard.read()
    expect(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "a child failed")
    return json.loads(text)


async def _whole(queue: SqliteQueue) -> list[dict[str, Any]]:
    return [asdict(whole) for job in await queue.jobs(limit=100_000) if (whole := await queue.job(job.id))]


class Home:
    """The folder of one service."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.state = folder / ".hotreload"
        self.history = folder / "history"
        self.state.mkdir(mode=0o700, parents=True)
        self.history.touch()
        hotreload = {"drain_deadline_s": DEADLINE_S, "watch": False}
        conf = {"hotreload": hotreload, "history": str(self.history), **settings}
        (folder / "ov.conf").write_text(json.dumps(conf))

    def open(self) -> SqliteQueue:
        """Own the store, as the next start does."""
        note = cut.read_note(self.state)
        return SqliteQueue.open(self.state / "hotreload.db", cut=note, report_cut=cut.reconstruct)

    def add(self, jobs: Sequence[NewJob]) -> None:
        """Put jobs into the queue, with nobody running."""

        def enqueue() -> None:
            queue = self.open()
            asyncio.run(queue.enqueue(jobs))
            queue.close()

        apart(enqueue)

    def jobs(self) -> list[dict[str, Any]]:
        """Return every job there is."""

        def read() -> list[dict[str, Any]]:
            queue = self.open()
            found = asyncio.run(_whole(queue))
            queue.close()
            return found

        return apart(read)

    def lines(self) -> list[str]:
        """Return the history."""
        return self.history.read_text().splitlines()

    def live(self) -> Life:
        """Start the service."""
        return Life(self)


class Life:
    """One process of the service."""

    def __init__(self, home: Home, *more: str) -> None:
        self._home = home
        self.pid = os.fork()
        if not self.pid:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: nothing outlives a test
            log = os.open(home.folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            arguments = ["--config", str(home.folder / "ov.conf"), "--socket", str(home.folder / "run" / "s")]
            os._exit(run_verb(["run", "tests.process.odd_jobs:service", *arguments, *more]))
        self._pidfd = os.pidfd_open(self.pid)

    def until(self, reached: Callable[[], bool], within_s: float = 20.0) -> None:
        """Wait until `reached`, or the process is gone."""
        ends = time.monotonic() + within_s
        while not reached() and not self.gone(0.005):
            if time.monotonic() > ends:
                raise Lost(f"not within {within_s:g} s: {self.log()}")

    def gone(self, within_s: float) -> bool:
        """Say whether the process ended within a time."""
        return bool(select.select([self._pidfd], [], [], within_s)[0])

    def send(self, number: int) -> None:
        """Send a signal; the process is ours, and is reaped only by `end`."""
        signal.pidfd_send_signal(self._pidfd, number)

    def stop(self) -> tuple[float, float]:
        """Send SIGTERM; return how long the process took to be gone, and how late this one was woken towards the end.

        The second figure, a sum, is what a busy machine takes from everybody.
        """
        began = before = time.monotonic()
        self.send(signal.SIGTERM)
        stolen_s = 0.0
        while not self.gone(0.005) and before - began < DEADLINE_S + 10:
            now = time.monotonic()
            late_s = now - before - 0.006
            stolen_s += late_s if late_s > 0 and now - began > DEADLINE_S - 0.3 else 0.0
            before = now
        took_s = time.monotonic() - began
        self.end()
        return took_s, stolen_s

    def end(self, within_s: float = 30.0) -> int:
        """Wait for its end and return the exit status, negative for a signal."""
        if not self.gone(within_s):
            raise Lost(f"still there after {within_s:g} s: {self.log()}")
        os.close(self._pidfd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def log(self) -> str:
        """Return the end of what it said."""
        log = self._home.folder / "log"
        return log.read_text(errors="replace")[-3000:] if log.exists() else ""


# --- the checker ------------------------------------------------------------------------------------------------


def check(home: Home, wanted: Sequence[str], *, lives: int) -> str:
    """Hold the history against the store once everything is done."""
    history = [line.split() for line in home.lines()]
    begun = Counter((job, step) for kind, job, step in history if kind == "S")
    kept = Counter((job, step) for kind, job, step in history if kind == "C")
    connection = apsw.Connection(str(home.state / "hotreload.db"))
    rows = connection.execute("SELECT id, state, attempts, interruptions, crashes FROM hotreload_jobs").fetchall()
    states = {str(job): (state, attempts, stops, crashes) for job, state, attempts, stops, crashes in rows}
    effects = Counter((str(job), str(step)) for job, step in connection.execute("SELECT job, step FROM effects"))
    connection.close()
    expect(set(wanted) == set(states), "jobs are gone, or there are others")
    for job, (state, attempts, stops, crashes) in states.items():
        expect(state == JobState.DONE, f"job {job} is {state}")
        expect(attempts == 0, f"job {job} used {attempts} attempts")
        repeats = sum(begun[job, str(step)] - 1 for step in range(1, STEPS + 1))
        expect(repeats <= stops + crashes <= lives, f"job {job} repeated {repeats} steps in {stops}+{crashes} stops")
        for step in map(str, range(1, STEPS + 1)):
            expect(effects[job, step] == 1, f"effect {step} of job {job} happened {effects[job, step]} times")
            expect(kept[job, step] <= 1, f"step {step} of job {job} was acknowledged twice")
    repeated = sum(begun.values()) - len(begun)
    stopped, crashed = sum(state[2] for state in states.values()), sum(state[3] for state in states.values())
    return f"{len(states)} jobs, {repeated} steps repeated, {stopped} interruptions, {crashed} crashes, 0 lost, 0 twice"


def finish(home: Home) -> None:
    """Let the service run to its end."""
    (home.folder / "ov.conf").write_text(json.dumps({"history": str(home.history), "limit": 100}))
    code = Life(home, "--until-idle").end(120)
    expect(code == 0, f"left with {code}")


def steps(count: int, chance: random.Random) -> list[NewJob]:
    """Return jobs of a few short steps, some of them in threads."""
    queues = ("odd", "odd", "threads")
    return [NewJob(chance.choice(queues), {"way": "plain", "seconds": chance.uniform(0, 0.1)}) for _ in range(count)]


def ids(home: Home) -> list[str]:
    """Return the ids of every job there is."""
    return [job["id"] for job in home.jobs()]


# --- the ways ---------------------------------------------------------------------------------------------------


def kills(folder: Path, count: int, chance: random.Random) -> str:
    """Kill one service again and again, every second time in its drain."""
    home = Home(folder)
    home.add(steps(20 * count, chance))
    wanted = ids(home)
    for number in range(count):
        life, before = home.live(), len(home.lines())
        life.until(lambda before=before: len(home.lines()) > before)
        life.gone(chance.uniform(0, 0.25))
        if number % 2:
            life.send(signal.SIGTERM)
            life.gone(chance.uniform(0, 0.3))
        life.send(signal.SIGKILL)
        life.end()
    finish(home)
    return check(home, wanted, lives=count)


def restarts(folder: Path, count: int, chance: random.Random) -> str:
    """Restart one service under load."""
    home = Home(folder)
    home.add([NewJob("odd", {"way": "plain", "seconds": 0.2}) for _ in range(JOBS * (count + 1))])
    wanted = ids(home)
    for _ in range(count):
        life, before = home.live(), len(home.lines())
        life.until(lambda before=before: len(home.lines()) >= before + JOBS)
        life.send(signal.SIGTERM)
        life.gone(chance.uniform(0, 0.02))
        life.send(signal.SIGTERM)  # no grace: all 16 are interrupted
        code = life.end(DEADLINE_S + 5)
        expect(code == 0, f"left with {code}: {life.log()}")
    finish(home)
    return check(home, wanted, lives=count)


def killer(folder: Path, count: int, chance: random.Random) -> str:
    """Of 16 running jobs one kills its process each time; `count` is how often all of it is done."""
    told: list[str] = []
    for number in range(count):
        home = Home(folder / str(number))
        ways = ["plain"] * (JOBS - 1)
        ways.insert(chance.randrange(JOBS), "kills")
        home.add([NewJob("odd", {"way": way, "seconds": 0.02}) for way in ways])
        codes: list[int] = []
        while 0 not in codes and 1 not in codes and len(codes) < 20:
            codes.append(Life(home, "--until-idle").end(60))
        jobs = home.jobs()
        dead = [job for job in jobs if job["state"] == JobState.DEAD]
        expect([job["payload"]["way"] for job in dead] == ["kills"], f"parked: {dead}")
        expect("crashed" in dead[0]["reason"], dead[0]["reason"])
        expect(sum(job["state"] == JobState.DONE for job in jobs) == JOBS - 1, f"not all others are done: {jobs}")
        expect(all(job["attempts"] == 0 for job in jobs), "an attempt was used")
        told.append(f"{len(codes)} lives")
    return f"the killer is parked, the {JOBS - 1} others are done, after {', '.join(told)}"


RESISTING: tuple[tuple[str, str, tuple[float, ...]], ...] = (
    ("odd", "plain", (0.0, 0.05, 30.0)),
    ("odd", "needs", (0.05, 0.3, 30.0)),
    ("odd", "shields", (0.1, 30.0)),
    ("odd", "swallows", (0.0,)),
    ("odd", "stray", (0.0, 30.0)),
    ("odd", "to_thread", (0.1, 30.0)),
    ("odd", "busy", (0.3, 30.0)),
    ("odd", "without_gil", (0.3, 30.0)),
    ("odd", "with_gil", (0.0,)),
    ("threads", "plain", (0.05, 30.0)),
    ("threads", "busy", (0.2, 30.0)),
    ("threads", "with_gil", (0.0,)),
    ("processes", "busy", (0.1, 30.0)),
    ("processes", "with_gil", (0.0,)),
)


def idle(folder: Path, count: int, chance: random.Random) -> str:
    """Drain services with nothing to do; from the signal to the report, and to the end of the process."""
    took: list[tuple[float, float]] = []
    for number in range(count):
        home = Home(folder / str(number))
        life = home.live()
        life.until(lambda life=life: "listening" in life.log())
        life.gone(chance.uniform(0.2, 0.4))
        gone_s, _ = life.stop()
        report = apart(lambda home=home: _found(home))["report"]
        took.append((report["elapsed_s"] * 1000, gone_s * 1000))
    ours, gone = (sorted(one)[count // 2] for one in zip(*took, strict=True))
    expect(ours <= IDLE_MS, f"{took}")
    return f"{count} idle drains: {ours:.0f} ms to the report, {gone:.0f} ms until the process was gone (medians)"


def drains(folder: Path, count: int, chance: random.Random) -> str:
    """Drain services with random jobs, and hold the report against the queue."""
    over: list[float] = []
    stolen: list[float] = []
    cut_ones = 0
    for number in range(count):
        home = Home(folder / str(number), limit=chance.choice((2, 8)))
        chosen = [RESISTING[number % len(RESISTING)], *chance.choices(RESISTING, k=chance.randrange(6))]
        if chance.random() < 0.3:
            chosen = [one for one in chosen if one[1] == "plain"]
        home.add([NewJob(queue, {"way": way, "seconds": chance.choice(times)}) for queue, way, times in chosen])
        life = home.live()
        life.until(lambda life=life: "listening" in life.log())
        life.until(lambda home=home, nothing=not chosen: nothing or bool(home.lines()))
        life.gone(chance.uniform(0.0, 0.3) if chosen else 0.5)
        took_s, stolen_s = life.stop()
        over.append(took_s - DEADLINE_S)
        stolen.append(stolen_s)
        if over[-1] > ALLOWED_S + 3 * stolen_s:  # its threads must be woken one after the other to end
            raise Lost(f"{over[-1] * 1000:+.0f} ms from the deadline, {chosen}, {stolen_s=:.3f}: {life.log()}")
        cut_ones += _agree(home, chosen)
    return (
        f"{count} drains, the last gone {max(over) * 1000:+.0f} ms from the deadline ({max(stolen) * 1000:.0f} ms were "
        f"taken by other processes at worst), {cut_ones} reconstructed, 0 lost"
    )


def _agree(home: Home, chosen: Sequence[Any]) -> bool:
    """Compare the report with the queue; True where the next start had to make it."""
    found = apart(lambda: _found(home))
    report, jobs = found["report"], {job["id"]: job for job in home.jobs()}
    expect(report is not None, f"no report with {chosen}")
    expect(report["lost"] == 0, f"lost: {report}")
    expect(not found["crashed"], f"counted as crashes: {found} with {chosen}")
    expect(all(jobs[job]["state"] == JobState.READY for job in report["requeued"]), f"{report} and {jobs}")
    expect(all(jobs[job]["state"] == JobState.DONE for job in report["finished"]), f"{report} and {jobs}")
    expect(all(job["attempts"] == 0 for job in jobs.values()), f"an attempt was used with {chosen}")
    expect(len(jobs) == len(chosen), "a job is gone")
    back = {job["id"] for job in jobs.values() if job["interruptions"]}
    expect(back == set(report["requeued"]), f"interrupted {back}, {report}")
    return report["reconstructed"]


def _found(home: Home) -> dict[str, Any]:
    """Do what the next start does, and return the drain's report and who crashed."""
    queue = home.open()
    kept = queue.documents_sync("drain", 1)
    queue.close()
    return {"report": kept[0].body if kept else None, "crashed": list(queue.recovered.crashed)}


if __name__ == "__main__":
    way, place, count_of, seeded = sys.argv[1:]
    assert odd_jobs.service.name == "odd"
    try:
        ways = {"kills": kills, "restarts": restarts, "drains": drains, "killer": killer, "idle": idle}
        print(ways[way](Path(place), int(count_of), random.Random(int(seeded))))
    except Lost as broken:
        sys.exit(f"seed {seeded}: {broken}")
