"""Many ask at once, and signals come at any instant: few reloads, every answer right, nobody dead, nobody forgotten."""

from __future__ import annotations

import json
import os
import random
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.counts import counted, patience_s
from tests.process.running import HOTRELOAD, started, wait_until
from tests.process.serving import TARGET, Running, put, serving

TRIGGERS = counted("TRIGGERS", 400)
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(patience_s(120, TRIGGERS, 400))]
KEY = "a-root-key-of-a-test"
OWN = {"root_key": KEY, "poll_s": 2.0}
SAVES = 5
FEW = 3 * SAVES
STARTS = counted("STARTS", 8)


def value_of(reloads: list[dict[str, Any]], generation: int) -> int:
    """Return the value that a generation has."""
    values = {1: 0}
    for report in reloads:
        for change in report["changes"]:
            if report["outcome"] == "applied" and change["path"] == "value":
                values[report["generation"]] = change["new"]
    return values[max(known for known in values if known <= generation)]


async def test_a_storm_is_a_handful_of_reloads_and_every_verdict_is_right(short_path: Path) -> None:
    put(short_path / "ov.conf", hotreload=OWN)
    answers: list[tuple[int, dict[str, Any]]] = []
    saved = 0
    async with serving(short_path, "--http", "127.0.0.1:0") as service:
        url = "http://" + (await service.spoken.line("listening on http://")).rpartition("http://")[2].strip()
        limits = httpx.Limits(max_connections=100, max_keepalive_connections=100)
        async with httpx.AsyncClient(base_url=url, headers={"X-API-Key": KEY}, timeout=30, limits=limits) as tcp:

            async def post(client: httpx.AsyncClient) -> None:
                asked = saved
                answer = await client.post("/admin/config/reload")
                assert answer.status_code == 200
                assert answer.headers["X-Reload-Id"] == answer.json()["id"]
                answers.append((asked, answer.json()))

            async with anyio.create_task_group() as asking:
                for number in range(TRIGGERS):
                    if number % (TRIGGERS // SAVES) == 0:
                        saved += 1
                        put(service.conf, value=saved, hotreload=OWN)
                    match number % 3:
                        case 0:
                            asking.start_soon(post, tcp)
                        case 1:
                            asking.start_soon(post, service.http)
                        case _:
                            service.process.send_signal(signal.SIGHUP)
                    if number % 10 == 0:
                        await anyio.sleep(0.9 * 10 / TRIGGERS)
        await service.rest()
        assert len(answers) == TRIGGERS - TRIGGERS // 3
        for asked, report in answers:
            assert report["outcome"] in ("applied", "unchanged")
            assert value_of(service.reloads, report["generation"]) >= asked
        told = {report["id"]: report for report in service.reloads}
        assert all(told[report["id"]] == report for _, report in answers)
        applied = [report for report in service.reloads if report["outcome"] == "applied"]
        assert SAVES <= len(applied) + (SAVES - value_of(service.reloads, 10**6)) <= FEW
        assert value_of(service.reloads, 10**6) == saved
        assert (await service.status())["generation"] == 1 + len(applied)
        assert len(await service.get("/admin/config/history")) == min(50, len(service.reloads))


async def test_a_cli_caller_in_the_storm_gets_the_same_verdict(short_path: Path) -> None:
    async with serving(short_path) as service:
        put(service.conf, value=1, hotreload={"watch": False})
        done: list[Any] = []

        async def ask() -> None:
            done.append(await service.verb("reload", "--json"))

        async with anyio.create_task_group() as asking:
            asking.start_soon(ask)
            asking.start_soon(ask)
        assert [each.returncode for each in done] == [0, 0]
        for each in done:
            ids = [report["id"] for report in service.reloads]
            assert json.loads(each.stdout)["id"] in ids


def caught(pid: int) -> bool:
    """Tell whether a process has a handler for SIGHUP, as proc(5) says."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(next(line for line in status.splitlines() if line.startswith("SigCgt:")).split()[1], 16)
    return bool(mask & 1 << (signal.SIGHUP - 1))


@pytest.mark.parametrize("seed", range(STARTS))
async def test_hangups_from_the_first_statement_to_the_end(short_path: Path, seed: int) -> None:
    """No death, and what came before the drain is served; the drain's own end is where the last ones come."""
    chance = random.Random(seed)
    put(short_path / "ov.conf")
    arguments = ("--config", str(short_path / "ov.conf"), "--socket", str(short_path / "run" / "s"))
    async with started(*HOTRELOAD, "run", TARGET, *arguments) as (process, spoken):
        await wait_until(lambda: caught(process.pid), 10, "a handler", every_s=0)
        await anyio.sleep(chance.uniform(0, 0.8))
        for _ in range(chance.randint(1, 4)):
            os.kill(process.pid, signal.SIGHUP)
        assert "reload.unchanged" in await spoken.line("trigger=signal")
        process.send_signal(signal.SIGTERM)
        with suppress(ProcessLookupError):
            while process.returncode is None:
                os.kill(process.pid, signal.SIGHUP)  # the process object would reap it, and lose its exit code
                with anyio.move_on_after(chance.uniform(0, 0.01)):
                    await process.wait()
        await process.wait()
    assert process.returncode == 0, "\n".join(spoken.lines)


async def test_a_hangup_while_a_reload_runs_is_served_after_it(short_path: Path) -> None:
    put(short_path / "ov.conf", hotreload={"watch": False})
    async with serving(short_path) as service:
        for value in range(1, counted("HANGUPS", 30) + 1):
            await _hang_up_in_between(service, value)


async def _hang_up_in_between(service: Running, value: int) -> None:
    """Ask, save anew while that is served, hang up: the newest is there in the end."""
    async with anyio.create_task_group() as asking:
        asking.start_soon(service.reload)
        await anyio.sleep(0.001 * (value % 5))
        put(service.conf, value=value, hotreload={"watch": False})
        service.process.send_signal(signal.SIGHUP)
    await service.applied(value, within_s=5)
