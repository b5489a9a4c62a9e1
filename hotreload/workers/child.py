"""The other side of a process handler: `python -m hotreload.workers.child`, started and killed by its parent.

Frames on the pipes are four bytes of length and a pickle. The parent says where to import from, then one job after
the other; this side says that it took it, answers with how it ended, and asks for checkpoints and the like in between.
"""

from __future__ import annotations

import builtins
import ctypes
import importlib
import os
import pickle
import signal
import struct
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

from pydantic import BaseModel

from hotreload import errors
from hotreload.config.fields import rule_for, tree
from hotreload.config.model import leaf_values
from hotreload.config.records import scrub_all
from hotreload.config.secrets import Scrubber
from hotreload.queue.job import Done, Failed, Interrupted, Snoozed
from hotreload.workers.failures import StopHere, verdict_on
from hotreload.workers.isolation import end_forked
from hotreload.workers.job import SyncJob, Within
from hotreload.workers.kind import result_of
from hotreload.workers.progress import Progress

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
        self._wire.ask("keep", replace(progress, steps={}))

    def keep_step(self, name: str, result: Any) -> None:
        """Make the result of one step durable."""
        self._wire.ask("keep_step", name, result)

    def ask(self, verb: str, *args: Any, **options: Any) -> Any:
        """Ask the job in the parent."""
        return self._wire.ask("ask", verb, args, options)


def perform(wire: Wire, message: bytes, known: Scrubber) -> tuple[Any, ...]:
    """Do one job and return how it ended; what its settings hold is `known` from then on. Raises nothing."""
    owner = os.getpid()
    try:
        name, job_id, attempt, payload, progress, settings, most_bytes = pickle.loads(message)
        if isinstance(settings, BaseModel):
            root = tree(settings.__class__)
            known.learn(leaf_values(settings, root), partial(rule_for, root))
        result = handler_of(*name)(SyncJob[Any, Any](job_id, attempt, payload, progress, PipeDesk(wire)), settings)
        return ("done", None if result is None else result_of(result, most_bytes))
    except BaseException as error:  # noqa: BLE001 - whatever a job raises is told to the parent
        return _ending(error)
    finally:
        end_forked(owner)


def handler_of(module: str, qualname: str) -> Callable[..., Any]:
    """Return the handler of a name: what a worker was declared with, where that name is the worker's handle."""
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return getattr(found, "handler", found)


def _ending(error: BaseException) -> tuple[Any, ...]:
    match verdict_on(error):
        case Interrupted(delay_s=delay_s):
            return ("stopped", delay_s)
        case Snoozed(delay_s=delay_s):
            return ("snoozed", delay_s)
        case Failed(for_good=True) as failed:
            return ("discarded", failed.error)
        case Failed() as failed:
            return ("failed", failed.error, failed.traceback)
        case Done():
            raise AssertionError("an error is not a result")


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
        wire.send(perform(wire, message, known))


if __name__ == "__main__":
    main()
