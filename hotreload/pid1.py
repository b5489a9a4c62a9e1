"""Be the init of a container: where this process is PID 1, the service runs in a child of it.

PID 1 inherits the orphans of every process in its namespace and must reap them (wait(2)), and signals without a handler
do not reach it. Reaping in the service itself would take the exit status of children that `subprocess`, asyncio or
`multiprocessing` wait for, so this process does nothing else: it hands signals on, reaps, and ends as the service does.

Standard library only: this module is imported before any third-party package.
"""

from __future__ import annotations

import os
import signal
from typing import Final

HANDED_ON: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)


def run_as_child() -> None:
    """Return in the process that is to serve: this one, or where it is PID 1 a child of it.

    Call it before threads are started and before `early.install`.
    """
    if os.getpid() != 1:
        return
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, HANDED_ON)  # none falls between the fork and the handlers
    service = os.fork()
    if service:
        for number in HANDED_ON:
            signal.signal(number, lambda got, _frame: os.kill(service, got))
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    if service:
        _reap_until(service)


def _reap_until(service: int) -> None:
    """Reap whatever ends, and end as `service` does; the kernel ends what is left in the namespace then."""
    while True:
        ended, status = os.wait()
        if ended == service:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
