"""Sockets that outlive a restart: handed over by a `.socket` unit, or kept in the service manager's store.

A listening socket that another process holds as well keeps its queue while no process serves it: clients that connect
during a restart wait, instead of being refused. With a `.socket` unit the manager binds; without one the first
process binds and leaves a copy in the manager's store (`FileDescriptorStoreMax=`), from where the next one gets it.
See sd_listen_fds(3) and sd_pid_notify_with_fds(3).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

FIRST: Final = 3
STORED: Final = "hotreload-http"
"""Under which name our own sockets are in the manager's store."""


@dataclass(frozen=True, slots=True)
class Handed:
    """A listening socket that the service manager holds as well; `name` is its unit's or the one it was stored by.

    `listener` is a copy to serve on. The descriptor itself stays open, so that a process that executes itself again
    finds it where the variables say.
    """

    name: str
    descriptor: int
    listener: socket.socket

    @property
    def stored(self) -> bool:
        """True for one that an earlier process of ours bound."""
        return self.name == STORED

    def drop(self) -> None:
        """Listen on it no more."""
        self.listener.close()
        os.close(self.descriptor)


def handed_over(environ: Mapping[str, str] = os.environ) -> list[Handed]:
    """Return the listening TCP sockets handed over to this process, non-blocking; empty where there are none.

    Call it once. Whatever else was handed over is left alone.
    """
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal():
        return []
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    found = [_open(FIRST + number, names[number] if number < len(names) else "") for number in range(int(count))]
    return [handed for handed in found if handed is not None]


def _open(descriptor: int, name: str) -> Handed | None:
    try:
        listener = socket.socket(fileno=os.dup(descriptor))
    except OSError:
        return None
    listens = listener.type == socket.SOCK_STREAM and listener.family in (socket.AF_INET, socket.AF_INET6)
    if not listens or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        listener.close()
        return None
    listener.setblocking(False)
    return Handed(name, descriptor, listener)
