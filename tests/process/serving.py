"""Run the sample service as a real process and hear every verdict it gives."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
from anyio.abc import Process

from tests.process.running import HOTRELOAD, Spoken, hotreload, started, wait_until

TARGET = "tests.process.sample:service"


@dataclass
class Running:
    """One process of the sample service; `reloads` are the reports of its event stream, oldest first."""

    folder: Path
    conf: Path
    process: Process
    spoken: Spoken
    http: httpx.AsyncClient
    reloads: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    followed: anyio.Event = field(default_factory=anyio.Event)
    _heard: anyio.Event = field(default_factory=anyio.Event)

    @property
    def socket(self) -> Path:
        """The control socket."""
        return self.folder / "run" / "s.sock"

    async def get(self, path: str) -> Any:
        """Return the JSON of a route."""
        answer = await self.http.get(path)
        answer.raise_for_status()
        return answer.json()

    async def status(self) -> dict[str, Any]:
        """Return the status document."""
        return await self.get("/admin/status")

    async def reload(self, **options: Any) -> dict[str, Any]:
        """Ask over the control socket and return the report."""
        return (await self.http.post("/admin/config/reload", **options)).json()

    async def verb(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Run a verb of the command line against this process."""
        return await hotreload(*arguments, "--socket", str(self.socket))

    def save(self, **conf: Any) -> None:
        """Write the configuration beside and rename it into place."""
        put(self.conf, **conf)

    async def follow(self, listening: anyio.Event) -> None:
        """Keep each reload report until the process ends."""
        try:
            async with self.http.stream("GET", "/admin/events", timeout=None) as stream:
                listening.set()
                event = ""
                async for line in stream.aiter_lines():
                    if line.startswith("event: "):
                        event = line.removeprefix("event: ")
                    elif line.startswith("data: ") and event == "reload":
                        self.reloads.append(json.loads(line.removeprefix("data: ")))
                        self._heard.set()
                        self._heard = anyio.Event()
        except httpx.HTTPError:
            pass  # the process is gone
        finally:
            self.followed.set()

    async def until(self, what: str, wanted: Any, within_s: float = 15) -> None:
        """Wait until `wanted(reloads)` holds."""
        with anyio.move_on_after(within_s):
            while not wanted(self.reloads):
                await self._heard.wait()
            return
        raise AssertionError(f"{what}: not within {within_s:g} s\n{self.reloads}\n" + "\n".join(self.spoken.lines))

    async def applied(self, value: int, within_s: float = 15) -> dict[str, Any]:
        """Return the report of the reload that made `value` the value."""

        def found(reloads: list[dict[str, Any]]) -> list[dict[str, Any]]:
            return [
                report
                for report in reloads
                for change in report["changes"]
                if report["outcome"] == "applied" and (change["path"], change["new"]) == ("value", value)
            ]

        await self.until(f"value {value} applied", found, within_s)
        return found(self.reloads)[0]

    async def rest(self) -> None:
        """Wait until nothing that was asked for is still to come: a dry run queues behind it, a look is over."""
        await self.reload(json={"dry_run": True})


def text(**conf: Any) -> str:
    """Return a configuration."""
    own = {"poll_s": 0.5, "drain_deadline_s": 3.0, **conf.pop("hotreload", {})}
    return json.dumps({"hotreload": own, **conf}, indent=2) + "\n"


def put(path: Path, **conf: Any) -> None:
    """Write a configuration beside and rename it into place."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(text(**conf))
    new.replace(path)


@asynccontextmanager
async def serving(
    folder: Path,
    *options: str,
    conf: Path | None = None,
    environ: Mapping[str, str] | None = None,
    before: tuple[str, ...] = (),
    target: str = TARGET,
    executed: bool = False,
    measured: bool = True,
) -> AsyncIterator[Running]:
    """Start the sample service on `conf` (made where it is missing) and follow its reloads until the end.

    The state of a service whose `conf` is in another folder is not moved with that.
    """
    conf = conf or folder / "ov.conf"
    if conf.parent != folder:
        environ = {"STATE_DIRECTORY": str(folder / "state"), **(environ or {})}
    if not conf.exists():
        put(conf)
    socket = folder / "run" / "s.sock"
    command = (*before, *HOTRELOAD, "run", target, "--config", str(conf), "--socket", str(socket), *options)
    async with (
        started(*command, environ=environ, executed=executed, measured=measured) as (process, spoken),
        anyio.create_task_group() as tasks,
    ):
        await spoken.line("listening on")
        transport = httpx.AsyncHTTPTransport(uds=str(socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30) as http:
            running = Running(folder, conf, process, spoken, http)
            listening = anyio.Event()
            tasks.start_soon(running.follow, listening)
            await listening.wait()
            await wait_until(lambda: _ready(http), 20, "ready")
            yield running
            if process.returncode is None:
                process.kill()
            with anyio.move_on_after(5):  # a read that is cancelled as something arrives is an error inside anyio
                await running.followed.wait()
            tasks.cancel_scope.cancel()


async def _ready(http: httpx.AsyncClient) -> bool:
    return (await http.get("/readyz")).status_code == 200
