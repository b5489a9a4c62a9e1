"""Signals of a whole service: further ones, those of its children, those somebody else takes, and kills in a drain."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import apsw
import pytest

from tests.process.lives import read
from tests.process.running import wait_until
from tests.process.serving import Running, put, serving

pytestmark = pytest.mark.anyio
TARGET = "tests.process.odd_jobs:service"


@asynccontextmanager
async def odd(folder: Path, deadline_s: float = 60.0, target: str = TARGET) -> AsyncIterator[Running]:
    put(folder / "ov.conf", history=str(folder / "history"), hotreload={"drain_deadline_s": deadline_s})
    async with serving(folder, target=target, measured=False) as service:
        yield service


async def add(service: Running, queue: str, way: str, seconds: float = 0.0) -> str:
    payload = {"way": way, "seconds": seconds}
    answer = await service.http.post("/admin/jobs", json={"queue": queue, "payload": payload})
    return answer.json()["id"]


async def begun(service: Running, job: str) -> None:
    """Wait until a job said that it is at work; needs nothing of the service."""
    history = service.folder / "history"

    async def said() -> bool:
        return history.exists() and any(line.split()[:2] == ["S", job] for line in history.read_text().splitlines())

    await wait_until(said, 20, f"job {job} is at work")


async def ended(service: Running, within_s: float = 20) -> int:
    with anyio.fail_after(within_s):
        return await service.process.wait()


async def phase(service: Running, wanted: str) -> None:
    async def reached() -> bool:
        return (await service.status())["phase"] == wanted

    await wait_until(reached, 20, wanted)


async def after(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the report that the next start shows, and the jobs it has; paused, so that nothing moves."""
    put(folder / "ov.conf", history=str(folder / "history"), limit=0)
    async with serving(folder, target=TARGET) as service:
        jobs = (await service.get("/admin/jobs"))["jobs"]
        return (await service.status())["last_drain"], jobs


@pytest.mark.deadline
async def test_a_child_that_is_told_to_stop_stops_nothing_else(short_path: Path) -> None:
    async with odd(short_path, deadline_s=2.0) as service:
        job = await add(service, "threads", "forks")

        async def done() -> bool:
            return (await service.get(f"/admin/jobs/{job}"))["state"] == "done"

        await wait_until(done, 30, "all four steps forked")
        with anyio.move_on_after(3.0):  # past the deadline of a drain that a child's signal would have begun
            assert await service.process.wait() is None, "\n".join(service.spoken.lines)
        assert (await service.status())["phase"] == "running"
        service.process.terminate()
        assert await ended(service) == 0
    report, _ = await after(short_path)
    assert (report["reason"], report["reconstructed"]) == ("SIGTERM", False)


async def test_the_first_signal_after_a_drain_over_http_leaves_the_grace(short_path: Path) -> None:
    async with odd(short_path) as service:
        job = await add(service, "odd", "plain", 0.7)
        await begun(service, job)
        assert (await service.http.post("/admin/drain")).status_code == 202
        await phase(service, "grace")
        service.process.terminate()
        assert await ended(service) == 0
    report, jobs = await after(short_path)
    assert (report["finished"], report["requeued"]) == ([job], []), report
    assert report["reason"].startswith("asked for by pid")
    assert jobs[0]["state"] == "done"


async def test_the_second_ends_the_grace_the_third_the_interrupting(short_path: Path) -> None:
    async with odd(short_path) as service:
        job = await add(service, "odd", "shields", 30)
        await begun(service, job)
        service.process.terminate()
        await phase(service, "grace")
        service.process.terminate()
        await phase(service, "interrupting")
        service.process.send_signal(signal.SIGINT)
        assert await ended(service) == 0
    report, jobs = await after(short_path)
    assert (report["abandoned"], report["requeued"], report["lost"]) == ([job], [job], 0)
    assert (jobs[0]["state"], jobs[0]["interruptions"], jobs[0]["attempts"]) == ("ready", 1, 0)


@pytest.mark.deadline
@pytest.mark.parametrize("way", ["busy", "without_gil"])
async def test_three_signals_end_a_process_whose_loop_is_blocked(short_path: Path, way: str) -> None:
    async with odd(short_path) as service:
        job = await add(service, "odd", way, 50)
        await begun(service, job)
        began = time.monotonic()
        for _ in range(3):
            service.process.terminate()
            with anyio.move_on_after(0.3):  # two of one number at once are one
                await service.process.wait()
        assert await ended(service) == 0
        assert time.monotonic() - began < 15
    report, jobs = await after(short_path)
    assert (report["forced"], report["requeued"], report["lost"]) == (True, [job], 0)
    assert (jobs[0]["state"], jobs[0]["interruptions"]) == ("ready", 1)


async def test_a_kill_after_a_signal_is_an_interruption_while_the_loop_is_blocked(short_path: Path) -> None:
    async with odd(short_path) as service:
        job = await add(service, "odd", "busy", 50)
        await begun(service, job)
        sentinel = _sentinel(service)
        os.kill(sentinel, signal.SIGSTOP)  # it leaves no note: only the store knows
        service.process.terminate()
        await wait_until(lambda: _marked(short_path), 20, "the begin is on the disk")
        service.process.kill()
        assert await ended(service) == -signal.SIGKILL
        os.kill(sentinel, signal.SIGKILL)
    report, jobs = await after(short_path)
    assert (report["reconstructed"], report["requeued"]) == (True, [job])
    assert (jobs[0]["interruptions"], jobs[0]["crashes"]) == (1, 0)


async def _marked(folder: Path) -> bool:
    asked = "SELECT 1 FROM hotreload_documents WHERE kind = 'draining'"
    try:
        return bool(read(folder / ".hotreload" / "hotreload.db", asked))
    except apsw.Error:  # a copy that was made while a commit was written
        return False


@pytest.mark.deadline
async def test_a_stop_signal_that_other_code_takes_is_taken_back_and_its_handler_called_after(short_path: Path) -> None:
    async with odd(short_path, deadline_s=1.0) as service:
        job = await add(service, "odd", "handles", float(signal.SIGTERM))  # it is sent to its own handler once
        await service.spoken.line("signal.taken_back SIGTERM")
        with anyio.move_on_after(2.5):  # the sentinel heard that one as well, and would have ended the process
            assert await service.process.wait() is None
        assert (await service.status())["phase"] == "running"
        service.process.terminate()
        assert await ended(service) == 0
    heard = f"H {signal.SIGTERM:d}"
    assert (short_path / "history").read_text().splitlines() == [heard, f"S {job} handles", heard]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_signal_whose_default_action_other_code_restores_drains_all_the_same(
    short_path: Path, number: signal.Signals
) -> None:
    async with odd(short_path) as service:
        await add(service, "odd", "defaults", float(number))
        await service.spoken.line(f"signal.taken_back {number.name}")
        service.process.send_signal(number)
        assert await ended(service) == 0


async def test_a_hangup_whose_default_action_other_code_restores_reloads_all_the_same(short_path: Path) -> None:
    async with odd(short_path) as service:
        for number in (signal.SIGHUP, signal.SIGTERM):
            await begun(service, await add(service, "odd", "defaults", float(number)))
        await service.spoken.line("signal.taken_back SIGTERM")  # SIGHUP is taken back in the same step
        service.process.send_signal(signal.SIGHUP)

        async def reloaded() -> bool:
            return len(await service.get("/admin/config/history")) > 0

        await wait_until(reloaded, 10, "a reload by the signal")


async def test_a_lost_wake_up_descriptor_is_said(short_path: Path) -> None:
    async with odd(short_path) as service:
        assert (await service.status())["degraded"] is None
        job = await add(service, "odd", "listens", float(signal.SIGUSR1))
        await begun(service, job)

        async def said() -> bool:
            return "wake-up descriptor" in str((await service.status())["degraded"])

        await wait_until(said, 10, "degraded")
        service.process.terminate()
        assert await ended(service) == 0


@pytest.mark.deadline
async def test_a_sentinel_that_is_gone_is_started_anew(short_path: Path) -> None:
    async with odd(short_path, deadline_s=1.5) as service:
        first = _sentinel(service)
        os.kill(first, signal.SIGKILL)

        async def another() -> bool:
            return _sentinel(service, but=first) > 0

        await wait_until(another, 10, "another sentinel")
        job = await add(service, "odd", "with_gil")
        await begun(service, job)
        service.process.terminate()
        assert await ended(service) == -signal.SIGKILL
    report, _ = await after(short_path)
    assert (report["reason"], report["requeued"], report["reconstructed"]) == ("SIGTERM", [job], True)


def _sentinel(service: Running, but: int = 0) -> int:
    """Return the process id of the service's sentinel, 0 without one."""
    for found in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = found.read_bytes().split(b"\0")
            mine = (
                any(word.endswith(b"/sentinel_process.py") for word in words) and b"%d" % service.process.pid in words
            )
            if mine and int(found.parent.name) != but:
                return int(found.parent.name)
    return 0


@pytest.mark.deadline
async def test_a_host_that_fails_with_a_stuck_thread_ends_all_the_same(short_path: Path) -> None:
    os.mkfifo(short_path / "fail")
    async with odd(short_path, deadline_s=2.0, target="tests.process.odd_failing:service") as service:
        job = await add(service, "threads", "without_gil", 50)
        await begun(service, job)
        began = time.monotonic()
        (short_path / "fail").write_text("now\n")
        assert await ended(service) == 1
        assert time.monotonic() - began < 10
    report, jobs = await after(short_path)
    assert report is None  # a defect is no drain: the job crashed
    assert (jobs[0]["state"], jobs[0]["crashes"], jobs[0]["interruptions"]) == ("ready", 1, 0)


def test_a_service_that_ends_before_one_that_was_begun_later_leaves_no_handler_behind() -> None:
    code = (
        "import os, signal\nfrom hotreload.drain.request import TerminationSignals\n"
        "one, other = (TerminationSignals(print, chain=True) for _ in range(2))\n"
        "one.install(); other.install(); one.release(last=False)\n"
        "os.kill(os.getpid(), signal.SIGTERM); print(other.defaulted); other.release(last=False)\n"
        "print(signal.getsignal(signal.SIGTERM).name)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stdout.split()) == (0, ["SIGTERM", "15", "SIG_DFL"]), done.stderr
