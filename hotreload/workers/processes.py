"""Process handlers: code that cannot be cancelled runs in a child process, which can always be killed."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from hotreload.errors import Discard, Retry, describe, text_of
from hotreload.workers.child import LENGTH, frame
from hotreload.workers.failures import HandlerFailed, StopHere
from hotreload.workers.job import Job

ENDINGS: Final = ("done", "failed", "stopped", "snoozed", "discarded")


class Gone(Exception):
    """A child process ended before it received a job."""


class Processes:
    """Runs one worker's handler, each job in a process of its own meanwhile; idle processes wait for the next job.

    The child finds the handler by its module and name.
    """

    def __init__(self, handler: Callable[..., Any]) -> None:
        self._handler = (handler.__module__, handler.__qualname__)
        self._idle: list[Child] = []
        self._busy = 0

    async def __call__(self, job: Job[Any, Any], settings: Any, **_handed: Any) -> Any:
        """Run the handler; cancelled, or with the process gone wrong, the process is killed. Resources stay here."""
        self._busy += 1
        try:
            return _outcome(await self._run(job, settings))
        finally:
            self._busy -= 1

    async def _run(self, job: Job[Any, Any], settings: Any) -> tuple[Any, ...]:
        """Run in an idle process, or where there is none, or one that has died meanwhile, in a new one."""
        while self._idle:
            with suppress(Gone):
                return await self._run_in(self._idle.pop(), job, settings)
        try:
            return await self._run_in(await Child.start(), job, settings)
        except Gone as error:
            raise HandlerFailed(str(error)) from error

    async def _run_in(self, child: Child, job: Job[Any, Any], settings: Any) -> tuple[Any, ...]:
        try:
            ended = await child.run(self._handler, job, settings)
        except BaseException:
            await child.kill()
            raise
        self._idle.append(child)
        return ended

    async def trim(self, most: int) -> None:
        """End idle processes beyond `most` in all."""
        while self._idle and len(self._idle) + self._busy > most:
            await self._idle.pop(0).kill()

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
        case ("snoozed", after_s):
            raise Retry(after_s)
        case ("discarded", text):
            raise Discard(text)
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
        process = await anyio.open_process(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None,
            start_new_session=True,  # a terminal's Ctrl-C is for the service, which drains, not for its children
        )
        child = cls(process)
        with suppress(anyio.BrokenResourceError):  # it is gone already: `run` says so
            await child._writes.send(frame(sys.path))
        return child

    async def run(self, handler: tuple[str, str], job: Job[Any, Any], settings: Any) -> tuple[Any, ...]:
        """Have one job done, answer what it asks; HandlerFailed where the process ends instead.

        Gone where it had ended before it took the job: it says that it did before it begins.
        """
        taken = False
        try:
            given = (handler, job.id, job.attempt, job.payload, job.progress, settings, job.most_bytes)
            await self._writes.send(frame(given))
            while True:
                (size,) = LENGTH.unpack(await self._reads.receive_exactly(LENGTH.size))
                message = pickle.loads(await self._reads.receive_exactly(size))
                if message[0] in ENDINGS:
                    return message
                if message[0] == "taken":
                    taken = True
                else:
                    await self._writes.send(frame(await _answer(job, *message)))
        except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError) as error:
            ended = f"its process ended with {await self._process.wait()}"
            raise (HandlerFailed(ended) if taken else Gone(ended)) from error

    async def kill(self) -> None:
        """End the process, whatever it does, and what it started in its session."""
        with anyio.CancelScope(shield=True):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()
            await self._process.aclose()


async def _answer(job: Job[Any, Any], verb: str, *question: Any) -> tuple[Any, ...]:
    try:
        if verb == "keep":
            await job.keep(lambda before: replace(question[0], steps=before.steps))
        elif verb == "keep_step":
            await job.keep_step(*question)
        if verb in ("keep", "keep_step"):
            return ("stop",) if job.stopping else ("ok", None)
        name, args, options = question
        if name.startswith("enqueue"):
            return ("ok", await getattr(job, name)(*args, **options))
        return ("ok", job.interrupted if name == "interrupted" else getattr(job, name)(*args))
    except StopHere:
        return ("stop",)
    except Exception as error:  # noqa: BLE001 - it is the asking code's, in the child
        return ("refused", type(error).__name__, text_of(error) or describe(error))
