"""Processes that `warm` forks: what `python -m MODULE` does, without the start of an interpreter and the imports.

One differs from a process that is executed: it has its modules, hash seed and command line in /proc from `warm`, which
is its parent. Tests about the first moments of a process, its memory or its command line have it executed.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, Process

ROOT = Path(__file__).parents[2]
NEEDS_INTERPRETER = ("PYTHON", "LC_", "LANG")
"""Variables that count as an interpreter starts."""


def can_fork(command: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Say whether `warm` can be this: a module or a script run by this interpreter, as it was started."""
    return (
        command[0] == sys.executable
        and command[1] != "-c"
        and all(
            environ.get(name) == os.environ.get(name)
            for name in {*environ, *os.environ}
            if name.startswith(NEEDS_INTERPRETER) and name != "PYTHONFAULTHANDLER"
        )
    )


@cache
def _orders() -> socket.socket:
    """Start `warm`; return the socket that takes its orders until this process ends."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.process.warm", str(its.fileno())]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS")}
    nothing = subprocess.DEVNULL
    warm = subprocess.Popen(command, cwd=ROOT, env=environ, stdin=nothing, stdout=nothing, pass_fds=[its.fileno()])
    its.close()

    def end() -> None:
        ours.close()
        warm.wait()

    atexit.register(end)
    return ours


class _Output(ByteReceiveStream):
    """What a process writes, from a pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def receive(self, max_bytes: int = 1 << 16) -> bytes:
        """Return what was written since; EndOfStream once no process holds the other end."""
        await anyio.wait_readable(self._descriptor)
        if not (read := os.read(self._descriptor, max_bytes)):
            raise anyio.EndOfStream
        return read

    async def aclose(self) -> None:
        """Close the pipe; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Forked(Process):
    """A process that `warm` forked; `start` has it forked."""

    def __init__(self, pid: int, told: socket.socket, stdout: _Output, stderr: _Output | None) -> None:
        self._pid = pid
        self._told = told
        self._stdout = stdout
        self._stderr = stderr
        self._code: int | None = None

    @classmethod
    async def start(
        cls, command: Sequence[str], *, cwd: os.PathLike[str], environ: Mapping[str, str], apart: bool = False
    ) -> Forked:
        """Have a command forked; its errors go to its output, or `apart`."""
        told, tells = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        (stdout, output), (stderr, errors) = os.pipe(), os.pipe() if apart else (-1, -1)
        order = json.dumps({"command": list(command), "cwd": os.fspath(cwd), "env": dict(environ)}).encode()
        socket.send_fds(_orders(), [order], [output, errors if apart else output, tells.fileno()])
        for descriptor in {output, errors} - {-1}:
            os.close(descriptor)
        tells.close()
        with anyio.CancelScope(shield=True):  # a process that is not known is not ended
            await anyio.wait_readable(told)
        return cls(int(told.recv(16)), told, _Output(stdout), _Output(stderr) if apart else None)

    @property
    def pid(self) -> int:
        """See `Process`."""
        return self._pid

    @property
    def returncode(self) -> int | None:
        """See `Process`."""
        if self._code is None:
            with suppress(BlockingIOError):
                self._code = int(self._told.recv(16, socket.MSG_DONTWAIT))
        return self._code

    @property
    def stdin(self) -> ByteSendStream | None:
        """None: it is /dev/null."""
        return None

    @property
    def stdout(self) -> ByteReceiveStream:
        """See `Process`."""
        return self._stdout

    @property
    def stderr(self) -> ByteReceiveStream | None:
        """See `Process`."""
        return self._stderr

    async def wait(self) -> int:
        """See `Process`."""
        while (code := self.returncode) is None:
            await anyio.wait_readable(self._told)
        return code

    def send_signal(self, signal: signal.Signals) -> None:
        """See `Process`."""
        if self.returncode is None:
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(self._pid, signal)

    def terminate(self) -> None:
        """See `Process`."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """See `Process`."""
        self.send_signal(signal.SIGKILL)

    async def aclose(self) -> None:
        """Wait for its end, and close what is read of it."""
        await self.wait()
        self._told.close()
        for stream in (self._stdout, self._stderr):
            if stream is not None:
                await stream.aclose()


async def run_forked(
    command: Sequence[str], *, cwd: os.PathLike[str], environ: Mapping[str, str]
) -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end; returns its output and its errors."""
    process = await Forked.start(command, cwd=cwd, environ=environ, apart=True)
    said: dict[int, bytes] = {}

    async def read(number: int, stream: ByteReceiveStream) -> None:
        said[number] = b"".join([part async for part in stream])

    try:
        async with anyio.create_task_group() as reading:
            for number, stream in ((1, process.stdout), (2, process.stderr)):
                assert stream is not None
                reading.start_soon(read, number, stream)
        code = await process.wait()
    finally:
        process.kill()
        with anyio.CancelScope(shield=True):
            await process.aclose()
    return subprocess.CompletedProcess(command, code, said[1], said[2])
