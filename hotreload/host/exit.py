"""The last moments of a process of our own; in another's process nothing of this is used."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn

from hotreload import early

if TYPE_CHECKING:
    from hotreload.drain.coordinator import DrainCoordinator

log = logging.getLogger(__name__)
HOOKS_S: Final = 5.0
"""How long the end of a process may take that never drained."""

_held: list[DrainCoordinator] = []


def hold_to_the_end(drain: DrainCoordinator) -> None:
    """Keep the deadline of this drain enforced until the process ends."""
    _held.append(drain)


def end_process(code: int) -> NoReturn:
    """End the children of `multiprocessing`, run the `atexit` hooks, then end; all inside the drain's deadline.

    Threads and tasks that stay are not waited for: joining them is what `asyncio.Runner.close` and the interpreter do,
    without a bound, and a call in `asyncio.to_thread` or a task that swallows its cancellation would hold a drained
    process. Where hooks take too long the drain's last resort ends the process from its thread.
    """
    early.ignore()
    left_s = min((drain.left_s for drain in _held), default=HOOKS_S)
    if not _held:
        watch = threading.Timer(HOOKS_S, os._exit, (code,))
        watch.daemon = True
        watch.start()
    with suppress(Exception):  # what a hook raises, `atexit` prints itself
        _end_children(left_s * 0.7)
        atexit._run_exitfuncs()  # pyright: ignore[reportPrivateUsage]
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # None, closed, or not read
            stream.flush()
    for drain in _held:
        drain.release()
    os._exit(code)


def _end_children(within_s: float) -> None:
    """End the processes of `multiprocessing` and of process pools: daemons at once, others when they have finished.

    What has not finished in time is killed. Neither module is imported where the service did not.
    """
    ends = time.monotonic() + within_s
    executors: Any = sys.modules.get("concurrent.futures.process")
    processes: Any = sys.modules.get("multiprocessing.process")
    if executors is not None:
        ending = threading.Thread(target=executors._python_exit, daemon=True)  # as the interpreter does at its end
        ending.start()
        ending.join(within_s / 2)
    children: list[Any] = processes.active_children() if processes is not None else []
    for child in children:
        if child.daemon:
            child.terminate()
    for child in children:
        child.join(max(0.0, ends - time.monotonic()))
        if child.is_alive():
            log.warning("exit.child_killed pid=%s name=%s", child.pid, child.name)
            child.kill()
            child.join(0.1)
