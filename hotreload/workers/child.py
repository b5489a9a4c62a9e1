"""The other side of a process handler: `python -m hotreload.workers.child`, started and killed by its parent.

Frames on the pipes are four bytes of length and a pickle. The parent says where to import from, then one job after
the other; this side says that it took it, answers with how it ended, and asks for checkpoints and the like in between.
"""

from __future__ import annotations

import builtins
import ctypes
import os
import pickle
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from typing import Any, Final

from pydantic import BaseModel

from hotreload import errors
from hotreload.config.records import scrub_all
from hotreload.config.scrubbing import Scrubber
from hotreload.workers.job import StopHere, SyncJob, Within
from hotreload.workers.progress import Progress
from hotreload.workers.verdicts import interruption

LENGTH: Final = struct.Struct("!I")
_PR_SET_PDEATHSIG: Final = 1


def frame(message: Any) -> bytes:
    """Return a message as it goes through a pipe."""
    body = pickle.dumps(message)
    return LENGTH.pack(len(body)) + body


class Wire:
    """The child's end of the two pipes."""

    def __init__(self, reads: int, writes: int) -> None:
        self._reads = os.fdopen(reads, "rb")
        self._writes = os.fdopen(writes, "wb", buffering=0)

    def receive(self) -> bytes | None:
        """Return the next pickle, None where the parent is gone or done."""
        head = self._reads.read(LENGTH.size)
        return self._reads.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else None

    def send(self, message: Any) -> None:
        """Send a message."""
        self._writes.write(frame(message))

    def ask(self, *question: Any) -> Any:
        """Send a question and return the answer, or raise what the parent refuses it with."""
        self.send(question)
        body = self.receive()
        if body is None:
            raise StopHere
        match pickle.loads(body):
            case ("ok", value):
                return value
            case ("refused", name, text):
                kind = getattr(errors, name, None) or getattr(builtins, name, RuntimeError)
                error = kind.__new__(kind)
                error.args = (text,)
                raise error
            case _:
                raise StopHere


class PipeDesk:
    """Answers a job of this process through the pipe."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    def keep(self, progress: Progress, within: Within | None) -> None:
        """Make progress durable."""
        if within is not None:
            raise TypeError("`within` writes with the store's own connection: it is not for process handlers")
        self._wire.ask("keep", progress)

    def ask(self, verb: str, *args: Any, **options: Any) -> Any:
        """Ask the job in the parent."""
        return self._wire.ask("ask", verb, args, options)


def perform(wire: Wire, message: bytes, known: Scrubber) -> tuple[Any, ...]:
    """Do one job and return how it ended; what its settings hold is `known` from then on."""
    try:
        handler: Callable[..., Any]
        handler, job_id, attempt, payload, progress, settings = pickle.loads(message)
        if isinstance(settings, BaseModel):
            known.learn_settings(settings)
        return ("done", handler(SyncJob(job_id, attempt, payload, progress, PipeDesk(wire)), settings))
    except BaseException as error:  # noqa: BLE001 - whatever a job raises is told to the parent
        stopped = interruption(error)
        if stopped is not None:
            return ("stopped", stopped.delay_s)
        return ("failed", f"{type(error).__name__}: {error}", traceback.format_exc(limit=-20))


def main() -> None:
    """Serve jobs until the parent closes the pipe; the terminal's and systemd's signals are the parent's matter."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    wire = Wire(os.dup(0), os.dup(1))
    os.dup2(2, 1)  # what a job prints must not come between the frames
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    paths = wire.receive()
    if paths is not None:
        sys.path[:] = pickle.loads(paths)
    known = Scrubber()
    scrub_all(known.scrub)
    while (message := wire.receive()) is not None:
        wire.send(("taken",))
        ended = perform(wire, message, known)
        try:
            wire.send(ended)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            wire.send(("failed", f"its result cannot be sent: {error}", None))


if __name__ == "__main__":
    main()
