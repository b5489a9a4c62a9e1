"""The last moments of a serving process."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import NoReturn

from hotreload import early


def end_process(code: int) -> NoReturn:
    """Hand out what was said, then end at once: nothing is joined, no thread or task that stays is waited for.

    Joining is what `asyncio.Runner.close` and the interpreter do, without a bound: a call in `asyncio.to_thread` or a
    task that swallows its cancellation would hold a drained process beyond its deadline. The drain's last resort is
    still armed here, as a reader who does not read can hold a stream.
    """
    early.ignore()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # None, closed, or nobody reads
            stream.flush()
    os._exit(code)
