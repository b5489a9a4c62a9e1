"""A service manager in small: it holds the listening socket, hands it over and hears READY; and a load on the service.

HOTRELOAD_BUSY says how many processes keep the machine busy meanwhile.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hotreload.systemd.listen import FIRST
from tests.counts import counted
from tests.process.running import ROOT, UNMEASURED

BUSY = counted("BUSY", 4)
CLIENTS = ROOT / "tests/systemd/clients.py"
HANDED = f"""import os, sys
os.dup2(int(sys.argv[1]), {FIRST})
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])"""
PAUSE_S, ANSWERS, EACH = 0.05, 5, 16
WAIT_S = 600.0


@dataclass
class Manager:
    """Hands a listening socket, by name, to one process after the other, as systemd does."""

    command: tuple[str, ...]
    listener: socket.socket
    name: str
    notify: Path
    told: socket.socket
    environ: Mapping[str, str] = field(default_factory=lambda: UNMEASURED)

    def start(self) -> subprocess.Popen[bytes]:
        """Start the service and wait until it is ready."""
        own = {"NOTIFY_SOCKET": str(self.notify), "LISTEN_FDS": "1", "LISTEN_FDNAMES": self.name}
        process = subprocess.Popen(
            [sys.executable, "-c", HANDED, str(self.listener.fileno()), *self.command],
            cwd=ROOT,
            env={**self.environ, **own},
            pass_fds=(self.listener.fileno(),),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while b"READY=1" not in self.told.recv(4096):
            pass
        return process

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """Have a service drain, and wait until it is gone."""
        process.terminate()
        assert process.wait(WAIT_S) == 0


@contextmanager
def bound(folder: Path, port: int = 0) -> Iterator[tuple[socket.socket, Path, socket.socket]]:
    """Bind what a manager holds: a listening socket, and the path and the end of its notifications."""
    told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with told, socket.create_server(("127.0.0.1", port), backlog=1024) as listener:
        told.bind(str(folder / "notify"))
        told.settimeout(WAIT_S)
        yield listener, folder / "notify", told


@contextmanager
def busy_machine() -> Iterator[None]:
    """Have processes compete for the processors."""
    with ExitStack() as stack:
        for _ in range(BUSY):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while True: pass"], env=UNMEASURED))
            stack.callback(process.kill)
        yield


@contextmanager
def clients(port: int, path: str) -> Iterator[Callable[[], dict[str, int]]]:
    """Have 32 clients ask all the time; gives what was counted so far, once each was answered again."""
    command = [sys.executable, str(CLIENTS), str(port), path, str(PAUSE_S), str(ANSWERS), str(EACH)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=UNMEASURED) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked, answered = process.stdin, process.stdout

        def answers() -> dict[str, int]:
            asked.write("\n")
            asked.flush()
            return json.loads(answered.readline())

        try:
            yield answers
        finally:
            process.kill()


def restart_under_load(manager: Manager, path: str, restarts: int) -> dict[str, int]:
    """Restart a service so often while 32 clients ask for `path`; returns what was counted, see `clients.py`."""
    port: int = manager.listener.getsockname()[1]
    with busy_machine():
        process = manager.start()
        with clients(port, path) as answers:
            counts = answers()
            for _ in range(restarts):
                manager.stop(process)
                process = manager.start()
                counts = answers()
        manager.stop(process)
    return counts


def losses(counts: dict[str, int]) -> dict[str, int]:
    """Return what was counted beside answers."""
    return {what: count for what, count in counts.items() if not what.endswith("answered")}
