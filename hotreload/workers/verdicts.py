"""Whose doing it is that a job raised: its own (a failure, an attempt), or the service's (an interruption, none)."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Iterator
from typing import Any, Final, cast

from hotreload.errors import QueueDraining, StoreUnavailable
from hotreload.queue.job import Failed, Interrupted, Verdict
from hotreload.workers.job import HandlerFailed, Job, StopHere

log = logging.getLogger(__name__)
AGAIN_S: Final = 2.0
"""How long a job waits that met a store or a service that took nothing: it would meet the same at once again."""


def verdict_on(error: BaseException, job: Job[Any], *, stopped: bool) -> Verdict:
    """Return what `error`, raised by the code of `job`, is to the queue; `stopped`: the service had ended the job.

    Of a stopped job any error is an interruption: cleaning up turns a cancellation into whatever it likes. So is
    one that says nothing but that the job stopped itself (`stop`, `needs`), or that the service or its store took
    nothing now; inside of exception groups as well. All else, SystemExit included, is the job's failure.
    """
    if stopped:
        if not isinstance(error, (StopHere, asyncio.CancelledError)):
            log.warning("job.interrupted job=%s error=%r", job.id, error)
        return Interrupted()
    found = interruption(error)
    if found is not None:
        return found
    log.warning("job.failed job=%s attempt=%d error=%r", job.id, job.attempt, error)
    if isinstance(error, HandlerFailed):
        return Failed(error=str(error), traceback=error.trace)
    if isinstance(error, asyncio.CancelledError):
        return Failed(error="it was cancelled by its own code")
    return Failed(
        error=f"{type(error).__name__}: {error}", traceback="".join(traceback.format_exception(error, limit=-20))
    )


def interruption(error: BaseException) -> Interrupted | None:
    """Return the interruption that an error stands for, None where it is a failure."""
    leaves = list(_leaves(error))
    if not all(isinstance(leaf, (StopHere, QueueDraining, StoreUnavailable)) for leaf in leaves):
        return None
    waits = [leaf.delay_s if isinstance(leaf, StopHere) else AGAIN_S for leaf in leaves]
    return Interrupted(max(waits, default=0.0))


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if not isinstance(error, BaseExceptionGroup):
        yield error
        return
    for inner in cast("BaseExceptionGroup[BaseException]", error).exceptions:
        yield from _leaves(inner)
