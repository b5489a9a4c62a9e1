"""The public face of a service inside a web application: admin routes mounted, snapshots for requests, own parts."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from hotreload import LiveSettings, Service, Transition
from tests.process.running import started, wait_until
from tests.process.serving import put

pytestmark = pytest.mark.anyio
KEY = "a-root-key-of-a-test"
OFF = {"watch": False, "root_key": KEY}


async def test_admin_is_mounted_below_a_prefix_and_requests_read_whole_snapshots(short_path: Path) -> None:
    conf, socket = short_path / "ov.conf", short_path / "run" / "s"
    put(conf, value=1, twin=1, hotreload=OFF)
    command = (sys.executable, "-m", "tests.process.mounted", str(conf), str(socket))
    async with started(*command) as (process, spoken):
        url = (await spoken.line("serving on")).rpartition(" ")[2]
        async with httpx.AsyncClient(base_url=url, timeout=10) as http:
            await wait_until(lambda: _ready(http), 10, "ready")
            for path, headers, status in (
                ("status", {}, 401),
                ("status", {"X-API-Key": KEY}, 200),
                ("status", {"X-API-Key": KEY, "Host": "evil.example"}, 403),
                ("config", {"X-API-Key": KEY, "Host": "evil.example", "X-Forwarded-Host": "localhost"}, 403),
            ):
                assert (await http.get(f"/ops/admin/{path}", headers=headers)).status_code == status
            http.headers["X-API-Key"] = KEY
            foreign = {"Origin": "http://evil.example"}
            assert (await http.post("/ops/admin/config/reload", headers=foreign)).status_code == 403
            assert (await http.get("/admin/status")).status_code == 404
            answers: list[dict[str, Any]] = []

            async def read() -> None:
                while not answers or answers[-1]["value"] < 20:
                    answers.append((await http.get("/pair")).json())

            async with anyio.create_task_group() as reading:
                for _ in range(4):
                    reading.start_soon(read)
                for value in range(2, 21):
                    put(conf, value=value, twin=value, hotreload=OFF)
                    answer = await http.post("/ops/admin/config/reload")
                    assert (answer.status_code, answer.json()["generation"]) == (200, value)
            assert all(answer["value"] == answer["twin"] for answer in answers)
            etag = (await http.get("/ops/admin/config")).headers["ETag"]
            async with http.stream("GET", "/ops/admin/events") as events:
                assert await anext(events.aiter_lines()) == "event: status"
            moved = {"If-Match": etag.replace("-20", "-19")}
            assert (await http.post("/ops/admin/config/reload", headers=moved)).status_code == 412
            process.send_signal(signal.SIGTERM)
            await spoken.line("drained with 0")
        with anyio.fail_after(10):
            assert (
                await process.wait() == -signal.SIGTERM
            )  # uvicorn, as always: it drains, then lets the signal through


async def _ready(http: httpx.AsyncClient) -> bool:
    return (await http.get("/ops/readyz")).status_code == 200


async def test_before_the_service_runs_its_admin_says_so() -> None:
    service = Service("sample", settings=LiveSettings)
    app = Starlette(routes=[Mount("/ops", service.admin_app())])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
        answer = await http.get("/ops/admin/status")
    assert (answer.status_code, answer.json()) == (
        503,
        {"error": "service 'sample' does not run in this process"},
    )
    with pytest.raises(RuntimeError, match="does not run in this process"):
        service.snapshot()


class Cached(LiveSettings):
    """A field for parts to follow."""

    cache: int = 0


@dataclass
class Part:
    """A part that has nothing to do."""

    name: str
    paths: tuple[str, ...] = ("cache",)

    async def prepare(self, transition: Transition) -> None:
        """Nothing to do."""
        del transition


def test_two_parts_of_one_name_are_refused() -> None:
    service = Service("sample", settings=Cached)
    service.reloadable(Part("cache"))
    service.reloadable(Part("index"))
    with pytest.raises(ValueError, match="part 'cache': a part of this name is declared already"):
        service.reloadable(Part("cache"))
