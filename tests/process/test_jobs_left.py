"""Jobs that nothing runs, jobs added while the service is down, and the one job that makes the host fail."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import anyio
import pytest

from hotreload.cli.exits import Exit
from tests.process.running import HOTRELOAD, hotreload, started
from tests.process.serving import put, serving

pytestmark = pytest.mark.anyio
TARGET = "tests.process.leaving_behind:service"


async def run_until_idle(folder: Path, **environ: str) -> tuple[int, str]:
    """Run the service until it is idle; returns its exit code and what it said."""
    where = ("--config", str(folder / "ov.conf"), "--socket", str(folder / "s"))
    done = await hotreload("run", TARGET, *where, "--until-idle", environ={**os.environ, **environ})
    return done.returncode, (done.stdout + done.stderr).decode()


async def add(folder: Path, *arguments: str) -> tuple[int, str]:
    """Add a job to the stopped service; returns the exit code and what was said."""
    done = await hotreload("jobs", "add", *arguments, "--config", str(folder / "ov.conf"))
    return done.returncode, (done.stdout + done.stderr).decode()


async def test_a_stopped_service_is_given_jobs_and_says_what_it_cannot_run(short_path: Path) -> None:
    put(short_path / "ov.conf")
    code, said = await add(short_path, "new", '"a"')
    assert code == Exit.REFUSED_BY_CONTENT
    assert "the service has not run with this configuration" in said
    code, said = await run_until_idle(short_path, RELEASE="1")
    assert code == Exit.DONE
    code, said = await add(short_path, "new", '"a"', "--key", "k", "--json")
    assert (code, json.loads(said)["existing"]) == (Exit.DONE, None)
    code, said = await add(short_path, "new", '"b"', "--key", "k")
    assert (code, "(ready) has the key 'k'" in said) == (Exit.DONE, True)
    code, said = await add(short_path, "wrok", '"b"')
    assert (code, "there is new, old" in said) == (Exit.REFUSED_BY_CONTENT, True)
    assert (await add(short_path, "old", '"c"'))[0] == Exit.DONE
    code, said = await run_until_idle(short_path, RELEASE="1")
    assert code == Exit.REFUSED_BY_CONTENT
    assert "queue 'old' has 1 job, and the limit of its worker is 0" in said
    code, said = await run_until_idle(short_path)
    assert code == Exit.REFUSED_BY_CONTENT
    assert "queue 'old' has 1 job, and this service has no worker for it" in said
    async with serving(short_path, target=TARGET) as service:
        assert await service.spoken.line("this service has no worker for it")
        jobs = (await service.get("/admin/jobs"))["jobs"]
        assert [(job["queue"], job["state"]) for job in jobs] == [("old", "ready"), ("new", "done")]
        code, said = await add(short_path, "new", '"d"')
        assert code == Exit.REFUSED_BY_STATE
        await service.verb("jobs", "discard", jobs[0]["id"])
        await service.verb("jobs", "pause", "new")
        await service.verb("jobs", "add", "new", '"e"')
    code, said = await run_until_idle(short_path)
    assert code == Exit.REFUSED_BY_CONTENT
    assert "queue 'new' has 1 job and is paused" in said


async def test_the_job_that_makes_the_host_fail_is_parked_and_named_the_others_are_done(short_path: Path) -> None:
    put(short_path / "ov.conf")
    conf, socket = str(short_path / "ov.conf"), str(short_path / "s")
    run = (*HOTRELOAD, "run", "tests.process.provoking:service", "--config", conf, "--socket", socket, "--until-idle")
    async with started(*run) as (process, spoken):
        assert await process.wait() == 0
    payloads = [f"good {n}" for n in range(20)]
    for payload in (*payloads[:4], "provokes", *payloads[4:]):
        assert (await add(short_path, "work", json.dumps(payload)))[0] == Exit.DONE
    said: list[str] = []
    codes: list[int | None] = []
    for _ in range(12):
        async with started(*run) as (process, spoken):
            with anyio.fail_after(60):
                codes.append(await process.wait())
        said += spoken.lines
        if codes[-1] in (Exit.DONE, Exit.REFUSED_BY_CONTENT) and any("told of" in line for line in spoken.lines):
            break
    assert any("told of provokes: parked: the process crashed 3 times while this job ran alone" in s for s in said)
    assert len(codes) <= 7
    async with serving(short_path, target="tests.process.provoking:service") as service:
        jobs: list[dict[str, Any]] = (await service.get("/admin/jobs"))["jobs"]
    states = {job["state"]: [each["id"] for each in jobs if each["state"] == job["state"]] for job in jobs}
    assert {state: len(ids) for state, ids in states.items()} == {"done": 20, "dead": 1}
