"""Where a host listens: the control socket always, TCP where it was asked for or handed over."""

from __future__ import annotations

import logging
import socket

import anyio
from anyio.abc import TaskGroup

from hotreload.admin.app import create_app
from hotreload.admin.control import Control
from hotreload.admin.control_socket import ControlSocket, bind_control_socket, bind_tcp
from hotreload.admin.place import default_socket_path, parse_address
from hotreload.admin.serving import Server
from hotreload.host.start import RunOptions
from hotreload.systemd.listen import STORED, Handed, handed_over
from hotreload.systemd.notifier import Notifier

log = logging.getLogger(__name__)
CUT_S = 0.5
"""How long requests that still run may take at the end."""
LINGER_S = 0.3
"""How long clients are told to come back on a new connection, where the next process will take it."""


class Edges:
    """The listening sockets of one process, serving the admin application.

    `foreign` says that the process serves its outside itself: sockets handed over are that server's then.
    """

    def __init__(
        self, control: Control, name: str, options: RunOptions, notifier: Notifier, *, foreign: bool = False
    ) -> None:
        self._app = create_app(control)
        self._path = options.socket or default_socket_path(name)
        self._http = options.http
        self._notifier = notifier
        self._handed = [] if foreign else handed_over()
        self._control: ControlSocket | None = None
        self._servers: list[tuple[Server, float]] = []
        self.listeners: list[socket.socket] = []
        """The TCP sockets served, from `open` on."""

    @property
    def linger_s(self) -> float:
        """What the sockets need at the end of a drain, in seconds."""
        return max((linger_s for _, linger_s in self._servers), default=0.0)

    async def open(self, tasks: TaskGroup) -> None:
        """Bind and serve; ControlSocketUnsafe or OSError, with the address, where one cannot be had."""
        self._control = bind_control_socket(self._path)
        await self._serve(tasks, Server(self._app, [self._control.listener], control=True))
        log.info("listening on %s", self._path)
        self.listeners = self._tcp_listeners()
        for listener in self.listeners:
            await self._serve(tasks, Server(self._app, [listener]), LINGER_S if self._notifier.enabled else 0.0)
            log.info("listening on http://%s", _shown(listener))

    def _tcp_listeners(self) -> list[socket.socket]:
        """Take what a `.socket` unit binds, else what an earlier process left in the store, else bind."""
        units = [handed.listener for handed in self._handed if not handed.stored]
        if units and self._http is not None:
            log.warning("--http %s is passed over: the service manager hands over its own sockets", self._http)
        kept = [handed for handed in self._handed if handed.stored]
        if units or self._http is None:
            self._forget(kept)
            return units
        wanted = parse_address(self._http)
        fitting = [handed.listener for handed in kept if _is_at(handed.listener, *wanted)]
        if fitting:
            return fitting[:1]
        self._forget(kept)
        listener = bind_tcp(*wanted)
        self._notifier.store(listener.fileno(), STORED)
        return [listener]

    def _forget(self, kept: list[Handed]) -> None:
        for handed in kept:
            handed.drop()
        if kept:
            self._notifier.forget(STORED)

    async def _serve(self, tasks: TaskGroup, server: Server, linger_s: float = 0.0) -> None:
        self._servers.append((server, linger_s))
        tasks.start_soon(server.serve, name="admin")
        await server.listening.wait()

    async def close(self) -> None:
        """Let clients and running requests end, at most half a second, then cut them; the control socket goes last."""
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as stopping:
                for server, linger_s in self._servers:
                    stopping.start_soon(_stop, server, linger_s)
        if self._control is not None:
            self._control.close()


async def _stop(server: Server, linger_s: float) -> None:
    if linger_s:
        await server.linger(linger_s)
    await server.stop(CUT_S)


def _is_at(listener: socket.socket, host: str, port: int) -> bool:
    """Tell whether a socket listens on what `HOST:PORT` stands for."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    except OSError:
        return False
    return listener.family == family and listener.getsockname()[:2] == address[:2]


def _shown(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
