"""What happens in a process, told to subscribers; bounded, and a reader too slow is let go."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

BUFFER = 256
Event = dict[str, Any]


class Feed:
    """Publishes `{"event": …, "data": …}` to every subscriber."""

    def __init__(self) -> None:
        self._subscribers: set[MemoryObjectSendStream[Event]] = set()
        self._closed = False

    @property
    def wanted(self) -> bool:
        """True while there are listeners."""
        return bool(self._subscribers)

    @asynccontextmanager
    async def subscribe(self) -> AsyncGenerator[MemoryObjectReceiveStream[Event]]:
        """Open a stream of what is published from now on; it ends with the process, or when 256 events wait unread."""
        send, receive = anyio.create_memory_object_stream[Event](BUFFER)
        if self._closed:
            send.close()
        else:
            self._subscribers.add(send)
        try:
            yield receive
        finally:
            self._subscribers.discard(send)
            send.close()
            receive.close()

    def publish(self, event: str, data: Any) -> None:
        """Tell every subscriber; never waits."""
        for send in list(self._subscribers):
            try:
                send.send_nowait({"event": event, "data": data})
            except (anyio.WouldBlock, anyio.BrokenResourceError, anyio.ClosedResourceError):
                self._subscribers.discard(send)
                send.close()

    def close(self) -> None:
        """End every stream, after what it has not read yet."""
        self._closed = True
        for send in self._subscribers:
            send.close()
        self._subscribers.clear()
