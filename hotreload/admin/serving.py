"""Serve an ASGI application on sockets that are ours, inside the caller's task group.

uvicorn speaks HTTP; its signal handlers, its ticking main loop, its logging set-up and its trust in forwarded
headers stay out. What it lacks is added: a head that never ends, an answer that is never read and a peer that
is not ours are cut off.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from typing import Any, Final, cast

import anyio
import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from hotreload.admin.control_socket import peer_of
from hotreload.admin.guard import PEER

HEAD_S: Final = 10.0
"""How long a request's line and headers may take."""
STALL_S: Final = 10.0
"""How long a client may leave an answer unread while more is waiting."""
CONNECTIONS: Final = 256
"""Connections at once; more are answered 503."""


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with a limit on slow clients, and without an access log."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.access_log = False
        self._head: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall = self.loop.call_later(STALL_S, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._head, self._stall):
            if timer is not None:
                timer.cancel()
        if not self.connections:
            cast("_Connections", self.server_state).none_left.set()

    def _watch_head(self) -> None:
        """Between requests uvicorn's keep-alive timer watches; from the first byte of a head on, this one does."""
        if self.conn.their_state is not h11.IDLE:
            if self._head is not None:
                self._head.cancel()
            self._head = None
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_S, self.transport.abort)


class ControlProtocol(BoundedProtocol):
    """The same for the control socket: who the peer is decides, before a byte of HTTP is read."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        try:
            descriptor = os.dup(transport.get_extra_info("socket").fileno())
            with socket.socket(fileno=descriptor) as connection:
                peer = peer_of(connection)
        except OSError:
            peer = None
        if peer is None or peer.uid not in (0, os.geteuid()):
            self.transport = transport
            transport.abort()
            return
        self.app_state = {**self.app_state, PEER: peer}
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            super().data_received(data)


class _Connections(ServerState):
    """uvicorn's shared state, and word when the last connection is gone."""

    def __init__(self) -> None:
        super().__init__()
        self.none_left = asyncio.Event()


class Server:
    """Serves `app` on listening sockets from `serve` to `stop`; `listening` is set in between.

    `control` says that the sockets are control sockets: peers are checked and named, see `guard.PEER`. The
    sockets are closed at the end.
    """

    def __init__(self, app: ASGIApp, sockets: Sequence[socket.socket], *, control: bool = False) -> None:
        protocol = ControlProtocol if control else BoundedProtocol
        config = uvicorn.Config(
            app,
            http=protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            limit_concurrency=CONNECTIONS,
        )
        self._server = uvicorn.Server(config)
        self._state = _Connections()
        self._server.server_state = self._state
        self._sockets = list(sockets)
        self._ended = anyio.Event()
        self.listening = anyio.Event()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._state.connections)

    async def serve(self) -> None:
        """Serve until `stop` has done its work; cancelled, cut all connections."""
        config = self._server.config
        try:
            config.load()
            self._server.lifespan = config.lifespan_class(config)
            await self._server.startup(sockets=self._sockets)
            self.listening.set()
            await self._ended.wait()
        finally:
            self._cut()

    async def linger(self, seconds: float) -> None:
        """Accept nothing more, and answer `Connection: close` for a while, so that no request meets a closed end.

        For sockets that somebody else holds as well: who connects now is served by the next process.
        """
        self._close_listeners()
        self._state.default_headers.append((b"connection", b"close"))
        await anyio.sleep(seconds)

    async def stop(self, within_s: float = 1.0) -> None:
        """Accept nothing more, let running requests end within `within_s`, cut the rest. A second call does nothing."""
        if self._ended.is_set():
            return
        self._close_listeners()
        self._state.none_left.clear()
        for connection in self._open_connections():
            connection.shutdown()
        with anyio.move_on_after(within_s):
            if self._state.connections:
                await self._state.none_left.wait()
            if self._state.tasks:  # a handler outlives its connection for a moment
                await asyncio.wait(list(self._state.tasks))
        self._cut()
        self._ended.set()

    def _cut(self) -> None:
        self._close_listeners()
        for connection in self._open_connections():
            connection.transport.abort()
        for task in list(self._state.tasks):
            task.cancel()

    def _open_connections(self) -> list[BoundedProtocol]:
        return [connection for connection in self._state.connections if isinstance(connection, BoundedProtocol)]

    def _close_listeners(self) -> None:
        for server in getattr(self._server, "servers", ()):
            server.close()
        for listener in self._sockets:
            listener.close()
