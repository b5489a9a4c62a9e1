"""What an error that a job raised means to the queue, and how it is told; the error is a stranger's object.

Everything that touches it (its text, its notes, its attributes) may raise, hang on to gigabytes, or end the process:
it is touched here only, and whatever that raises becomes `unprintable NAME`.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import traceback
from collections.abc import Iterator
from typing import Final, cast

from hotreload.errors import Discard, QueueDraining, Retry, StoreUnavailable, describe, guarded, name_of, text_of
from hotreload.queue.job import Failed, Interrupted, Snoozed, Verdict

log = logging.getLogger(__name__)
AGAIN_S: Final = 2.0
"""How long a job waits that met a store or a service that took nothing: it would meet the same at once again."""
TRACE_MOST: Final = 65_536
"""What is kept of a traceback; twice as much is scrubbed of secrets before, so that none is cut in two."""
FRAMES: Final = 20
CAUSES: Final = 16
OUT_OF_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE)


class StopHere(BaseException):
    """Raised by `stop`: the job goes back at its last checkpoint. Not an Exception, so that no handler eats it."""

    def __init__(self, delay_s: float = 0.0) -> None:
        super().__init__(delay_s)
        self.delay_s = delay_s


class HandlerFailed(Exception):
    """A handler raised in its child process, or the process ended; `trace` is the traceback there."""

    def __init__(self, text: str, trace: str | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.trace = trace


class JobExit(BaseException):
    """A task of a job raised SystemExit or KeyboardInterrupt: what the code that awaits that task gets instead."""


def verdict_on(error: BaseException) -> Verdict:
    """Return what `error`, raised by the code of a job, is to the queue; raises nothing.

    An interruption where it says nothing but that the job stopped itself (`stop`, `needs`), that the service or its
    store took nothing now, or that no file descriptor was free; inside exception groups as well. `Retry` snoozes,
    `Discard` ends the job for good. All else, SystemExit included, is the job's failure.
    """
    try:
        return _without_failure(error) or _failure(error)
    except BaseException:  # noqa: BLE001 - of the error's own code
        return Failed(error=f"unprintable {name_of(error)}")


def _without_failure(error: BaseException) -> Verdict | None:
    leaves = list(_leaves(error))
    if all(_not_its_fault(leaf) for leaf in leaves):
        waits = [leaf.delay_s if isinstance(leaf, StopHere) else AGAIN_S for leaf in leaves]
        return Interrupted(max(waits, default=0.0))
    if all(issubclass(type(leaf), (Retry, StopHere)) for leaf in leaves):
        return Snoozed(max(float(leaf.after_s) for leaf in leaves if isinstance(leaf, Retry)))
    return None


def _not_its_fault(error: BaseException) -> bool:
    if issubclass(type(error), (StopHere, QueueDraining, StoreUnavailable)):
        return True
    cause: BaseException | None = error
    for _ in range(CAUSES):
        if cause is None:
            break
        if issubclass(type(cause), OSError) and cast("OSError", cause).errno in OUT_OF_DESCRIPTORS:
            return True
        cause = cause.__cause__
    return False


def _failure(error: BaseException) -> Failed:
    if issubclass(type(error), HandlerFailed):
        return Failed(error=cast("HandlerFailed", error).text, traceback=cast("HandlerFailed", error).trace)
    if issubclass(type(error), asyncio.CancelledError):
        return Failed(error="it was cancelled by its own code")
    discarded = next((leaf for leaf in _leaves(error) if issubclass(type(leaf), Discard)), None)
    if discarded is not None:
        return Failed(error=text_of(discarded) or describe(discarded), traceback=trace_of(error), for_good=True)
    told = text_of(error) if issubclass(type(error), JobExit) else None
    return Failed(error=told or describe(error), traceback=trace_of(error))


def trace_of(error: BaseException) -> str | None:
    """Return its traceback as text, the end of it where it is long; None where that cannot be had."""
    return guarded(lambda: "".join(traceback.format_exception(error, limit=-FRAMES))[-2 * TRACE_MOST :])


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if not issubclass(type(error), BaseExceptionGroup):
        yield error
        return
    for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
        yield from _leaves(inner)
