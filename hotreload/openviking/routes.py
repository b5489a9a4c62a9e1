"""The admin routes and page on OpenViking's own port, under its root authentication and in its response envelope.

A session of the page, opened with OpenViking's root key, stands for that key from here on.

FastAPI reads the annotations of the handlers at run time: no postponed ones in this module.
"""

import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from openviking.server import auth
from openviking.server.identity import RequestContext
from openviking.server.models import ErrorInfo, Response
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import Response as HTTPResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hotreload.admin.app import Admin, Answer, Handler, Probe
from hotreload.admin.control import Control
from hotreload.admin.exchange import RETRY_AFTER_S, answer_error, refusal_of
from hotreload.admin.guard import Caller, Policy, Refusal, judge
from hotreload.admin.page import Page
from hotreload.admin.session import WrongKeys, presented_sessions
from hotreload.errors import QueueError
from hotreload.openviking.waits import RequestWaits

Root = Annotated[RequestContext, Depends(auth.get_request_context)]
_for_root = cast(Any, auth.require_auth_root)  # pyright: ignore[reportUnknownMemberType]
SHORT = "/admin"
PREFIXES = (SHORT, "/api/v1/admin/hotreload")
"""Below each of these stand the page and the paths of our own services."""
READY = "/ready"
CANONICAL = "/api/v1/admin/config"
CODES = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "CONFLICT",
    412: "FAILED_PRECONDITION",
}
"""OpenViking's names of our statuses."""


def canonical(path: str) -> str:
    """Return where a route of our own services stands here: OpenViking takes root keys below `/api/v1/admin` only."""
    return CANONICAL + path.removeprefix(SHORT).removeprefix("/config")


class OwnPaths:
    """Take the paths of our own services to their canonical ones, before anything looks at them; serve the page.

    OpenViking's own readiness is refused from the first moment of a drain on, as `ready` says then, and every 503 says
    when to come back.
    """

    def __init__(
        self, app: ASGIApp, ready: Callable[[], bool], policy: Callable[[], Policy], waits: RequestWaits
    ) -> None:
        self.app = app
        self._ready = ready
        self._waits = waits
        self._policy = policy
        page = Page(policy, WrongKeys())
        routes = [route for prefix in PREFIXES for route in page.routes(prefix)]
        self._page = Starlette(routes=routes, exception_handlers={HTTPException: answer_error})
        self._page_paths = {route.path for route in routes}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        app = self.app
        if scope["type"] == "http" and scope["path"] == READY and not self._ready():
            app = JSONResponse({"status": "not_ready", "reason": "draining"}, 503, {"Retry-After": RETRY_AFTER_S})
        elif scope["type"] == "http" and scope["path"] in self._page_paths:
            app = self._page
        elif scope["type"] == "http" and (path := _without_prefix(scope["path"])) is not None:
            scope = {**scope, "path": canonical(path), "raw_path": canonical(path).encode()}
            app = self._signed_in(scope) or self.app
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        with self._waits.request():
            await app(scope, receive, self._told_when(send))

    def _told_when(self, send: Send) -> Send:
        async def told(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 503 and not self._ready():
                MutableHeaders(scope=message).setdefault("Retry-After", RETRY_AFTER_S)
            await send(message)

        return told

    def _signed_in(self, scope: MutableMapping[str, Any]) -> HTTPResponse | None:
        """Put the root key in the place of a valid session; return the refusal of another one."""
        headers = Headers(scope=scope)
        if "x-api-key" in headers or "authorization" in headers or not presented_sessions(headers):
            return None
        policy = self._policy()
        verdict = judge(scope, policy)
        if isinstance(verdict, Refusal):
            return _enveloped(Answer(None, verdict.status, summary=verdict.message))
        scope["headers"] = [*scope["headers"], (b"x-api-key", (policy.root_key or "").encode())]
        return None


def _without_prefix(path: str) -> str | None:
    """Return a path of our own services as they have it, None for one of OpenViking's."""
    found = next((prefix for prefix in PREFIXES if path.startswith(f"{prefix}/")), None)
    return None if found is None else SHORT + path.removeprefix(found)


def attach(app: FastAPI, control: Control, waits: RequestWaits) -> None:
    """Add the routes to an application that does not serve yet."""
    admin = Admin(control)
    router = APIRouter()
    for method, path, handler in (*admin.routes(), ("GET", f"{SHORT}/metrics", _metrics(admin))):
        router.add_api_route(canonical(path), _rooted(handler), methods=[method], tags=["config"], response_model=None)
    for method, path, probe in admin.probes():
        router.add_api_route(path, _open(probe), methods=[method], tags=["system"], response_model=None)

    def policy() -> Policy:
        return Policy(app.state.config.root_api_key or None, control.admin_settings().allowed_hosts, time.time())

    app.add_middleware(OwnPaths, ready=lambda: control.ready, policy=policy, waits=waits)
    app.include_router(router)


def _metrics(admin: Admin) -> Handler:
    """Return the metrics as a route for root: OpenViking's own `/metrics` is another one."""

    async def metrics(request: Request, _caller: Caller) -> HTTPResponse:
        return await admin.metrics(request)

    return metrics


def _rooted(handler: Handler) -> Callable[..., Awaitable[HTTPResponse]]:
    """Make an endpoint of a handler: for root alone, answering in OpenViking's envelope."""

    @_for_root
    async def endpoint(request: Request, ctx: Root) -> HTTPResponse:
        try:
            answer = await handler(request, _caller(request))
        except (HTTPException, QueueError) as error:
            status, text, headers = refusal_of(error)
            answer = Answer(None, status, headers, text)
        return answer if isinstance(answer, HTTPResponse) else _enveloped(answer)

    return endpoint


def _open(probe: Probe) -> Callable[..., Awaitable[HTTPResponse]]:
    async def endpoint() -> HTTPResponse:
        answer = probe()
        return JSONResponse(answer.value, answer.status)

    return endpoint


def _caller(request: Request) -> Caller:
    return Caller(f"root key from {request.client.host}" if request.client else "root key", local=False)


def _enveloped(answer: Answer) -> JSONResponse:
    """Return an answer in OpenViking's envelope; that of an error still carries the result."""
    error = None
    if answer.status >= 400:
        code = CODES.get(answer.status, "INTERNAL" if answer.status >= 500 else "INVALID_ARGUMENT")
        error = ErrorInfo(code=code, message=answer.summary or "refused")
    envelope = Response(status="error" if error else "ok", result=answer.value, error=error)
    return JSONResponse(envelope.model_dump(), answer.status, headers=dict(answer.headers))
