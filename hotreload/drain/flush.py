"""Stage 4: put back what did not finish and make everything durable. Runs in the last resort's thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

from hotreload.drain.report import DrainReport
from hotreload.lifecycle import Flushed

log = logging.getLogger(__name__)
FLUSH_LEAST_S = 0.05


class Flush(Protocol):
    """Ends the work of a process. Needs nothing of the event loop, which may be blocked, and fences what still runs."""

    def __call__(self, timeout_s: float, report: Callable[[Flushed], DrainReport]) -> object:
        """Put back what did not finish and keep the report made of it: in one transaction where one store has both.

        Both are durable on return; where it raises, the truth is in the store, and the next start finds it.
        """
        ...


def flush(how: Flush, report: Callable[[Flushed], DrainReport], until: float) -> bool:
    """Flush before the monotonic instant `until`; True once all of it and the report are durable."""
    try:
        how(max(FLUSH_LEAST_S, until - time.monotonic()), report)
    except Exception:
        log.exception("drain.flush_failed")
        return False
    return True
