"""One reload, one verdict: the same id, outcome and generation wherever it is told, whoever asked, however it ends."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.process.running import wait_until
from tests.process.serving import Running, put, serving

pytestmark = pytest.mark.anyio
KEY = "a-root-key-of-a-test"
OFF = {"watch": False, "root_key": KEY}
CASES = (
    ("applied", 2, {"value": 1}),
    ("unchanged", 2, {"value": 1}),
    ("rejected", 2, {"value": -1}),
    ("rolled_back", 2, {"value": 2, "second": {"trouble": "fail"}}),
    ("applied", 3, {"value": 3, "place": "there"}),
)
STATUS = {"applied": 200, "unchanged": 200, "rejected": 422, "rolled_back": 500}
EXIT = {"applied": 0, "unchanged": 0, "rejected": 1, "rolled_back": 1}


class Listener:
    """What a service manager would be told."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening
        self.statuses: list[str] = []

    def last(self) -> str:
        """Return the last STATUS= there was."""
        while True:
            try:
                told = self._listening.recv(65536).decode()
            except BlockingIOError:
                return self.statuses[-1]
            self.statuses += [line.removeprefix("STATUS=") for line in told.splitlines() if line.startswith("STATUS=")]


@contextmanager
def notified(path: Path) -> Iterator[Listener]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(path))
        listening.setblocking(False)
        yield Listener(listening)


@asynccontextmanager
async def over_tcp(service: Running) -> AsyncIterator[httpx.AsyncClient]:
    url = "http://" + (await service.spoken.line("listening on http://")).rpartition("http://")[2].strip()
    async with httpx.AsyncClient(base_url=url, headers={"X-API-Key": KEY}, timeout=30) as client:
        yield client


async def asked(service: Running, tcp: httpx.AsyncClient, way: str) -> dict[str, Any]:
    """Ask in one way; check what that way itself says, and return the report that everybody was told."""
    before = len(service.reloads)
    match way:
        case "http":
            answer = await tcp.post("/admin/config/reload")
            body = answer.json()
            assert answer.status_code == STATUS[body["outcome"]]
            assert answer.headers["X-Reload-Id"] == body["id"]
        case "signal":
            service.process.send_signal(signal.SIGHUP)
        case _:
            done = await service.verb("reload", *(["--json"] if way == "cli --json" else []))
    await service.until("a verdict", lambda reloads: len(reloads) > before)
    [told] = service.reloads[before:]
    if way == "http":
        assert body == told
    elif way == "cli --json":
        assert json.loads(done.stdout) == told
    elif way == "cli":
        text = (done.stdout + done.stderr).decode()
        assert f"id {told['id']}" in text
        assert told["outcome"] in text
        assert f"generation {told['generation']}" in text or f"→ {told['generation']}" in text
    if way.startswith("cli"):
        assert done.returncode == EXIT[told["outcome"]]
    assert told["trigger"]["kind"] == way.split()[0]
    if way == "signal":
        assert told["trigger"]["principal"] == "SIGHUP"
    return told


@pytest.mark.parametrize("way", ["http", "cli", "cli --json", "signal"])
async def test_id_outcome_and_generation_agree_everywhere(short_path: Path, way: str) -> None:
    put(short_path / "ov.conf", hotreload=OFF)
    environ = {"NOTIFY_SOCKET": str(short_path / "notify")}
    with notified(short_path / "notify") as manager:
        async with serving(short_path, "--http", "127.0.0.1:0", environ=environ) as service, over_tcp(service) as tcp:
            counted: dict[str, int] = {}
            for number, (outcome, generation, conf) in enumerate(CASES, 1):
                put(service.conf, **conf, hotreload=OFF)
                report = await asked(service, tcp, way)
                assert (report["outcome"], report["generation"]) == (outcome, generation)
                counted[outcome] = counted.get(outcome, 0) + 1
                history = await service.get("/admin/config/history")
                assert (len(history), history[0]) == (number, report)
                assert (await service.status())["last_reload"] == report
                line = await service.spoken.line(f"reload.{outcome} id={report['id']}")
                assert f"generation={generation}" in line
                metrics = (await service.http.get("/metrics")).text
                series = f'hotreload_config_reloads_total{{outcome="{outcome}",trigger="{report["trigger"]["kind"]}"}}'
                assert f"{series} {float(counted[outcome])}" in metrics
                assert f"hotreload_config_generation {float(generation)}" in metrics
                said = f"generation {generation}, reload {outcome} (id {report['id']})"
                await wait_until(lambda said=said: manager.last().startswith(said), 5, said)


async def test_what_converges_is_told_of_pools_and_of_limits_they_share(short_path: Path) -> None:
    """In every report and in the status, for as long as it is so."""
    put(short_path / "ov.conf", limit=3, hold_s=3600, hotreload=OFF)
    async with serving(short_path, target="tests.process.faulty:service") as service:

        async def running() -> bool:
            (pool,) = (await service.status())["pools"]
            return pool["running"] == 3

        for payload in range(3):
            await service.http.post("/admin/jobs", json={"queue": "work", "payload": payload})
        await wait_until(running, 10, "three run")
        assert (await service.status())["converging"] == []
        over = [{"owner": owner, "limit": 1, "running": 3} for owner in ("workers.work", "limits.all")]
        put(service.conf, limit=1, hold_s=0, hotreload=OFF)
        for outcome in ("applied", "unchanged"):
            report = await service.reload()
            assert (report["outcome"], report["converging"]) == (outcome, over)
            assert (await service.status())["converging"] == over


async def test_who_asks_after_the_watch_is_told_what_it_applied(short_path: Path) -> None:
    async with serving(short_path) as service:
        assert (await service.reload())["in_force"] is None
        service.save(value=41)
        made = await service.applied(41)
        report = await service.reload()
        assert (report["outcome"], report["changes"]) == ("unchanged", [])
        told = {key: made[key] for key in ("id", "generation", "trigger", "changes")}
        assert report["in_force"] == told
        done = await service.verb("reload")
        said = done.stdout.decode()
        assert done.returncode == 0
        assert f"generation {made['generation']} was applied" in said
        assert "s ago, when the file was saved:" in said
        assert [line.split()[:3] for line in said.splitlines() if line.startswith("value ")] == [["value", "0", "41"]]
