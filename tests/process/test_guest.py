"""A service in somebody else's process: examples/fastapi under the usual ASGI servers, and in a program's own loop.

The servers keep their signals and their way to end.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import apsw
import httpx
import pytest
from anyio.abc import Process

from hotreload.queue.sqlite import SqliteQueue
from tests.process.running import Spoken, free_port, started, wait_until

pytestmark = pytest.mark.anyio
APP = "examples.fastapi.app:app"
BIN = Path(sys.executable).parent
DEADLINE_S = 3.0
JOBS = 8
KEY = {"X-API-Key": "a-root-key-of-a-test"}
SERVERS: dict[str, tuple[str, ...]] = {
    "uvicorn": ("uvicorn", APP, "--port", "{port}"),
    "uvicorn --reload": ("uvicorn", APP, "--port", "{port}", "--reload", "--reload-dir", "examples/fastapi"),
    "gunicorn": ("gunicorn", "-k", "uvicorn_worker.UvicornWorker", "-b", "127.0.0.1:{port}", APP),
    "hypercorn": ("hypercorn", "-b", "127.0.0.1:{port}", APP),
    "granian": ("granian", "--interface", "asgi", "--port", "{port}", APP),
}
WITH_SIGINT = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Begins a server as a terminal would: a shell ignores SIGINT in what it runs in the background."""


@dataclass
class Web:
    """A running web server with the example in it."""

    folder: Path
    process: Process
    spoken: Spoken
    http: httpx.AsyncClient

    async def order(self, lines: int) -> None:
        """Have a letter written."""
        (await self.http.post("/letters", json={"to": "somebody", "lines": lines})).raise_for_status()

    async def with_checkpoints(self) -> bool:
        """Say whether each job has a checkpoint on the disk."""
        page = (await self.http.get("/ops/admin/jobs", headers=KEY)).json()["jobs"]
        jobs = [(await self.http.get(f"/ops/admin/jobs/{job['id']}", headers=KEY)).json() for job in page]
        return len(jobs) == JOBS and all(job["progress"] is not None for job in jobs)


def conf(folder: Path, **settings: Any) -> None:
    """Write the configuration beside and rename it into place."""
    own = {"drain_deadline_s": DEADLINE_S, "watch": False, "root_key": KEY["X-API-Key"]}
    (folder / "new").write_text(json.dumps({"hotreload": own, "pace_s": 0.05, **settings}))
    (folder / "new").replace(folder / "ov.conf")


def stored(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    """Read the store from outside, once nothing has it open."""
    store = apsw.Connection(str(folder / ".hotreload" / "hotreload.db"), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        return [tuple(row) for row in store.execute(sql)]
    finally:
        store.close()


def command(server: str, port: int) -> tuple[str, ...]:
    """Return what starts a server."""
    name, *arguments = (word.format(port=port) for word in SERVERS[server])
    return sys.executable, "-c", WITH_SIGINT, str(BIN / name), *arguments


def environ(folder: Path) -> dict[str, str]:
    """Return the variables of a server's process."""
    return {"OV_CONF": str(folder / "ov.conf"), "XDG_RUNTIME_DIR": str(folder), "PYTHONUNBUFFERED": "1"}


@asynccontextmanager
async def serving(folder: Path, server: str) -> AsyncIterator[Web]:
    """Start a server and wait until the service in it is ready."""
    port = free_port()
    async with (
        started(*command(server, port), environ=environ(folder)) as (process, spoken),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as http,
    ):
        web = Web(folder, process, spoken, http)
        await wait_until(lambda: answers(http), 30, "ready")
        yield web


async def answers(http: httpx.AsyncClient) -> bool:
    try:
        return (await http.get("/ops/readyz")).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize(
    ("server", "stop", "code"),
    [
        ("uvicorn", signal.SIGTERM, 0),
        ("uvicorn", signal.SIGINT, 0),
        ("uvicorn --reload", signal.SIGTERM, 0),
        ("gunicorn", signal.SIGTERM, 0),
        ("hypercorn", signal.SIGTERM, 0),
        ("granian", signal.SIGTERM, 0),
    ],
)
async def test_a_server_that_is_told_to_stop_stops_and_nothing_is_lost(
    short_path: Path, server: str, stop: signal.Signals, code: int
) -> None:
    conf(short_path)
    late: list[httpx.Response] = []
    async with serving(short_path, server) as web:
        for _ in range(JOBS):
            await web.order(10_000)
        await wait_until(web.with_checkpoints, 20, "each job has a checkpoint")

        async def ask() -> None:
            late.append(await web.http.get("/slow", params={"seconds": 1.0}))

        async with anyio.create_task_group() as asking:
            asking.start_soon(ask)
            await wait_until(lambda: slow_runs(web), 10, "a request runs")
            web.process.send_signal(stop)
            with anyio.fail_after(20):
                assert await web.process.wait() == code, "\n".join(web.spoken.lines)
    assert [answer.status_code for answer in late] == [200]
    jobs = stored(
        short_path,
        "SELECT state, interruptions, crashes, cursor IS NOT NULL FROM hotreload_jobs ORDER BY id",
    )
    assert jobs == [("ready", 1, 0, 1)] * JOBS + [("ready", 0, 0, 0)]
    [(text,)] = stored(short_path, "SELECT body FROM hotreload_documents WHERE kind = 'drain'")
    report = json.loads(text)
    assert (len(report["requeued"]), len(report["checkpointed"]), report["lost"]) == (JOBS, JOBS, 0)
    assert report["overshoot_ms"] <= 100
    assert (report["forced"], report["reconstructed"]) == (False, False)
    assert not [line for line in web.spoken.lines if "Traceback" in line], "\n".join(web.spoken.lines)


async def slow_runs(web: Web) -> bool:
    """Say whether the late request has reached the application."""
    return (await web.http.get("/slow/running")).json() == 1


async def test_a_hangup_reloads_where_the_server_has_no_use_for_it(short_path: Path) -> None:
    conf(short_path)
    async with serving(short_path, "uvicorn") as web:
        assert (await web.http.get("/")).json() == {"greeting": "Hello, world"}
        conf(short_path, greeting="Goodbye")
        web.process.send_signal(signal.SIGHUP)

        async def told() -> bool:
            return (await web.http.get("/")).json() == {"greeting": "Goodbye, world"}

        await wait_until(told, 10, "the new greeting")
        web.process.terminate()
        with anyio.fail_after(10):
            await web.process.wait()


async def test_a_drain_leaves_the_server_running_and_new_work_is_refused(short_path: Path) -> None:
    conf(short_path)
    async with serving(short_path, "uvicorn") as web:
        assert (await web.http.post("/ops/admin/drain", headers=KEY)).status_code == 202

        async def refused() -> bool:
            return (await web.http.post("/letters", json={"to": "somebody"})).status_code == 503

        await wait_until(refused, 10, "new work is refused")
        assert (await web.http.get("/")).status_code == 200

        async def drained() -> bool:
            return (await web.http.get("/ops/admin/status", headers=KEY)).json()["phase"] == "stopped"

        await wait_until(drained, 20, "the drain is over")  # until then the signal is the drain's
        web.process.terminate()
        with anyio.fail_after(10):
            assert await web.process.wait() == -signal.SIGTERM  # uvicorn raises it again


@pytest.mark.parametrize("server", ["uvicorn", "gunicorn", "hypercorn", "granian"])
async def test_a_broken_configuration_keeps_the_server_from_coming_up(short_path: Path, server: str) -> None:
    conf(short_path, pace_s="fast")
    async with started(*command(server, free_port()), environ=environ(short_path)) as (process, spoken):
        line = await spoken.line("cannot start", 30)
        assert line == (
            "service 'letters' cannot start: ov.conf:1:104: pace_s: "
            'must be a number (got "fast"); allowed: a number from 0'
        )
        with anyio.fail_after(20):
            await process.wait()
    assert not (short_path / ".hotreload").exists()


async def test_the_second_worker_of_a_server_does_not_start_half(short_path: Path) -> None:
    conf(short_path)
    several = (*command("uvicorn", free_port()), "--workers", "2")
    async with started(*several, environ=environ(short_path)) as (process, spoken):
        line = await spoken.line("cannot start", 30)
        assert "hotreload.db" in line
        with anyio.fail_after(20):
            await process.wait()
    queue = SqliteQueue.open(short_path / ".hotreload" / "hotreload.db")  # nothing holds it
    queue.close()


WITHOUT_STORE = """
from pathlib import Path
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from typing import Annotated
import os
from hotreload import Live, LiveSettings, Service

class Settings(LiveSettings):
    greeting: Annotated[str, Live] = "Hello"

service = Service("greeter", settings=Settings)

async def greet(_request):
    return JSONResponse([service.snapshot().greeting, os.getpid()])

app = Starlette(
    routes=[Route("/", greet), Mount("/ops", service.admin_app())],
    lifespan=service.lifespan(Path(__file__).with_name("ov.conf")),
)
"""


async def test_a_service_without_workers_runs_in_every_worker_of_a_server(short_path: Path) -> None:
    (short_path / "greeter.py").write_text(WITHOUT_STORE)
    (short_path / "ov.conf").write_text('{"hotreload": {"poll_s": 0.2}}')
    port = free_port()
    several = (str(BIN / "uvicorn"), "greeter:app", "--app-dir", str(short_path), "--port", str(port), "--workers", "2")
    seen: dict[int, str] = {}

    async def each(greeting: str) -> bool:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
            if await answers(http):
                said, pid = (await http.get("/")).json()
                seen[pid] = said
        return len(seen) == 2 and set(seen.values()) == {greeting}

    async with started(*several, environ=environ(short_path)) as (process, spoken):
        await wait_until(lambda: each("Hello"), 30, "two processes answer")
        (short_path / "new").write_text('{"greeting": "Goodbye"}')
        (short_path / "new").replace(short_path / "ov.conf")
        await wait_until(lambda: each("Goodbye"), 20, "two processes have the new greeting")
        process.terminate()
        with anyio.fail_after(20):
            assert await process.wait() == 0, "\n".join(spoken.lines)
    assert not (short_path / ".hotreload" / "hotreload.db").exists()


PROGRAM = """
import asyncio, logging, signal, sys, threading, warnings
from pathlib import Path
from examples.fastapi.app import Letter, service

def taken():
    return (
        logging.getLogRecordFactory(), logging.getLogger().handlers[:], logging.getLogger().level,
        logging.getLogger("hotreload").handlers, sys.excepthook, sys.unraisablehook, threading.excepthook,
        warnings.showwarning, sys.getswitchinterval(), signal.getsignal(signal.SIGCHLD),
    )

async def main():
    before = taken()
    async with service.running(Path(sys.argv[1])):
        assert taken() == before
        child = await asyncio.create_subprocess_exec("false")
        assert await child.wait() == 1
        for _ in range(8):
            await service.enqueue("letters", Letter(to="somebody", lines=10_000))
        print("eight letters", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_program_without_a_handler_of_its_own_dies_of_the_signal_once_all_is_durable(short_path: Path) -> None:
    conf(short_path)
    program = (sys.executable, "-c", PROGRAM, str(short_path / "ov.conf"))
    async with started(*program, environ=environ(short_path)) as (process, spoken):
        await spoken.line("eight letters")
        process.terminate()
        with anyio.fail_after(15):
            assert await process.wait() == -signal.SIGTERM, "\n".join(spoken.lines)
    states = stored(short_path, "SELECT state, count(*) FROM hotreload_jobs GROUP BY state")
    assert states == [("ready", JOBS)]
    assert not list((short_path / "hotreload").glob("*.sock"))
