"""Stage 4: put back what did not finish and make everything durable. Runs in the last resort's thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from hotreload.drain.quiesce import Drainable
from hotreload.lifecycle import Flushed

log = logging.getLogger(__name__)


def flush(parts: Sequence[Drainable], ends: float) -> Flushed:
    """Flush every part before the monotonic instant `ends`; returns what became of all their work.

    Needs nothing of the event loop. A part whose flush raises counts what it still runs as lost: the truth is
    then in its store, and the next start finds it.
    """
    results: list[Flushed] = []
    for part in parts:
        try:
            results.append(part.flush(max(0.05, ends - time.monotonic())))
        except Exception:
            log.exception("drain.flush_failed part=%s", part.name)
            results.append(Flushed(lost=len(part.remaining())))
    return Flushed(
        finished=[job for result in results for job in result.finished],
        checkpointed=[job for result in results for job in result.checkpointed],
        requeued=[job for result in results for job in result.requeued],
        abandoned=[job for result in results for job in result.abandoned],
        lost=sum(result.lost for result in results),
        stuck=[line for result in results for line in result.stuck],
    )
