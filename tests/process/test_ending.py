"""The end of a process comes, and with it the end of all it began: hooks, helpers, orphans, jobs that nothing runs."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.process.running import HOTRELOAD, hotreload, started, wait_until
from tests.process.serving import Running, put, serving

pytestmark = pytest.mark.anyio
TARGET = "tests.process.ending:service"
DEADLINE_S = 3.0


async def done(service: Running, what: str, queue: str = "work") -> int:
    """Have a job done and return its result."""
    answer = await service.http.post("/admin/jobs", json={"queue": queue, "payload": what})
    job = f"/admin/jobs/{answer.json()['id']}"

    async def is_done() -> bool:
        return (await service.get(job))["state"] == "done"

    await wait_until(is_done, 20, what)
    return (await service.get(job))["result"]


def alive(pid: int) -> bool:
    """Say whether there is such a process, dead ones that nothing has reaped left out."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def children(pid: int) -> list[int]:
    """Return the processes that a process began."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_hooks_run_and_helpers_end_before_the_process_does(short_path: Path) -> None:
    async with serving(short_path, target=TARGET) as service:
        await done(service, "hook")
        helpers = [await done(service, what) for what in ("daemon", "pool")]
        began = children(service.process.pid)
        assert set(helpers) <= set(began)
        assert len(began) == 3  # the sentinel of the drain as well
        service.process.terminate()
        with anyio.fail_after(20):
            assert await service.process.wait() == 0, "\n".join(service.spoken.lines)
        assert [pid for pid in began if alive(pid)] == []
    assert (short_path / "told").read_text() == "the hook ran"


async def test_a_hook_that_hangs_holds_the_process_no_longer_than_the_deadline(short_path: Path) -> None:
    put(short_path / "ov.conf", hotreload={"drain_deadline_s": DEADLINE_S})
    async with serving(short_path, target=TARGET, measured=False) as service:
        await done(service, "hanging hook")
        helper = await done(service, "daemon")
        service.process.terminate()
        with anyio.fail_after(DEADLINE_S + 10):
            assert await service.process.wait() == 0
        assert not alive(helper)


@pytest.mark.parametrize(
    ("queue", "what"), [("work", "fork"), ("work", "fork and exit"), ("threads", ""), ("processes", "")]
)
async def test_a_child_that_a_job_forks_and_lets_return_is_ended(short_path: Path, queue: str, what: str) -> None:
    async with serving(short_path, target=TARGET) as service:
        forked = await done(service, what, queue)
        await service.spoken.line("a process that a job forked returned from the job's code: it is ended")

        async def gone() -> bool:
            return not alive(forked)

        await wait_until(gone, 10, "the child is gone")
        service.process.terminate()
        with anyio.fail_after(20):
            assert await service.process.wait() == 0, "\n".join(service.spoken.lines)


async def test_as_pid_1_it_reaps_orphans_and_takes_no_exit_status_of_a_child(short_path: Path) -> None:
    inside = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    async with serving(short_path, target=TARGET, before=inside) as service:
        assert await done(service, "orphan") == 7
        assert await done(service, "pid") == 2  # PID 1 only reaps, and hands signals on

        [init] = children(service.process.pid)

        async def reaped() -> bool:
            left = children(init)
            return len(left) == 1 and alive(left[0])

        await wait_until(reaped, 10, "only the service is left")
        service.save(limit=3)
        os.kill(init, signal.SIGHUP)
        await service.until("reloaded", lambda reloads: [one for one in reloads if one["outcome"] == "applied"])
        os.kill(init, signal.SIGTERM)
        with anyio.fail_after(20):
            assert await service.process.wait() == 0, "\n".join(service.spoken.lines)


async def until_idle(folder: Path, code: int, *options: str) -> list[str]:
    """Run until idle; returns what was said."""
    place = ("--config", str(folder / "ov.conf"), "--socket", str(folder / "run/s.sock"))
    async with started(*HOTRELOAD, "run", TARGET, *place, "--until-idle", *options) as (process, spoken):
        with anyio.fail_after(20):
            assert await process.wait() == code, "\n".join(spoken.lines)
        await spoken.end()
        return spoken.lines


@pytest.mark.parametrize("why", ["paused", "limit"])
async def test_until_idle_does_not_wait_for_what_nothing_runs(short_path: Path, why: str) -> None:
    settings: dict[str, Any] = {"limit": 0} if why == "limit" else {}
    put(short_path / "ov.conf", limit=0)
    async with serving(short_path, target=TARGET) as service:
        await service.http.post("/admin/jobs", json={"queue": "work", "payload": "pid"})
        if why == "paused":
            assert (await service.verb("jobs", "pause", "work")).returncode == 0
        assert (await service.verb("drain")).returncode == 0
    put(short_path / "ov.conf", **settings)
    lines = await until_idle(short_path, 1)
    told = {"paused": "is paused", "limit": "the limit of its worker is 0"}[why]
    [warning, error] = [line for line in lines if told in line]
    assert "WARNING" in warning
    assert "ERROR" in error


async def test_a_summary_and_the_fields_of_a_drain_are_in_the_log(short_path: Path) -> None:
    put(short_path / "ov.conf", hotreload={"log_level": "warning"})
    async with serving(short_path, "--log-format", "json", "--log-level", "info", target=TARGET) as service:
        service.process.terminate()
        with anyio.fail_after(20):
            assert await service.process.wait() == 0
        await service.spoken.end()
        told = [json.loads(line) for line in service.spoken.lines]
    [drained] = [one for one in told if one["message"].startswith("drained (SIGTERM)")]
    assert {key: drained[key] for key in ("finished", "checkpointed", "requeued", "lost")} == dict.fromkeys(
        ("finished", "checkpointed", "requeued", "lost"), 0
    )
    assert 0 <= drained["seconds"] < DEADLINE_S


async def test_the_level_of_the_log_is_live_and_a_bad_one_is_a_usage_error(short_path: Path) -> None:
    put(short_path / "ov.conf", hotreload={"log_level": "info"})
    async with serving(short_path, target=TARGET) as service:
        put(service.conf, hotreload={"log_level": "error"})
        assert (await service.reload())["outcome"] in ("applied", "unchanged")
        service.process.terminate()
        with anyio.fail_after(20):
            assert await service.process.wait() == 0
        await service.spoken.end()
        assert "drained" not in "\n".join(service.spoken.lines)
    bad = await hotreload("run", TARGET, "--log-level", "loud")
    assert bad.returncode == 2
    assert b"'loud' is not one of" in bad.stderr
