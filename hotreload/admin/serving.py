"""Serve an ASGI application on sockets that are ours, inside the caller's task group.

uvicorn speaks HTTP; its signal handlers, its ticking main loop, its accept loop, its logging set-up and its trust in
forwarded headers stay out. What it lacks is added: a head that never ends, an answer that is never read and a peer
that is not ours are cut off, and a client that closes its half once it has asked gets its answer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from hotreload.admin.acceptor import Acceptor, hand_over, share_of_descriptors
from hotreload.admin.control_socket import peer_of
from hotreload.admin.guard import PEER

CLOSE = (b"connection", b"close")
quiet = logging.getLogger("hotreload.admin.http")
quiet.setLevel(logging.ERROR)
"""What uvicorn says of a request: its errors are ours, its warnings are each client's own."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may cost.

    `head_s` is how long a request's line and headers may take, `stall_s` how long an answer may be left unread while
    more is waiting. `connections` at once; None takes a share of the descriptors this process may open, 256 at most.
    """

    head_s: float = 10.0
    stall_s: float = 10.0
    connections: int | None = None


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with a limit on slow clients, and without an access log."""

    def __init__(self, limits: Limits, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.access_log = False
        self.logger = quiet
        self._limits = limits
        self._head: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._half_closed = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def eof_received(self) -> bool:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Keep a connection open whose client has asked and waits; a stream ends with its reader."""
        cycle = self.cycle
        self._half_closed = bool(cycle) and not (cycle.more_body or cycle.response_started)
        return self._half_closed

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._half_closed and self.cycle.response_complete:
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stall = self.loop.call_later(self._limits.stall_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stall is not None:
            self._stall.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._head, self._stall):
            if timer is not None:
                timer.cancel()

    def _watch_head(self) -> None:
        """Between requests uvicorn's keep-alive timer watches; from the first byte of a head on, this one does."""
        if self.conn.their_state is not h11.IDLE:
            if self._head is not None:
                self._head.cancel()
            self._head = None
        elif self._head is None:
            self._head = self.loop.call_later(self._limits.head_s, self.transport.abort)


class ControlProtocol(BoundedProtocol):
    """The same for the control socket: who the peer is decides, before a byte of HTTP is read."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        try:
            peer = peer_of(transport.get_extra_info("socket"))
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


class Server:
    """Serves `app` on listening sockets from `serve` to `stop`; `listening` is set in between.

    `control` says that the sockets are control sockets: peers are checked and named, see `guard.PEER`. The
    sockets are closed at the end.
    """

    def __init__(
        self, app: ASGIApp, sockets: Sequence[socket.socket], *, control: bool = False, limits: Limits | None = None
    ) -> None:
        self._config = uvicorn.Config(
            app,
            http=ControlProtocol if control else BoundedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            proxy_headers=False,
            server_header=False,
            date_header=False,
        )
        self._control = control
        self._limits = limits or Limits()
        self._state = ServerState()
        self._retired = False
        self._sockets = list(sockets)
        self._acceptors: list[Acceptor] = []
        self._ended = anyio.Event()
        self.listening = anyio.Event()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return sum(len(acceptor.connections) for acceptor in self._acceptors)

    async def serve(self) -> None:
        """Serve until `stop` has done its work; cancelled, cut all connections."""
        try:
            self._config.load()
            self._acceptors = [self._accept_on(listener) for listener in self._sockets]
            self.listening.set()
            await self._ended.wait()
        finally:
            self._cut()

    def replace(self, removed: socket.socket, listener: socket.socket) -> None:
        """Accept on `listener` instead of a socket that was removed, while this server serves."""
        place = self._sockets.index(removed)
        self._acceptors[place].close()
        self._sockets.append(listener)
        self._acceptors.append(self._accept_on(listener))

    def _accept_on(self, listener: socket.socket) -> Acceptor:
        most = self._limits.connections or (
            share_of_descriptors(6, least=8, most=64) if self._control else share_of_descriptors(3, least=4, most=256)
        )
        spares = 2 if self._control else 0
        return Acceptor(listener, self._protocol, most=most, full=self._end_connections, spares=spares)

    def _protocol(self) -> asyncio.Protocol:
        made: Any = self._config.http_protocol_class
        return made(limits=self._limits, config=self._config, server_state=self._state, app_state={})

    def retire(self) -> None:
        """Let each answer from now on end its connection, so that clients come back on a new one."""
        self._retired = True
        self._end_connections(True)

    def _end_connections(self, wanted: bool) -> None:
        headers = self._state.default_headers
        if wanted and CLOSE not in headers:
            headers.append(CLOSE)
        elif not wanted and not self._retired and CLOSE in headers:
            headers.remove(CLOSE)

    async def hand_over(self, until: float) -> None:
        """Leave the sockets, which another process holds as well, to the next one: see `acceptor.hand_over`."""
        self.retire()
        await hand_over(self._acceptors, until)

    async def stop(self, within_s: float = 1.0) -> None:
        """Accept nothing more, let running requests end within `within_s`, cut the rest. A second call does nothing."""
        if self._ended.is_set():
            return
        self.retire()
        for acceptor in self._acceptors:
            acceptor.close()
            acceptor.close_idle()
        with anyio.move_on_after(within_s):
            for acceptor in self._acceptors:
                await acceptor.wait_closed()
            if self._state.tasks:  # a handler outlives its connection for a moment
                await asyncio.wait(list(self._state.tasks))
        self._cut()
        self._ended.set()

    def _cut(self) -> None:
        for acceptor in self._acceptors:
            acceptor.close()
            acceptor.abort()
        for task in list(self._state.tasks):
            task.cancel()
