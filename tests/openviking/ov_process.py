"""Run a real OpenViking server on loopback, feed it documents and look at what it made of them."""

import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import httpx
from ov_forked import MEASURED, Forked
from ov_home import ROOT_KEY, Home

POLL_S = 0.05
LEFT_ALONE = 2
"""A process that is looked at is left alone that many times as long: it has work to do."""
STOCK = (sys.executable, "-m", "openviking_cli.server_bootstrap")


async def wait_until(
    predicate: Callable[[], Awaitable[Any]] | Callable[[], Any], deadline_s: float, what: str = "condition"
) -> Any:
    """Return what the predicate answers once it is true; for foreign processes, which tell nobody when they change."""
    last: Any = None
    with anyio.move_on_after(deadline_s):
        while True:
            began = anyio.current_time()
            answer = predicate()
            last = await answer if isinstance(answer, Awaitable) else answer
            if last:
                return cast(Any, last)
            await anyio.sleep(max(POLL_S, LEFT_ALONE * (anyio.current_time() - began)))
    raise AssertionError(f"{what}: not within {deadline_s} s, last answer {last!r}")


class Server:
    """One server process in a home."""

    def __init__(self, home: Home, process: anyio.abc.Process | Forked, log: Path) -> None:
        self.home = home
        self.process = process
        self.log_file = log
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{home.port}", timeout=30)

    @property
    def log(self) -> str:
        """What it wrote to stdout and stderr."""
        return self.log_file.read_text(errors="replace")

    @property
    def root(self) -> dict[str, str]:
        """Headers of the root key."""
        return {"X-API-Key": ROOT_KEY}

    @property
    def user(self) -> dict[str, str]:
        """Headers of the user whose documents are imported."""
        return {"X-API-Key": self.home.user_key}

    async def ready(self, deadline_s: float = 60) -> None:
        """Return once it answers; fail with its log when it ended instead."""

        async def answers() -> bool:
            assert self.process.returncode is None, f"ended with {self.process.returncode}:\n{self.log}"
            try:
                return (await self.http.get("/health")).status_code == 200
            except httpx.TransportError:
                return False

        await wait_until(answers, deadline_s, "server answers")
        await self._have_user()

    async def _have_user(self) -> None:
        if not self.home.user_key:
            body = {"account_id": "acme", "admin_user_id": "alice"}
            made = await self.http.post("/api/v1/admin/accounts", json=body, headers=self.root)
            self.home.user_key = made.raise_for_status().json()["result"]["user_key"]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    async def ended(self, deadline_s: float) -> int:
        """Return the exit code; fail when it is not gone in time."""
        with anyio.move_on_after(deadline_s):
            return await self.process.wait()
        raise AssertionError(f"still running after {deadline_s} s:\n{self.log}")

    async def add_document(self, name: str, text: str | None = None) -> None:
        """Import one document as `viking://resources/NAME`; returns when it is queued."""
        body = (text or f"# {name}\n\nThe text of {name}. It says little, and it says it for {name} alone.\n").encode()
        sent = await self.http.post(
            "/api/v1/resources/temp_upload", files={"file": (f"{name}.md", body)}, headers=self.user
        )
        wanted = {
            "temp_file_id": sent.raise_for_status().json()["result"]["temp_file_id"],
            "to": f"viking://resources/{name}",
            "wait": False,
        }
        added = await self.http.post("/api/v1/resources", json=wanted, headers=self.user)
        assert added.status_code == 200, added.text

    async def add_documents(self, count: int, prefix: str = "doc") -> list[str]:
        """Import `count` documents and return their names."""
        names = [f"{prefix}{number}" for number in range(count)]
        for name in names:
            await self.add_document(name)
        return names

    async def unfinished(self, names: list[str]) -> list[str]:
        """Return which documents lack an L0 or an L1, or have one that holds no text."""
        options = {"uri": "viking://resources", "show_all_hidden": "true", "node_limit": "100000"}
        answer = await self.http.get("/api/v1/fs/tree", params=options, headers=self.user)
        if answer.status_code == 404:  # nothing was imported yet
            return names
        sizes = {entry["rel_path"]: entry["size"] for entry in answer.raise_for_status().json()["result"]}
        sidecars = (".abstract.md", ".overview.md")
        return [name for name in names if not all(sizes.get(f"{name}/{sidecar}") for sidecar in sidecars)]

    async def finished(self, names: list[str], deadline_s: float) -> None:
        """Return once every document has its L0 and L1, and none of them holds a placeholder."""

        async def all_there() -> bool:
            return not await self.unfinished(names)

        await wait_until(all_there, deadline_s, "every document has L0 and L1")
        for name in names:
            for level in ("abstract", "overview"):
                options = {"uri": f"viking://resources/{name}"}
                answer = await self.http.get(f"/api/v1/content/{level}", params=options, headers=self.user)
                text = str(answer.raise_for_status().json()["result"])
                assert "summary of the text" in text, (name, level, text)

    async def queues(self) -> dict[str, tuple[int, int]]:
        """Return (pending, in progress) of each queue as OpenViking reports it."""
        answer = await self.http.get("/api/v1/observer/queue", headers=self.root)
        table = answer.raise_for_status().json()["result"]["status"]
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
        return {row[0]: (int(row[1]), int(row[2])) for row in rows if len(row) > 3 and row[1].isdigit()}

    async def idle(self) -> bool:
        """Say whether no queue holds anything."""
        return not any(pending or running for pending, running in (await self.queues()).values())

    async def admin(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Call an admin route over the control socket."""
        return await self.control(method, f"/admin/{path}", body)

    async def control(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Call any route over the control socket."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.home.socket))
        async with httpx.AsyncClient(transport=transport, base_url="http://hotreload", timeout=30) as control:
            return await control.request(method, path, json=body)

    async def status(self) -> dict[str, Any]:
        """Return the status document."""
        return (await self.admin("GET", "status")).raise_for_status().json()

    async def generation(self, number: int, deadline_s: float = 10) -> dict[str, Any]:
        """Return the status document once this generation runs."""

        async def there() -> dict[str, Any] | None:
            document = await self.status()
            return document if document["generation"] == number else None

        return await wait_until(there, deadline_s, f"generation {number}")

    async def close(self) -> None:
        """End the process, whatever it is doing, and free its resources."""
        await self.http.aclose()
        if self.process.returncode is None:
            self.process.kill()
        with anyio.CancelScope(shield=True):
            await self.process.aclose()


@asynccontextmanager
async def running(
    home: Home,
    command: tuple[str, ...] = STOCK,
    *,
    arguments: tuple[str, ...] = (),
    env: Mapping[str, str] | None = None,
    measured: bool = False,
) -> AsyncIterator[Server]:
    """Start a server in a home and yield it once it answers; it is killed at the end if it is still there.

    To be `measured` it must end by itself: what is killed writes down nothing.
    """
    server = await start(home, command, arguments=arguments, env=env, measured=measured)
    try:
        await server.ready()
        yield server
    finally:
        await server.close()


async def start(
    home: Home,
    command: tuple[str, ...] = STOCK,
    *,
    arguments: tuple[str, ...] = (),
    env: Mapping[str, str] | None = None,
    cold: bool = False,
    measured: bool = True,
) -> Server:
    """Start a server process, `arguments` after `--`; it may not answer yet.

    `cold` starts it from nothing.
    """
    home.starts += 1
    log = home.folder / f"server-{home.starts}.log"
    log.touch()
    full = [*command, "--config", str(home.conf), *(("--", *arguments) if arguments else ())]
    environment = home.environment() | dict(env or {})
    if not measured:
        environment.pop(MEASURED, None)
    if home.warm is not None and not cold:
        order = {"command": full, "cwd": str(home.folder), "env": environment, "log": str(log), "errors": str(log)}
        return Server(home, await Forked.start(home.warm, order), log)
    with log.open("wb") as out:
        process = await anyio.open_process(
            full, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=home.folder
        )
    return Server(home, process, log)
