"""Accept connections on a listening socket: never more than a bound, never spinning where none can be had.

asyncio's own loop tries `backlog` times a turn and logs each failure, thousands of tracebacks a second where
descriptors run out. Here a failure or the bound stops accepting until a connection ends. While clients wait, those
that never asked for anything make room first (nginx does the same with its reusable connections), so a probe gets
through a crowd of silent ones. A listening socket that another process holds as well keeps who is not accepted.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import socket
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import anyio

log = logging.getLogger(__name__)
BATCH: Final = 16
"""Connections accepted or closed in one turn of the loop."""
IDLE_S: Final = 0.25
"""How long a connection that was answered may be idle before it makes room for one that waits."""
SILENT_S: Final = 0.05
"""The same for one that never asked for anything, and how often both are looked at."""
REPEAT_S: Final = 60.0
"""How often the log is told of one listener that is full."""
_OUT_OF_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE)


class Connection(socket.socket):
    """An accepted connection that tells its acceptor when it is closed, whichever protocol serves it by then."""

    closed: Callable[[Connection], None] | None = None

    def close(self) -> None:
        """Close it; a second call does nothing."""
        super().close()
        closed, self.closed = self.closed, None
        if closed is not None:
            closed(self)

    def has_unread(self) -> bool:
        """Tell whether the client has sent something that was not read yet."""
        try:
            return bool(self.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except OSError:
            return False


@dataclass(slots=True)
class _Served:
    """What is known of an open connection: since when it was seen idle, after which request (None: it never asked).

    `transport` is None until its protocol has it.
    """

    since: float
    transport: asyncio.Transport | None = None
    last: object = None


class Acceptor:
    """Accepts on one listening, non-blocking socket from the constructor to `close`, `most` connections at once.

    `spares` descriptors are kept for the moment when the process has no other left. `full` is told True when clients
    wait for a place and False when none does any more: answers should end their connections meanwhile. Takes the place
    of an `asyncio.Server` where uvicorn expects one.
    """

    def __init__(
        self,
        listener: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        *,
        most: int,
        full: Callable[[bool], object],
        spares: int = 0,
    ) -> None:
        self._listener = listener
        self._protocol = protocol
        self._most = most
        self._full = full
        self._spares: list[int] = []
        self._spares_wanted = spares
        self._loop = asyncio.get_running_loop()
        self._open: dict[Connection, _Served] = {}
        self._tasks = set[asyncio.Task[None]]()
        self._retry: asyncio.TimerHandle | None = None
        self._accepting = False
        self._ended = asyncio.Event()
        self._told = -REPEAT_S
        self._refill()
        self._resume()

    @property
    def connections(self) -> Collection[Connection]:
        """The connections that are open now."""
        return list(self._open)

    async def gone(self, connections: Collection[Connection]) -> None:
        """Return when these have ended."""
        while any(connection in self._open for connection in connections):
            self._ended.clear()
            await self._ended.wait()

    async def wait_closed(self) -> None:
        """Return when no connection is open."""
        while self._open:
            await self.gone(self.connections)

    def close(self) -> None:
        """Accept nothing more and close the listening socket; connections stay. A second call does nothing."""
        self._pause()
        self._listener.close()
        self._spares_wanted = 0
        self._refill()

    def close_idle(self) -> None:
        """Close the connections that wait for no answer."""
        for connection, served in list(self._open.items()):
            if served.transport is not None and _is_idle(connection, served.transport):
                served.transport.close()

    def abort(self) -> None:
        """Cut all connections, and those that are being made."""
        for task in self._tasks:
            task.cancel()
        for served in self._open.values():
            if served.transport is not None:
                served.transport.abort()

    # --- accepting ----------------------------------------------------------------------------------------------

    def _resume(self) -> None:
        if not self._accepting and self._listener.fileno() >= 0:
            self._accepting = True
            self._loop.add_reader(self._listener.fileno(), self._readable)

    def _pause(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        if self._accepting:
            self._accepting = False
            self._loop.remove_reader(self._listener.fileno())

    def _readable(self) -> None:
        for _ in range(BATCH):
            if len(self._open) >= self._most:
                self._make_room(f"{self._most} connections are open")
                return
            try:
                accepted, _ = self._accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                self._full(False)
                return
            except OSError as error:
                self._make_room(f"accept: {error.strerror}")
                return
            self._take(accepted)

    def _accept(self) -> tuple[socket.socket, Any]:
        try:
            return self._listener.accept()
        except OSError as error:
            if error.errno not in _OUT_OF_DESCRIPTORS or not self._spares:
                raise
            os.close(self._spares.pop())
            return self._listener.accept()

    def _take(self, accepted: socket.socket) -> None:
        connection = Connection(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        connection.setblocking(False)
        connection.closed = self._closed
        self._open[connection] = _Served(time.monotonic())
        task = self._loop.create_task(self._connect(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, connection: Connection) -> None:
        try:
            transport, _ = await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:  # reset meanwhile
            connection.close()
            return
        except BaseException:
            connection.close()
            raise
        if (served := self._open.get(connection)) is not None:
            served.transport = transport

    def _closed(self, connection: Connection) -> None:
        del self._open[connection]
        self._ended.set()
        self._refill()
        self._resume()

    # --- where no more can be had ---------------------------------------------------------------------------------

    def _make_room(self, why: str) -> None:
        """Stop accepting until a connection ends, as a client waits: answers end theirs, the longest idle are closed.

        Those that never asked go before those that were answered and may ask again.
        """
        self._full(True)
        if time.monotonic() - self._told >= REPEAT_S:
            self._told = time.monotonic()
            log.warning("connections.full %s: no more are accepted until one ends (%s)", _name(self._listener), why)
        self._pause()
        self._retry = self._loop.call_later(SILENT_S, self._resume)
        for _, _, transport in sorted(self._idle(), key=lambda each: each[:2])[:BATCH]:
            transport.close()

    def _idle(self) -> Iterator[tuple[bool, float, asyncio.Transport]]:
        """Return the connections that were seen idle for a while: whether they ever asked, since when."""
        now = time.monotonic()
        for connection, served in self._open.items():
            if served.transport is None or not _is_idle(connection, served.transport):
                continue
            last: object = cast("Any", served.transport.get_protocol()).cycle
            if last is not served.last:
                served.last, served.since = last, now
            if now - served.since >= (SILENT_S if last is None else IDLE_S):
                yield last is not None, served.since, served.transport

    def _refill(self) -> None:
        """Keep as many spare descriptors as are wanted, as far as there are any."""
        while len(self._spares) > self._spares_wanted:
            os.close(self._spares.pop())
        while len(self._spares) < self._spares_wanted:
            try:
                self._spares.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            except OSError:
                return


async def hand_over(acceptors: Sequence[Acceptor], until: float) -> None:
    """Leave listening sockets to the next process such that no client finds a closed end; at most until `until`.

    Every answer must say `Connection: close` by now. Connections of before are served on until each had such an
    answer, was closed by its own time limits or ended; new ones are accepted meanwhile. Then no more are, and those
    that were are served. `until` is on the monotonic clock.
    """
    with anyio.move_on_after((until - time.monotonic()) / 2):
        for acceptor in acceptors:
            await acceptor.gone(acceptor.connections)
    for acceptor in acceptors:
        acceptor.close()
    with anyio.move_on_after(until - time.monotonic()):
        for acceptor in acceptors:
            await acceptor.wait_closed()


def share_of_descriptors(divisor: int, *, least: int, most: int) -> int:
    """Return how many connections one listener may have: a part of the descriptors this process may still open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return most
    free = soft - len(os.listdir("/proc/self/fd"))
    return max(least, min(most, free // divisor))


def _is_idle(connection: Connection, transport: asyncio.Transport) -> bool:
    """Tell whether a connection waits for no answer.

    The protocols of uvicorn keep their request in `cycle`; of another, as a WebSocket's, nothing is known.
    """
    protocol: Any = transport.get_protocol()
    if transport.is_closing() or not hasattr(protocol, "cycle") or connection.has_unread():
        return False
    return protocol.cycle is None or protocol.cycle.response_complete


def _name(listener: socket.socket) -> str:
    address: Any = listener.getsockname()
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else os.path.basename(address)
