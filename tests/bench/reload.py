"""How long a reload takes, from the request to the moment a client sees the new value, beside other servers.

    python -m tests.bench.reload [ROUNDS]

Each round asks every server once, so that all have the same machine; configurations have about 200 keys each. A client
opens a connection every half millisecond and reads the value. Prometheus and nginx are told by SIGHUP, Caddy by
POST /load, ours by either and by the saved file alone. A server that is not installed is left out.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.bench.keys import KEYS
from tests.process.running import HOTRELOAD, ROOT

BETWEEN_POLLS_S: Final = 0.0005
BETWEEN_ASKS_S: Final = 0.02
SETTLED_S: Final = 20.0
TENANTS: Final = 5_000
BIG_ROUNDS: Final = 10
WARM_UP: Final = 3


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def pause(seconds: float) -> None:
    """Leave the processor to others."""
    select.select([], [], [], seconds)


def exchange(address: int | str, request: bytes) -> bytes:
    """Send a request over a new connection and return all of the answer."""
    with socket.socket(socket.AF_INET if isinstance(address, int) else socket.AF_UNIX) as wire:
        wire.settimeout(SETTLED_S)
        wire.connect(("127.0.0.1", address) if isinstance(address, int) else address)
        wire.sendall(request)
        return b"".join(iter(lambda: wire.recv(65536), b""))


def get(port: int, path: str) -> bytes:
    """Return the answer to a GET over a new connection, nothing where it is refused or cut (Caddy does, reloading)."""
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
    with suppress(ConnectionError):
        return exchange(port, request.encode())
    return b""


def replace(path: Path, content: str) -> None:
    """Rename a new file into place."""
    new = path.with_name(".new")
    new.write_text(content)
    new.replace(path)


@dataclass
class Server:
    """One server under measurement: how it is given a value, asked to reload, and read by a client.

    `ask` asks without waiting and returns what waits for the answer; without it the saved file itself is the request.
    """

    process: subprocess.Popen[bytes]
    put: Callable[[int], None]
    shown: Callable[[], bytes]
    ask: Callable[[], Callable[[], object]] | None = None
    mark: str = "v{}v"

    def measure(self, value: int) -> float:
        """Return the seconds from the request until a client sees the value."""
        if self.ask:
            self.put(value)
        pause(BETWEEN_ASKS_S)
        wanted = self.mark.format(value).encode()
        began = time.perf_counter()
        answered = self.ask() if self.ask else self.put(value)
        while wanted not in self.shown():
            pause(BETWEEN_POLLS_S)
            assert time.perf_counter() - began < SETTLED_S, f"{value} is not seen: {self.shown()!r}"
        took = time.perf_counter() - began
        if answered:
            answered()
        return took

    def hang_up(self) -> Callable[[], object]:
        """Ask by SIGHUP."""
        self.process.send_signal(signal.SIGHUP)
        return lambda: None

    def by_signal(self) -> Server:
        """Return the same server, asked by SIGHUP."""
        return Server(self.process, self.put, self.shown, self.hang_up, self.mark)


def posting(address: int | str, path: str, body: Callable[[], bytes]) -> Callable[[], Callable[[], object]]:
    """Return what asks by a POST and does not wait for its answer."""

    def ask() -> Callable[[], object]:
        content = body()
        host = f"127.0.0.1:{address}" if isinstance(address, int) else "localhost"
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        wire = socket.socket(socket.AF_INET if isinstance(address, int) else socket.AF_UNIX)
        wire.connect(("127.0.0.1", address) if isinstance(address, int) else address)
        wire.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)

        def answered() -> None:
            with wire:
                answer = b"".join(iter(lambda: wire.recv(65536), b""))
            assert answer.split(b" ", 2)[1] == b"200", answer

        return answered

    return ask


@contextmanager
def running(command: Sequence[str], folder: Path, ready: Callable[[], bytes], **environ: str) -> Iterator[Any]:
    """Run a server in a folder of its own until the block ends."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env={**os.environ, **environ})
    try:
        began = time.perf_counter()
        while not ready():
            pause(0.05)
            if process.poll() is not None or time.perf_counter() - began > SETTLED_S:
                sys.exit(f"{command[0]} does not start:\n{(folder / 'log').read_text(errors='replace')}")
        yield process
    finally:
        process.terminate()
        process.wait(30)


def tenants(number: int) -> dict[str, Any]:
    """Return the entries of a large file."""
    models = ["small", "medium", "large"]
    return {
        f"tenant-{n:05}": {
            "name": f"Tenant {n}",
            "url": f"https://{n}.example.org/v1/models",
            "limit": n,
            "models": models,
        }
        for n in range(number)
    }


@contextmanager
def ours(folder: Path, *, watch: bool = False, entries: int = 0) -> Iterator[Server]:
    """200 plain keys and 10 parts; with `entries` a megabyte more."""
    conf, port, control = folder / "ov.conf", free_port(), str(folder / "s.sock")
    rest = {"tenants": tenants(entries)} if entries else {}

    def put(value: int) -> None:
        keys = {f"key_{number}": 0 for number in range(KEYS)}
        replace(conf, json.dumps({"hotreload": {"watch": watch}, **keys, "key_0": value, **rest}, indent=1))

    put(1)
    command = [*HOTRELOAD, "run", "tests.bench.keys:service", "--config", str(conf), "--socket", control]
    with running(command, folder, lambda: get(port, "/"), KEYS_PORT=str(port)) as process:
        ask = posting(control, "/admin/config/reload", lambda: b"{}")
        yield Server(process, put, lambda: get(port, "/"), None if watch else ask, "\r\n\r\n{}")


@contextmanager
def prometheus(folder: Path) -> Iterator[Server]:
    """66 jobs of three keys each."""
    conf, port = folder / "prometheus.yml", free_port()

    def put(value: int) -> None:
        jobs = [f"- job_name: j{n}\n  scrape_interval: 1h\n  metrics_path: /m{n}\n" for n in range(66)]
        replace(conf, f"global:\n  external_labels:\n    value: v{value}v\nscrape_configs:\n{''.join(jobs)}")

    put(1)
    options = {"config.file": conf, "storage.tsdb.path": folder / "data", "web.listen-address": f"127.0.0.1:{port}"}
    command = ["prometheus", *(f"--{name}={value}" for name, value in options.items())]
    with running(command, folder, lambda: get(port, "/-/ready")) as process:
        yield Server(process, put, lambda: get(port, "/api/v1/status/config")).by_signal()


@contextmanager
def nginx(folder: Path) -> Iterator[Server]:
    """190 locations."""
    conf, port = folder / "nginx.conf", free_port()

    def put(value: int) -> None:
        locations = "".join(f'location = /l{n} {{ return 200 "{n}"; }}\n' for n in range(190))
        own = f"pid {folder}/pid; error_log {folder}/error.log; worker_processes 1; events {{}}\ndaemon off;\n"
        server = f'server {{ listen 127.0.0.1:{port}; location = /value {{ return 200 "v{value}v"; }}\n{locations} }}'
        replace(conf, f"{own}http {{ access_log off; {server} }}\n")

    put(1)
    command = ["nginx", "-p", str(folder), "-c", str(conf)]
    with running(command, folder, lambda: get(port, "/value")) as process:
        yield Server(process, put, lambda: get(port, "/value")).by_signal()


@contextmanager
def caddy(folder: Path) -> Iterator[Server]:
    """60 routes of three keys each."""
    conf, port, admin = folder / "caddy.json", free_port(), free_port()
    held = {"value": 1}

    def route(path: str, body: str) -> dict[str, Any]:
        return {"match": [{"path": [path]}], "handle": [{"handler": "static_response", "body": body}]}

    def content() -> bytes:
        routes = [route("/value", f"v{held['value']}v"), *(route(f"/r{n}", str(n)) for n in range(60))]
        servers = {"s": {"listen": [f"127.0.0.1:{port}"], "routes": routes}}
        return json.dumps({"admin": {"listen": f"127.0.0.1:{admin}"}, "apps": {"http": {"servers": servers}}}).encode()

    conf.write_bytes(content())
    command = ["caddy", "run", "--config", str(conf)]
    where = {name: str(folder) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
    with running(command, folder, lambda: get(port, "/value"), **where) as process:
        ask = posting(admin, "/load", content)
        yield Server(process, lambda value: held.update(value=value), lambda: get(port, "/value"), ask)


def show(name: str, took: Sequence[float]) -> tuple[float, float]:
    """Print one line; return p50 and p99 in ms."""
    ms = sorted(each * 1000 for each in took)
    p50, p99 = statistics.median(ms), ms[min(len(ms) - 1, int(len(ms) * 0.99))]
    print(f"{name:44} p50 {p50:7.2f} ms   p99 {p99:7.2f} ms   n {len(ms)}")
    return p50, p99


def against(name: str, mine: tuple[float, float], theirs: tuple[float, float]) -> None:
    """Print how many times as long as theirs ours takes."""
    print(f"{name:44} p50 {mine[0] / theirs[0]:7.2f} x    p99 {mine[1] / theirs[1]:7.2f} x")


@contextmanager
def every_server(folder: Path) -> Iterator[dict[str, Server]]:
    """Run ours twice, with and without the watch, and the others that are installed."""
    with ExitStack() as stack:

        def start(made: Callable[..., Any], name: str, **options: Any) -> Server:
            (folder / name).mkdir()
            return stack.enter_context(made(folder / name, **options))

        own = start(ours, "ours")
        servers = {"hotreload, POST": own, "hotreload, SIGHUP": own.by_signal()}
        for made, name in ((prometheus, "Prometheus, SIGHUP"), (caddy, "Caddy, POST /load"), (nginx, "nginx, SIGHUP")):
            if shutil.which(made.__name__):
                servers[name] = start(made, made.__name__)
            else:
                print(f"{name}: not installed, left out")
        yield {**servers, "hotreload, file saved": start(ours, "watched", watch=True)}


def compare(folder: Path, rounds: int) -> None:
    """Ask all servers in turn, and print what each took."""
    with every_server(folder) as servers:
        taken: dict[str, list[float]] = {name: [] for name in servers}
        for value in range(2, WARM_UP + rounds + 2):
            for number, (name, server) in enumerate(servers.items()):
                taken[name].append(server.measure(10 * value + number))
    figures = {name: show(name, took[WARM_UP:]) for name, took in taken.items()}
    for mine, theirs in (
        ("hotreload, SIGHUP", "Prometheus, SIGHUP"),
        ("hotreload, POST", "Caddy, POST /load"),
        ("hotreload, SIGHUP", "nginx, SIGHUP"),
    ):
        if theirs in figures:
            against(f"{mine} / {theirs}", figures[mine], figures[theirs])


def megabyte(folder: Path) -> None:
    """Change one number of a megabyte, and print how long the verdict takes and how long the loop is away."""
    folder.mkdir()
    with ours(folder, entries=TENANTS) as server:
        size = (folder / "ov.conf").stat().st_size
        verdicts: list[float] = []
        away: list[float] = []
        for value in range(2, 2 + BIG_ROUNDS):
            server.put(value)
            answered = server.ask() if server.ask else print
            began = last = time.perf_counter()
            while f"\r\n\r\n{value}".encode() not in server.shown():
                now = time.perf_counter()
                away.append(now - last)
                pause(BETWEEN_POLLS_S)
                last = time.perf_counter()
            away.append(time.perf_counter() - last)
            answered()
            verdicts.append(time.perf_counter() - began)
        lines = (folder / "log").read_text().splitlines()
    longest = max(len(line) for line in lines if "reload." in line)
    show(f"{size / 1e6:.2f} MB, {TENANTS} tenants: POST → verdict", verdicts)
    print(f"{'the longest time without an answer':44} max {max(away) * 1000:7.2f} ms")
    print(f"{'the longest line logged of a reload':44}     {longest} characters")


def main(rounds: int) -> None:
    """Run all and print."""
    with tempfile.TemporaryDirectory(prefix="hr-bench-") as folder:
        compare(Path(folder), max(1, rounds))
        megabyte(Path(folder) / "big")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 100)
