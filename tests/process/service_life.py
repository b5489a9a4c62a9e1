"""Lives of a whole service, and the checker over its history; the store alone is the matter of store_life.py.

    python -m tests.process.service_life WAY FOLDER COUNT SEED

Ways: `kills` (kill -9 while running and while draining), `restarts` (SIGTERM under load), `drains` (random jobs that
resist in every way), `idle` (drains with nothing to do), `killer` (one of 16 jobs kills its process each time). Lives
are forked from this process, which has no threads and has imported everything. History: `S id step` begun, `C id step`
checkpointed with its effect; claims and acks are recorded by the store itself, with triggers.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hotreload.queue.job import JobState, NewJob

from . import odd_jobs
from .lives import DEADLINE_S, Home, Life, apart, expect, read
from .odd_jobs import STEPS
from .store_life import Lost

ALLOWED_S = 0.1
STOLEN_MOST_S = 0.1
"""What is allowed beyond, at most, for what other processes took of the processor meanwhile."""
DISTURBED_S = 0.03
"""A drain that is later still, and from which this much was taken, says nothing of ours: it is done again."""
ATTEMPTS = 6
IDLE_MS = 50
JOBS = 16


# --- the checker ------------------------------------------------------------------------------------------------


def check(home: Home, wanted: Sequence[str], *, lives: int) -> str:
    """Hold the history against the store once everything is done."""
    history = [line.split() for line in home.lines()]
    begun = Counter((job, step) for kind, job, step in history if kind == "S")
    kept = Counter((job, step) for kind, job, step in history if kind == "C")
    store = home.state / "hotreload.db"
    rows = read(store, "SELECT id, state, attempts, interruptions, crashes FROM hotreload_jobs")
    states = {str(job): (state, attempts, stops, crashes) for job, state, attempts, stops, crashes in rows}
    effects = Counter((str(job), str(step)) for job, step in read(store, "SELECT job, step FROM effects"))
    claims, acks = _claims_and_acks(store)
    expect(set(wanted) == set(states), "jobs are gone, or there are others")
    for job, (state, attempts, stops, crashes) in states.items():
        expect(state == JobState.DONE, f"job {job} is {state}")
        expect(attempts == 0, f"job {job} used {attempts} attempts")
        expect(acks[job] == 1, f"job {job} was acknowledged {acks[job]} times")
        expect(claims[job] == 1 + stops + crashes, f"job {job}: {claims[job]} claims, {stops}+{crashes} stops")
        repeats = sum(begun[job, str(step)] - 1 for step in range(1, STEPS + 1))
        expect(repeats <= stops + crashes <= lives, f"job {job} repeated {repeats} steps in {stops}+{crashes} stops")
        for step in map(str, range(1, STEPS + 1)):
            expect(effects[job, step] == 1, f"effect {step} of job {job} happened {effects[job, step]} times")
            expect(kept[job, step] <= 1, f"step {step} of job {job} was acknowledged twice")
    repeated = sum(begun.values()) - len(begun)
    stopped, crashed = sum(state[2] for state in states.values()), sum(state[3] for state in states.values())
    return (
        f"{len(states)} jobs, {sum(claims.values())} claims, {sum(acks.values())} acks, {repeated} steps repeated, "
        f"{stopped} interruptions, {crashed} crashes, 0 lost, 0 twice"
    )


def _claims_and_acks(store: Path) -> tuple[Counter[str], Counter[str]]:
    """Count what the store recorded; no claim may have the token of an earlier one."""
    moves = read(store, "SELECT job, went_to, lease_seq FROM moves ORDER BY rowid")
    claims = [(str(job), token) for job, to, token in moves if to == JobState.RUNNING]
    expect(len(set(claims)) == len(claims), "a fencing token was given twice")
    return Counter(job for job, _ in claims), Counter(str(job) for job, to, _ in moves if to == JobState.DONE)


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
    """Kill one service again and again, every second time in its drain: then it is no crash."""
    home = Home(folder)
    home.add(steps(20 * count, chance))
    home.record()
    wanted = ids(home)
    in_drain = 0
    for number in range(count):
        life, before = home.live(), len(home.lines())
        life.until(lambda before=before: len(home.lines()) > before)
        life.gone(chance.uniform(0, 0.25))
        draining = False
        if number % 2:
            life.send(signal.SIGTERM)
            life.until(home.draining)
            life.gone(chance.uniform(0, 0.3))
            draining = not life.gone(0)
        life.send(signal.SIGKILL)
        life.end()
        if number % 2:
            found = home.recovered()
            expect(not found["crashed"], f"a kill in a drain was a crash: {found}")
            in_drain += draining
    finish(home)
    return f"{count} kills, {in_drain} of them in a drain: {check(home, wanted, lives=count)}"


def restarts(folder: Path, count: int, chance: random.Random) -> str:
    """Restart one service under load."""
    home = Home(folder)
    home.add([NewJob("odd", {"way": "plain", "seconds": 0.2}) for _ in range(JOBS * (count + 1))])
    home.record()
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
    return f"{count} restarts: {check(home, wanted, lives=count)}"


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
    ("odd", "raises", (0.3, 30.0)),
    ("odd", "fails", (0.0,)),
    ("odd", "enqueues", (0.05, 0.3)),
    ("threads", "forks", (0.0,)),
    ("odd", "busy", (0.3, 0.9, 1.0, 30.0)),  # freed before, and inside, the time kept for the flush
    ("odd", "without_gil", (0.3, 30.0)),
    ("odd", "with_gil", (0.0,)),
    ("threads", "plain", (0.05, 30.0)),
    ("threads", "busy", (0.2, 30.0)),
    ("threads", "with_gil", (0.0,)),
    ("processes", "busy", (0.1, 30.0)),
    ("processes", "with_gil", (0.0,)),
)


def idle(folder: Path, count: int, chance: random.Random) -> str:
    """Drain services with nothing to do, beside processes of the same size that end at once at the signal."""
    took: list[tuple[float, float, float, float]] = []
    for number in range(count):
        home = Home(folder / str(number))
        life = home.live()
        life.until(lambda life=life: "listening" in life.log())
        life.gone(chance.uniform(0.2, 0.4))
        gone_s, stolen_s = life.stop(watched_from_s=0.0)
        report = apart(lambda home=home: _found(home))["report"]
        bare_s = _bare_s()
        ours_s = gone_s - bare_s - min(stolen_s, STOLEN_MOST_S)
        took.append((report["elapsed_s"] * 1000, gone_s * 1000, bare_s * 1000, ours_s * 1000))
    told, gone, bare, ours = (sorted(one)[count // 2] for one in zip(*took, strict=True))
    expect(ours <= IDLE_MS, f"{took}")
    return (
        f"{count} idle drains (medians): {told:.1f} ms to the report, {gone:.1f} ms until the process was gone, "
        f"{bare:.1f} ms of them for a process that only ends; {ours:.1f} ms ours, less what others took"
    )


def _bare_s() -> float:
    """Return how long a process takes to be gone that ends itself at once when it is told to."""
    ready, tells = os.pipe()
    child = os.fork()
    if not child:
        signal.signal(signal.SIGTERM, lambda *_heard: os._exit(0))
        os.write(tells, b"x")
        while True:
            signal.pause()
    os.read(ready, 1)
    pidfd = os.pidfd_open(child)
    began = time.monotonic()
    os.kill(child, signal.SIGTERM)
    select.select([pidfd], [], [])
    took_s = time.monotonic() - began
    os.waitpid(child, 0)
    for descriptor in (ready, tells, pidfd):
        os.close(descriptor)
    return took_s


def drains(folder: Path, count: int, chance: random.Random) -> str:
    """Drain services with random jobs, and hold the report against the queue."""
    over: list[float] = []
    cut_ones = again = 0
    asked: Counter[str] = Counter()
    for number in range(count):
        chosen = [RESISTING[number % len(RESISTING)], *chance.choices(RESISTING, k=chance.randrange(6))]
        if chance.random() < 0.2:
            chosen = [one for one in chosen if one[1] == "plain"]
        by = chance.choice(("signal", "http", "cli")) if _answers(chosen) else "signal"
        for attempt in range(ATTEMPTS):
            home, took_s, stolen_s = _drain(folder / f"{number}-{attempt}", chosen, by, chance)
            late_s = took_s - DEADLINE_S - ALLOWED_S - min(2 * stolen_s, STOLEN_MOST_S)  # two threads are woken to end
            if late_s <= 0:
                break
            if stolen_s < DISTURBED_S or attempt == ATTEMPTS - 1:
                raise Lost(f"{took_s - DEADLINE_S:+.3f} s from the deadline, {chosen}, {stolen_s=:.3f}: {home.log()}")
            again += 1
        over.append(took_s - DEADLINE_S)
        cut_ones += _agree(home, chosen)
        asked[by] += 1
    late = sum(one > ALLOWED_S for one in over)
    return (
        f"{count} drains ({', '.join(f'{many} by {by}' for by, many in asked.items())}), the last gone "
        f"{max(over) * 1000:+.0f} ms from the deadline, {late} later than {ALLOWED_S * 1000:.0f} ms, {again} done "
        f"again as others took the processor, {cut_ones} reconstructed, 0 lost"
    )


def _answers(chosen: Sequence[Any]) -> bool:
    """Say whether the event loop answers requests while these jobs run."""
    return not any(way == "with_gil" or (queue == "odd" and way in odd_jobs.BLOCKING) for queue, way, _ in chosen)


def _drain(folder: Path, chosen: Sequence[Any], by: str, chance: random.Random) -> tuple[Home, float, float]:
    """Run one service with these jobs and drain it; how long it took, and how much others took of the processor."""
    home = Home(folder, limit=chance.choice((2, 8)))
    home.add([NewJob(queue, {"way": way, "seconds": chance.choice(times)}) for queue, way, times in chosen])
    life = home.live()
    life.until(lambda: "listening" in life.log())
    life.until(lambda: not chosen or bool(home.lines()))
    life.gone(chance.uniform(0.0, 0.3) if chosen else 0.5)
    return home, *life.stop(by)


def _agree(home: Home, chosen: Sequence[Any]) -> bool:
    """Compare the report with the queue; True where the next start had to make it."""
    found = apart(lambda: _found(home))
    report, jobs = found["report"], {job["id"]: job for job in home.jobs()}
    expect(report is not None, f"no report with {chosen}")
    expect(report["lost"] == 0 and report["flushed"], f"lost: {report}")
    expect(not found["crashed"], f"counted as crashes: {found} with {chosen}")
    waits = (JobState.READY, JobState.SCHEDULED)
    expect(all(jobs[job]["state"] in waits for job in report["requeued"]), f"{report} and {jobs}")
    expect(all(jobs[job]["state"] == JobState.DONE for job in report["finished"]), f"{report} and {jobs}")
    failing = {job["id"] for job in jobs.values() if job["payload"]["way"] == "fails"}
    ended_badly = {job["id"] for job in jobs.values() if job["payload"]["way"] == "raises"}
    tried = {job["id"] for job in jobs.values() if job["attempts"]}
    expect(tried <= failing | ended_badly, f"an attempt was used with {chosen}: {jobs}")
    added = {job["id"] for job in jobs.values() if job["dedupe_key"]}
    expect(len(jobs) - len(added) == len(chosen), "a job is gone")
    back = {job["id"] for job in jobs.values() if job["interruptions"]}
    expect(back <= set(report["requeued"]), f"interrupted {back}, {report}")
    expect(set(report["requeued"]) - back <= failing | ended_badly, f"interrupted {back}, {report}")
    return report["reconstructed"]


def _found(home: Home) -> dict[str, Any]:
    """Do what the next start does, and return the drain's report and who crashed."""
    queue = home.open()
    kept = queue.documents("drain", 1)
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
