"""Processes that `warm` forks, and the interpreter that does."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio

MEASURED = "COVERAGE_PROCESS_CONFIG"
"""The variable by which coverage measures a process: a third of its time."""
UNMEASURED = {name: value for name, value in os.environ.items() if name != MEASURED}


@contextmanager
def warm_interpreter(folder: Path) -> Iterator[Path]:
    """Run one that forks servers; yields its address."""
    address = folder / "warm"
    command = [sys.executable, str(Path(__file__).with_name("warm.py")), str(address)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder, env=UNMEASURED
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"listening\n"
        yield address
        process.stdin.close()


class Forked:
    """A process that `warm` forked, with what a test needs of `anyio.abc.Process`."""

    def __init__(self, told: socket.socket) -> None:
        self.pid = int(told.recv(16))
        self._told = told
        self._code: int | None = None
        self.gone_at = 0.0
        """The monotonic second at which its parent saw it gone, once `returncode` is there."""

    @classmethod
    async def start(cls, warm: Path, order: Mapping[str, Any]) -> "Forked":
        """Have it forked."""
        told = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        told.connect(str(warm))
        told.send(json.dumps(order).encode())
        await anyio.wait_readable(told)
        return cls(told)

    @property
    def returncode(self) -> int | None:
        """Its exit code, None while it runs."""
        if self._code is None:
            with suppress(BlockingIOError):
                code, gone_at = self._told.recv(64, socket.MSG_DONTWAIT).split()
                self._code, self.gone_at = int(code), float(gone_at)
        return self._code

    async def wait(self) -> int:
        """Return its exit code once it has one."""
        while (code := self.returncode) is None:
            await anyio.wait_readable(self._told)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    async def aclose(self) -> None:
        """Wait for its end."""
        await self.wait()
        self._told.close()
