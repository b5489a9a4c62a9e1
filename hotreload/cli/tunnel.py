"""A tunnel on loopback to a service's control socket, for a browser."""

from __future__ import annotations

import hmac
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Callable
from typing import Final

import anyio
import httpx
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from hotreload.admin.serving import Server
from hotreload.cli.client import CALL_S, SILENCE_S
from hotreload.client.find import Endpoint
from hotreload.client.trusted import AsyncTrustedTransport
from hotreload.errors import ServiceUnreachable

_PASSED_ON: Final = ("content-type", "accept", "if-match", "prefer", "x-request-id", "last-event-id")
_PASSED_BACK: Final = frozenset({"connection", "transfer-encoding", "keep-alive"})
"""Headers of an answer that belong to one connection (RFC 9110, 7.6.1) and are not passed back."""


async def serve(endpoint: Endpoint, listener: socket.socket, tell: Callable[[str], None]) -> None:
    """Serve a tunnel until SIGINT or SIGTERM; its address is told once it listens."""
    secret = secrets.token_urlsafe(24)
    async with _client(endpoint) as http, anyio.create_task_group() as tasks:
        server = Server(Tunnel(secret, http), [listener])
        tasks.start_soon(server.serve)
        await server.listening.wait()
        tell(f"http://127.0.0.1:{listener.getsockname()[1]}/{secret}/admin/")
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            await anext(aiter(signals))
        await server.stop(0.1)
        tasks.cancel_scope.cancel()


def _client(endpoint: Endpoint) -> httpx.AsyncClient:
    assert endpoint.socket is not None
    transport = AsyncTrustedTransport(endpoint.shown, endpoint.socket, endpoint.trusted)
    timeout = httpx.Timeout(CALL_S, read=SILENCE_S)
    return httpx.AsyncClient(base_url=endpoint.url, transport=transport, timeout=timeout, trust_env=False)


class Tunnel:
    """An ASGI application that passes requests below `/SECRET` on to a service; everything else is not found.

    The secret stands in the path, not in a cookie: cookies of a loopback address are sent to every port of it.
    Only loopback names are served (DNS rebinding), and an `Origin` must be the tunnel's own.
    """

    def __init__(self, secret: str, http: httpx.AsyncClient) -> None:
        self._secret = secret.encode()
        self._http = http

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        _, secret, *rest = request.url.path.split("/", 2)
        answer: ASGIApp
        if not _is_own(request) or not hmac.compare_digest(secret.encode(), self._secret):
            answer = PlainTextResponse("not found", 404)
        else:
            answer = await self._pass_on(request, f"/{rest[0] if rest else ''}")
        await answer(scope, receive, send)

    async def _pass_on(self, request: Request, path: str) -> Response:
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        asked = self._http.build_request(
            request.method, path, params=request.query_params, headers=headers, content=await request.body()
        )
        try:
            answer = await self._http.send(asked, stream=True)
        except (httpx.HTTPError, ServiceUnreachable):
            return PlainTextResponse("the service does not answer", 502)
        kept = {name: value for name, value in answer.headers.items() if name not in _PASSED_BACK}
        return StreamingResponse(_body(answer), answer.status_code, headers=kept)


async def _body(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    except httpx.HTTPError:
        return  # the service is gone; the reader sees the end
    finally:
        await answer.aclose()


def _is_own(request: Request) -> bool:
    host, origin = request.headers.get("host", ""), request.headers.get("origin")
    return host.rpartition(":")[0] in ("127.0.0.1", "localhost") and origin in (None, f"http://{host}")
