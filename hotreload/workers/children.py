"""Process handlers: code that cannot be cancelled runs in a child process, which can always be killed."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from hotreload.workers.child import LENGTH, frame
from hotreload.workers.job import HandlerFailed, Job, StopHere


class Children:
    """Runs one worker's handler, each job in a process of its own meanwhile; idle processes wait for the next job."""

    def __init__(self, handler: Callable[..., Any]) -> None:
        if "<locals>" in handler.__qualname__:
            raise ValueError(
                f"{handler.__qualname__}: a process handler is found by its name, so not inside a function"
            )
        self._handler = handler
        self._idle: list[Child] = []

    async def __call__(self, job: Job[Any], settings: Any, **_handed: Any) -> Any:
        """Run the handler; cancelled, or with the process gone wrong, the process is killed. Resources stay here."""
        child = self._idle.pop() if self._idle else await Child.start()
        try:
            ended = await child.run(self._handler, job, settings)
        except BaseException:
            await child.kill()
            raise
        self._idle.append(child)
        return _outcome(ended)

    async def close(self) -> None:
        """End the idle processes."""
        while self._idle:
            await self._idle.pop().kill()


def _outcome(ended: tuple[Any, ...]) -> Any:
    match ended:
        case ("done", result):
            return result
        case ("failed", text, trace):
            raise HandlerFailed(text, trace)
        case (_, delay_s):
            raise StopHere(delay_s)
        case _:
            raise AssertionError(f"a child ended with {ended!r}")


class Child:
    """One child process, from the parent's side."""

    def __init__(self, process: Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._writes = process.stdin
        self._reads = BufferedByteReceiveStream(process.stdout)

    @classmethod
    async def start(cls) -> Child:
        """Start a process that waits for its first job."""
        command = [sys.executable, "-m", "hotreload.workers.child"]
        child = cls(await anyio.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=None))
        await child._writes.send(frame(sys.path))
        return child

    async def run(self, handler: Callable[..., Any], job: Job[Any], settings: Any) -> tuple[Any, ...]:
        """Have one job done, answer what it asks; HandlerFailed where the process ends instead."""
        try:
            await self._writes.send(frame((handler, job.id, job.attempt, job.payload, job.progress, settings)))
            while True:
                (size,) = LENGTH.unpack(await self._reads.receive_exactly(LENGTH.size))
                message = pickle.loads(await self._reads.receive_exactly(size))
                if message[0] in ("done", "failed", "stopped"):
                    return message
                await self._writes.send(frame(await _answer(job, *message)))
        except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError) as error:
            raise HandlerFailed(f"its process ended with {await self._process.wait()}") from error

    async def kill(self) -> None:
        """End the process, whatever it does."""
        with anyio.CancelScope(shield=True):
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            await self._process.aclose()


async def _answer(job: Job[Any], verb: str, *question: Any) -> tuple[Any, ...]:
    try:
        if verb == "keep":
            await job.keep(lambda _before: question[0])
            return ("stop",) if job.stopping else ("ok", None)
        name, args, options = question
        if name == "enqueue":
            return ("ok", await job.enqueue(*args, **options))
        return ("ok", job.interrupted if name == "interrupted" else getattr(job, name)(*args))
    except StopHere:
        return ("stop",)
    except Exception as error:  # noqa: BLE001 - it is the asking code's, in the child
        return ("refused", type(error).__name__, str(error))
