"""Server-sent events: what happens in a running process, as a stream (HTML Living Standard, 9.2).

`sse-starlette` is not used: on import it takes over uvicorn's exit handler, and it ends every stream at the
first SIGTERM, when the drain that a reader wants to follow has only begun.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

STREAMS: Final = 16
"""Readers at once."""
HEARTBEAT_S: Final = 15.0
SEND_S: Final = 15.0
"""How long one event may take to be sent, where the server does not cut slow readers itself."""

Subscribe = Callable[[], AbstractAsyncContextManager[MemoryObjectReceiveStream[dict[str, Any]]]]


class EventStreams:
    """Opens event streams, a bounded number at once."""

    def __init__(self, subscribe: Subscribe, first: Callable[[], dict[str, Any]], limit: int = STREAMS) -> None:
        self.subscribe = subscribe
        self.first = first
        self.limit = limit
        self.open = 0

    def response(self) -> Response:
        """Return a response that streams; 503 where too many do already."""
        if self.open >= self.limit:
            raise HTTPException(503, f"{self.limit} event streams are open already", headers={"Retry-After": "5"})
        return _EventStream(self)


class _EventStream(Response):
    """One stream: a `status` event at once, then what the process publishes, until it closes or the reader leaves."""

    media_type = "text/event-stream"

    def __init__(self, streams: EventStreams) -> None:
        super().__init__(headers={"Cache-Control": "no-store"})
        del self.headers["content-length"]
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await self._start(send)
            await send({"type": "http.response.body", "body": b""})
            return
        self._streams.open += 1
        try:
            async with self._streams.subscribe() as events, anyio.create_task_group() as tasks:
                await self._start(send)  # subscribed by now: who sees the headers misses nothing after
                tasks.start_soon(_until_reader_leaves, receive, tasks.cancel_scope)
                await self._stream(events, send)
                tasks.cancel_scope.cancel()
        finally:
            self._streams.open -= 1

    async def _start(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})

    async def _stream(self, events: MemoryObjectReceiveStream[dict[str, Any]], send: Send) -> None:
        chunk: bytes | None = encode({"event": "status", "data": self._streams.first()})
        while chunk is not None:
            with anyio.move_on_after(SEND_S) as sending:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            if sending.cancelled_caught:
                return
            chunk = await _next_chunk(events)
        await send({"type": "http.response.body", "body": b""})


async def _next_chunk(events: MemoryObjectReceiveStream[dict[str, Any]]) -> bytes | None:
    """Return the next event, a comment where there is none for a while, None at the end."""
    try:
        with anyio.move_on_after(HEARTBEAT_S):
            return encode(await events.receive())
    except (anyio.EndOfStream, anyio.ClosedResourceError):
        return None
    return b": still here\n\n"


async def _until_reader_leaves(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def encode(event: dict[str, Any]) -> bytes:
    """Return `{"event": …, "data": {…}}` as one server-sent event."""
    return f"event: {event['event']}\ndata: {json.dumps(event['data'])}\n\n".encode()
