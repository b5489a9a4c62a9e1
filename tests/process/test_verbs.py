"""The verbs against real processes: exit codes, and what a process says after the one before it ended."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from tests.process.running import hotreload, wait_until
from tests.process.serving import Running, put, serving

pytestmark = pytest.mark.anyio
JOBS = 16


@asynccontextmanager
async def at_work(folder: Path, jobs: int) -> AsyncIterator[Running]:
    """Serve `jobs` jobs that hold their places for longer than any test."""
    put(folder / "ov.conf", limit=jobs, hold_s=3600)
    async with serving(folder) as service:
        for payload in range(jobs):
            answer = await service.http.post("/admin/jobs", json={"queue": "work", "payload": payload})
            assert answer.status_code == 201
        await wait_until(lambda: _running(service, jobs), 10, f"{jobs} jobs run")
        yield service


async def _running(service: Running, jobs: int) -> bool:
    return (await service.status())["pools"][0]["running"] == jobs


async def test_drain_puts_16_jobs_back_and_the_next_start_has_the_same_report(short_path: Path) -> None:
    async with at_work(short_path, JOBS) as service:
        drained = await service.verb("drain", "--deadline", "1.5", "--json")
        with anyio.fail_after(5):
            assert await service.process.wait() == 0, "\n".join(service.spoken.lines)
    report = json.loads(drained.stdout)
    assert (drained.returncode, drained.stderr) == (0, b"")
    assert (len(report["requeued"]), report["lost"], report["deadline_s"]) == (JOBS, 0, 1.5)
    put(short_path / "ov.conf", limit=0)
    async with serving(short_path) as service:
        status = await service.status()
        assert status["last_drain"] == report
        assert status["queues"][0]["ready"] == JOBS
        shown = (await service.verb("status")).stdout.decode()
        assert f"last drain: \ndrained in {report['elapsed_s']:.2f} s of 1.5 s: {JOBS} requeued" in shown


async def test_reload_is_exit_6_where_asked_for_a_field_that_waits_for_a_restart(short_path: Path) -> None:
    async with serving(short_path) as service:
        service.save(place="elsewhere", value=1)
        assert (await service.verb("reload")).returncode == 0
        done = await service.verb("reload", "--fail-on-pending-restart")
        assert done.returncode == 6
        assert "place" in done.stdout.decode()
        service.save(place="here", value=1)
        assert (await service.verb("reload", "--fail-on-pending-restart")).returncode == 0


async def test_the_last_reload_is_remembered_over_a_restart(short_path: Path) -> None:
    async with serving(short_path) as service:
        assert (await service.status())["last_reload"] is None
        service.save(value=1)
        last = json.loads((await service.verb("reload", "--json")).stdout)
        assert (await service.verb("drain")).returncode == 0
    async with serving(short_path) as service:
        status = await service.status()
        assert (status["last_reload"], status["generation"]) == (last, 1)


async def test_until_idle_leaves_when_the_last_job_is_discarded(short_path: Path) -> None:
    async with serving(short_path) as service:
        later = await service.verb("jobs", "add", "work", "1", "--delay", "3600", "--json")
        assert (await service.verb("drain")).returncode == 0
    async with serving(short_path, "--until-idle") as service:
        assert (await service.status())["queues"][0]["scheduled"] == 1
        assert (await service.verb("jobs", "discard", json.loads(later.stdout)["id"])).returncode == 0
        with anyio.fail_after(5):
            assert await service.process.wait() == 0, "\n".join(service.spoken.lines)


async def test_no_service_is_exit_3(short_path: Path) -> None:
    done = await hotreload("status", "--socket", str(short_path / "s"))
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr.decode().splitlines()[0].startswith("hotreload: ")
