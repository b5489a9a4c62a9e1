"""Where a host listens: the control socket always, TCP where it was asked for or handed over."""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence

import anyio
from anyio.abc import TaskGroup

from hotreload.admin.app import create_app
from hotreload.admin.control import Control
from hotreload.admin.control_socket import ControlSocket, bind_control_socket, bind_tcp
from hotreload.admin.place import default_socket_path, parse_address
from hotreload.admin.serving import Server
from hotreload.errors import ControlSocketUnsafe
from hotreload.host.start import RunOptions
from hotreload.systemd.listen import Handed, listeners
from hotreload.systemd.notifier import Notifier

log = logging.getLogger(__name__)
CUT_S = 0.5
"""How long requests that still run may take at the end, where the next process does not take the socket over."""
LOOK_S = 1.0
"""How often it is looked whether the control socket was removed."""


class Edges:
    """The listening sockets of one process, `handed` over or bound, serving the admin application."""

    def __init__(
        self, control: Control, name: str, options: RunOptions, notifier: Notifier, handed: Sequence[Handed] = ()
    ) -> None:
        self._app = create_app(control)
        self._path = options.socket or default_socket_path(name)
        self._http = options.http
        self._notifier = notifier
        self._handed = handed
        self._control: ControlSocket | None = None
        self._admin: Server | None = None
        self._tending: anyio.CancelScope | None = None
        self._served: list[Server] = []
        self.listeners: list[socket.socket] = []
        """The TCP sockets served, from `open` on."""

    async def open(self, tasks: TaskGroup) -> None:
        """Bind and serve; ControlSocketUnsafe or OSError, with the address, where one cannot be had."""
        self._control = bind_control_socket(self._path)
        self._admin = await self._serve(tasks, Server(self._app, [self._control.listener], control=True))
        log.info("listening on %s", self._path)
        tasks.start_soon(self._tend, self._admin, name="control socket")
        wanted = None if self._http is None else parse_address(self._http)
        self.listeners = listeners(self._handed, wanted, bind_tcp, self._notifier)
        for listener in self.listeners:
            self._served.append(await self._serve(tasks, Server(self._app, [listener])))
            log.info("listening on http://%s", _shown(listener))

    async def _serve(self, tasks: TaskGroup, server: Server) -> Server:
        tasks.start_soon(server.serve, name="admin")
        await server.listening.wait()
        return server

    async def _tend(self, server: Server) -> None:
        """Until `close`: make the control socket again where it was removed; why it cannot be is logged once."""
        told = ""
        with anyio.CancelScope() as self._tending:
            while True:
                await anyio.sleep(LOOK_S)
                try:
                    self._renew(server)
                    told = ""
                except (ControlSocketUnsafe, OSError) as error:
                    if told != str(error):
                        log.error("control_socket.not_made_again %s: %s", self._path, error)
                    told = str(error)

    def _renew(self, server: Server) -> None:
        assert self._control is not None
        renewed = self._control.renewed()
        if renewed is None:
            return
        server.replace(self._control.listener, renewed.listener)
        self._control, removed = renewed, self._control
        removed.close()
        log.warning("control_socket.made_again %s had been removed", self._path)

    def retire(self) -> None:
        """The process drains: let each answer end its connection, so that clients have moved on when it ends."""
        for server in self._served:
            server.retire()

    async def close(self, until: float) -> None:
        """End the connections, those of TCP first; the control socket goes last. `until` is on the monotonic clock.

        Where the service manager holds a listening socket as well, every connection is served until its answer is
        out, or `until`; elsewhere running requests have half a second. What is left then is cut.
        """
        with anyio.CancelScope(shield=True):
            async with anyio.create_task_group() as stopping:
                for server in self._served:
                    stopping.start_soon(self._stop, server, until)
            if self._tending is not None:
                self._tending.cancel()
            if self._admin is not None:
                await self._admin.stop(CUT_S)
        if self._control is not None:
            self._control.close()

    async def _stop(self, server: Server, until: float) -> None:
        if self._notifier.enabled:
            await server.hand_over(until)
            await server.stop(0)
        else:
            await server.stop(CUT_S)


def _shown(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
