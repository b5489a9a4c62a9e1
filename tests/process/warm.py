"""Fork processes from an interpreter that has imported what a service needs: most of the time a test's process takes.

    python -m tests.process.warm DESCRIPTOR

Orders come over a socket: `command`, `cwd` and `env`, with three descriptors, for the output, the errors and a socket
on which the process id is told, then the exit code. It leaves when the other end of its socket is closed. Commands are
`python -m MODULE ...` and `python SCRIPT ...`; what is different from one that is executed stands in `forked.py`.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import time
from typing import Any, NoReturn

import coverage

IMPORTED = (
    "anyio._backends._asyncio",
    "hotreload.admin.app",
    "hotreload.admin.metrics",
    "hotreload.cli",
    "hotreload.fleet.coordinator",
    "hotreload.host.process",
    "hotreload.host.start",
    "hotreload.queue.postgres",
    "hotreload.queue.sqlite",
    "hotreload.service.composition",
    "hotreload.service.declaration",
    "uvicorn.protocols.http.h11_impl",
)
ORDER_BYTES = 1 << 17


def main(descriptor: int) -> None:
    """Fork until no test wants it any more."""
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    orders = socket.socket(fileno=descriptor)
    running: dict[int, tuple[int, socket.socket]] = {}
    while True:
        for ready in select.select([orders, *running], [], [])[0]:
            if isinstance(ready, int):
                pid, told = running.pop(ready)
                os.close(ready)
                told.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
                told.close()
                continue
            order, descriptors, _, _ = socket.recv_fds(orders, ORDER_BYTES, 3)
            if not order:
                return
            pid = os.fork()
            if pid == 0:
                for inherited in (orders, *(told for _, told in running.values())):
                    inherited.detach()
                become(json.loads(order), *descriptors)
            output, errors, told_by = descriptors
            os.close(output)
            os.close(errors)
            told = socket.socket(fileno=told_by)
            told.send(str(pid).encode())
            running[os.pidfd_open(pid)] = pid, told


def become(order: dict[str, Any], output: int, errors: int, _told: int) -> NoReturn:
    """Be the process that the command would have started."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, descriptor in enumerate((nothing, output, errors)):
        os.dup2(descriptor, number)
    os.closerange(3, 1 << 16)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    time.tzset()
    if os.environ.get("PYTHONFAULTHANDLER"):
        faulthandler.enable()
    coverage.process_startup()
    _, *arguments = sys.orig_argv[:] = order["command"]
    if arguments[0] == "-m":
        sys.argv[:], sys.path[0] = arguments[1:], order["cwd"]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:], sys.path[0] = arguments, os.path.dirname(arguments[0])
        runpy.run_path(arguments[0], run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(int(sys.argv[1]))
