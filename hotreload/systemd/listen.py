"""Sockets that outlive a restart: handed over by a `.socket` unit, or kept in the service manager's store.

A listening socket that another process holds as well keeps its queue while no process serves it: clients that connect
during a restart wait, instead of being refused. With a `.socket` unit the manager binds; without one the first
process binds and leaves a copy in the manager's store (`FileDescriptorStoreMax=`), from where the next one gets it.
See sd_listen_fds(3) and sd_pid_notify_with_fds(3).
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hotreload.systemd.notifier import Notifier

log = logging.getLogger(__name__)
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


def handed_over(environ: Mapping[str, str] = os.environ, first: int = FIRST) -> list[Handed]:
    """Return the listening TCP sockets handed over to this process, non-blocking; empty where there are none.

    They are the descriptors from `first` on. Call it once. Whatever else was handed over is left alone.
    """
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(os.getpid()) or not count.isdecimal():
        return []
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    found = [_open(first + number, names[number] if number < len(names) else "") for number in range(int(count))]
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


def listeners(
    handed: Sequence[Handed],
    wanted: tuple[str, int] | None,
    bind: Callable[[str, int], socket.socket],
    notifier: Notifier,
) -> list[socket.socket]:
    """Return the TCP sockets to serve: those of a `.socket` unit, else one from the manager's store, else a new one.

    `wanted` is the host and port asked for, None for none. What was kept in the store and is not served is dropped.
    """
    units = [each.listener for each in handed if not each.stored]
    if units and wanted is not None:
        log.warning("--http %s:%d is passed over: the service manager hands over its own sockets", *wanted)
    kept = [each for each in handed if each.stored]
    fitting = [] if units or wanted is None else [each.listener for each in kept if _is_at(each.listener, *wanted)]
    if fitting:
        return fitting[:1]
    for each in kept:
        each.drop()
    if kept:
        notifier.forget(STORED)
    if units or wanted is None:
        return units
    listener = bind(*wanted)
    notifier.store(listener.fileno(), STORED)
    return [listener]


def _is_at(listener: socket.socket, host: str, port: int) -> bool:
    """Tell whether a socket listens on what `HOST:PORT` stands for."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError:
        return False
    return listener.family == family and listener.getsockname()[:2] == address[:2]
