"""Run `summaries` and the model endpoint as real processes on loopback, and ask them in every way a user can."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import httpx
from anyio.abc import ByteReceiveStream, Process
from anyio.streams.text import TextReceiveStream

from examples.summaries.documents import Document, find, in_pieces, read
from examples.summaries.model import PROMPT_CHARS
from examples.summaries.settings import Documents
from tests.process.forked import Forked, can_fork, run_forked

ROOT = Path(__file__).parents[2]
ROOT_KEY = "root-key-of-a-test-0123456789"
HOTRELOAD = (sys.executable, "-m", "hotreload")
POOL = "workers.semantic"
UNMEASURED = {name: value for name, value in os.environ.items() if name != "COVERAGE_PROCESS_CONFIG"}
"""The environment of a process that is not measured: that takes a third of its time, and half of its start."""
WAYS = ("in place", "rename", "signal", "http", "cli")


async def wait_until(predicate: Callable[[], Any], deadline_s: float, what: str, *, every_s: float = 0.02) -> Any:
    """Return what the predicate answers once it is true; for foreign processes, which tell nobody when they change."""
    answer: Any = None
    with anyio.move_on_after(deadline_s):
        while True:
            answer = predicate()
            if hasattr(answer, "__await__"):
                answer = await answer
            if answer:
                return answer
            await anyio.sleep(every_s)
    raise AssertionError(f"{what}: not within {deadline_s:g} s")


class Spoken:
    """What a process writes, line by line; whoever waits for a line is woken by it."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.ended = False
        self._more = anyio.Event()

    async def read(self, stream: ByteReceiveStream) -> None:
        """Collect lines until the process closes its end."""
        rest = ""
        async for text in TextReceiveStream(stream, errors="replace"):
            *lines, rest = (rest + text).split("\n")
            self.lines += lines
            self._tell()
        self.ended = True
        self._tell()

    def _tell(self) -> None:
        self._more.set()
        self._more = anyio.Event()

    async def line(self, part: str, deadline_s: float = 20) -> str:
        """Return the first line that holds `part`, written already or to come."""
        with anyio.move_on_after(deadline_s):
            while True:
                for line in self.lines:
                    if part in line:
                        return line
                if self.ended:
                    break
                await self._more.wait()
        raise AssertionError(f"no line with {part!r}:\n" + "\n".join(self.lines))

    async def end(self) -> None:
        """Return once nobody holds the other end any more."""
        while not self.ended:
            await self._more.wait()


def free_port() -> int:
    """Return a port of the loopback interface that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@asynccontextmanager
async def started(
    *command: str,
    cwd: Path = ROOT,
    environ: Mapping[str, str] | None = None,
    executed: bool = False,
    measured: bool = True,
) -> AsyncIterator[tuple[Process, Spoken]]:
    """Start a process, hear both its outputs in one, and end it at the end by its own handle.

    It is forked from an interpreter that has imported everything where that is the same, unless it is to be `executed`.
    What it wrote is heard to its end: a pipe left open is complained about by whatever is collected later. A process
    whose last instants count is not `measured`: to write down what was covered takes longer than they last.
    """
    spoken = Spoken()
    environ = {"PYTHONFAULTHANDLER": "1", **os.environ, **(environ or {})}  # one that dies of a fault says where
    if not measured:
        environ.pop("COVERAGE_PROCESS_CONFIG", None)
    process: Process
    if executed or not can_fork(command, environ):
        process = await anyio.open_process(
            command, cwd=cwd, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, env=environ
        )
    else:
        process = await Forked.start(command, cwd=cwd, environ=environ)
    assert process.stdout is not None
    async with anyio.create_task_group() as hearing:
        hearing.start_soon(spoken.read, process.stdout)
        try:
            yield process, spoken
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            with anyio.CancelScope(shield=True):
                await process.wait()
                with anyio.move_on_after(5):
                    await spoken.end()
            hearing.cancel_scope.cancel()
            if isinstance(process, Forked):
                await process.aclose()


@dataclass
class Endpoint:
    """The loopback model endpoint, as another process."""

    http: httpx.AsyncClient
    url: str

    async def behave(self, **behaviour: Any) -> None:
        """Change what the next calls meet."""
        (await self.http.patch("/control", json=behaviour)).raise_for_status()

    async def gauges(self) -> dict[str, Any]:
        """Return running, peak, calls, answered, cut, repeated."""
        return (await self.http.get("/control")).json()


@asynccontextmanager
async def endpoint(latency_s: float = 0.0) -> AsyncIterator[Endpoint]:
    """Start a model endpoint."""
    script = str(ROOT / "examples/openviking/endpoint.py")
    command = (sys.executable, script, "--port", "0", "--latency", str(latency_s))
    async with started(*command, measured=False) as (_, spoken):  # nothing of this library is in it
        url: str = json.loads(await spoken.line('"url"'))["url"]
        async with httpx.AsyncClient(base_url=url, timeout=10) as http:
            yield Endpoint(http, url)


@dataclass
class Home:
    """The folder of one service: documents, ov.conf, workspace, queue; it outlives the processes started in it."""

    folder: Path
    settings: dict[str, Any]

    @classmethod
    def make(cls, folder: Path, sources: Iterable[Path], *, api_base: str | None, **vlm: Any) -> Home:
        """Copy the sources into an input folder and write an ov.conf with the default limit of 4."""
        documents = folder / "documents"
        documents.mkdir()
        for source in sources:
            shutil.copyfile(source, documents / source.name)
        base = {"api_base": f"{api_base}/v1"} if api_base else {}
        home = cls(
            folder,
            {
                "hotreload": {"root_key": ROOT_KEY, "drain_deadline_s": 3.0, "watch": True},
                "vlm": {"model": "stub", "max_concurrent": 4, "pace_s": 0.0, **base, **vlm},
                "documents": {"path": "documents", "limit": 0, "min_bytes": 0},
                "storage": {"workspace": "workspace"},
            },
        )
        home.conf.write_text(home.text())
        return home

    @property
    def conf(self) -> Path:
        """The ov.conf."""
        return self.folder / "ov.conf"

    @property
    def socket(self) -> Path:
        """The control socket, in a folder of its own."""
        return self.folder / "run" / "control.sock"

    def set(self, section: str, **values: Any) -> str:
        """Change settings and return the new text of ov.conf; nothing is written."""
        self.settings[section] = {**self.settings[section], **values}
        return self.text()

    def text(self) -> str:
        """Return ov.conf as it should be."""
        return json.dumps(self.settings, indent=2) + "\n"

    def write(self, text: str) -> None:
        """Edit ov.conf in place."""
        self.conf.write_text(text)

    def replace(self, text: str) -> None:
        """Put a new file in the place of ov.conf, as most editors do."""
        new = self.folder / ".ov.conf.new"
        new.write_text(text)
        new.replace(self.conf)

    def documents(self) -> list[Document]:
        """Return the input documents."""
        return list(find(Documents(path=self.folder / "documents", limit=0, min_bytes=0)))

    def calls_needed(self) -> int:
        """Return the calls all documents take of an endpoint: one a section or piece of one, one to merge."""
        return sum(len(in_pieces(read(document).sections, PROMPT_CHARS)) + 1 for document in self.documents())

    def unsummarised(self) -> list[str]:
        """Return the documents without both summaries."""
        names = (".abstract.md", ".overview.md")
        return [
            document.id
            for document in self.documents()
            if not all((self.folder / "workspace" / document.id / name).stat().st_size for name in names)
        ]


@dataclass
class Summaries:
    """One running `hotreload run examples.summaries.service:service`."""

    home: Home
    process: Process
    spoken: Spoken
    http: httpx.AsyncClient
    url: str
    reloads: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    _heard: anyio.Event = field(default_factory=anyio.Event)

    async def status(self) -> dict[str, Any]:
        """Return the status document, over TCP."""
        answer = await self.http.get("/admin/status")
        answer.raise_for_status()
        return answer.json()

    async def pool(self) -> dict[str, Any]:
        """Return the figures of the one pool."""
        return next(pool for pool in (await self.status())["pools"] if pool["name"] == POOL)

    async def running(self) -> int:
        """Return how many jobs are in hand."""
        return (await self.pool())["running"]

    async def follow(self, listening: anyio.Event) -> None:
        """Keep each reload report of /admin/events until the process ends them."""
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
        except httpx.TransportError:
            pass  # the process is gone

    async def next_reload(self, since: int, kind: str | None = None, *, id: str | None = None) -> dict[str, Any]:  # noqa: A002
        """Return the first report after the first `since` that `kind` of trigger asked for, or the one with this id."""
        with anyio.move_on_after(15):
            while True:
                for report in self.reloads[since:]:
                    if kind == report["trigger"]["kind"] or id == report["id"]:
                        return report
                await self._heard.wait()
        raise AssertionError(f"no reload by {kind or id}:\n" + "\n".join(self.spoken.lines))

    async def ask(self, way: str, text: str) -> tuple[dict[str, Any], int]:
        """Make `text` the configuration, ask for it in one way; return the report and the exit code or HTTP status.

        The ways without a verdict of their own (file, signal) answer with 0. Whatever the way, the event stream
        must tell the same. Where the watch took the file before it was asked for, the report is that of the watch.
        """
        since = len(self.reloads)
        if way in ("in place", "rename"):
            (self.home.write if way == "in place" else self.home.replace)(text)
            return await self.next_reload(since, "file"), 0
        self.home.replace(text)
        if way == "signal":
            self.process.send_signal(signal.SIGHUP)
            return await self.next_reload(since, "signal"), 0
        report, code = await (self._post() if way == "http" else self._client())
        assert await self.next_reload(since, id=report["id"]) == report  # the watch may have been first, and share it
        made = (report.get("in_force") or {}).get("id")
        return next((each for each in self.reloads[since:] if each["id"] == made), report), code

    async def _post(self) -> tuple[dict[str, Any], int]:
        answer = await self.http.post("/admin/config/reload")
        return answer.json(), answer.status_code

    async def _client(self) -> tuple[dict[str, Any], int]:
        done = await self.verb("reload", "--json")
        return json.loads(done.stdout), done.returncode

    async def verb(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Run a verb of the command line against this process."""
        return await hotreload(*arguments, "--socket", str(self.home.socket))


async def hotreload(*arguments: str, environ: Mapping[str, str] = os.environ) -> subprocess.CompletedProcess[bytes]:
    """Run the command to its end; it is forked, see `started`."""
    return await run_forked([*HOTRELOAD, *arguments], cwd=ROOT, environ=environ)


@asynccontextmanager
async def summaries(home: Home, *, measured: bool = True) -> AsyncIterator[Summaries]:
    """Start the service, wait until it is ready, and follow its reloads."""
    arguments = ("--config", str(home.conf), "--http", "127.0.0.1:0", "--socket", str(home.socket))
    command = (*HOTRELOAD, "run", "examples.summaries.service:service", *arguments)
    async with started(*command, measured=measured) as (process, spoken):
        url = "http://" + (await spoken.line("listening on http://")).rpartition("http://")[2].strip()
        headers = {"Authorization": f"Bearer {ROOT_KEY}"}
        async with (
            httpx.AsyncClient(base_url=url, headers=headers, timeout=20) as http,
            anyio.create_task_group() as following,
        ):
            service = Summaries(home, process, spoken, http, url)
            listening = anyio.Event()
            following.start_soon(service.follow, listening)
            await listening.wait()
            await wait_until(lambda: _ready(http), 20, "ready")
            yield service
            following.cancel_scope.cancel()


async def _ready(http: httpx.AsyncClient) -> bool:
    return (await http.get("/readyz")).status_code == 200


async def until_idle(home: Home, deadline_s: float = 60) -> list[str]:
    """Start the service until no job is left; returns what it said, AssertionError unless it ended with 0."""
    arguments = ("--config", str(home.conf), "--socket", str(home.socket), "--until-idle")
    async with started(*HOTRELOAD, "run", "examples.summaries.service:service", *arguments) as (process, spoken):
        with anyio.move_on_after(deadline_s):
            await process.wait()
        assert process.returncode == 0, "\n".join(spoken.lines)
        return spoken.lines


def library_files(count: int, *, sections: int = 1) -> list[Path]:
    """Return `count` files of the standard library with at least that many sections each."""
    folder = Path(os.__file__).parent
    found: list[Path] = []
    for path in sorted(folder.glob("*.py")):
        if len(found) == count:
            break
        if 500 < path.stat().st_size < 200_000 and len(read(Document(id=path.name, source=path)).sections) >= sections:
            found.append(path)
    assert len(found) == count, f"only {len(found)} files of the standard library are long enough"
    return found


def verdict(report: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what must be the same whoever asked."""
    errors = [(error["path"], error.get("line"), error.get("column"), error["message"]) for error in report["errors"]]
    return report["outcome"], report["generation"], errors
