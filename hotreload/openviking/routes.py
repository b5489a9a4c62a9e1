"""The admin routes on OpenViking's own port, under its root authentication and in its response envelope.

FastAPI reads the annotations of the handlers at run time: no postponed ones in this module.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, cast

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from openviking.server import auth
from openviking.server.identity import RequestContext
from openviking.server.models import ErrorInfo, Response
from starlette.exceptions import HTTPException
from starlette.responses import Response as HTTPResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from hotreload.admin.app import Admin, Answer, Handler, Probe
from hotreload.admin.control import Control
from hotreload.admin.guard import Caller

Root = Annotated[RequestContext, Depends(auth.get_request_context)]
_for_root = cast(Any, auth.require_auth_root)  # pyright: ignore[reportUnknownMemberType]
SHORT = "/admin"
READY = "/ready"
CANONICAL = "/api/v1/admin/config"
CODES = {403: "PERMISSION_DENIED", 404: "NOT_FOUND", 409: "CONFLICT", 412: "FAILED_PRECONDITION"}
"""OpenViking's names of our statuses."""


def canonical(path: str) -> str:
    """Return where a route of our own services stands here: OpenViking takes root keys below `/api/v1/admin` only."""
    return CANONICAL + path.removeprefix(SHORT).removeprefix("/config")


class ShortPath:
    """Take the paths of our own services to their canonical ones, before anything looks at them.

    OpenViking's own readiness is refused from the first moment of a drain on, as `ready` says then.
    """

    def __init__(self, app: ASGIApp, ready: Callable[[], bool]) -> None:
        self.app = app
        self._ready = ready

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http" and scope["path"] == READY and not self._ready():
            refusal = JSONResponse({"status": "not_ready", "reason": "draining"}, 503, {"Retry-After": "1"})
            await refusal(scope, receive, send)
            return
        if scope["type"] == "http" and scope["path"].startswith(f"{SHORT}/"):
            path = canonical(scope["path"])
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await self.app(scope, receive, send)


def attach(app: FastAPI, control: Control) -> None:
    """Add the routes to an application that does not serve yet."""
    admin = Admin(control)
    router = APIRouter()
    for method, path, handler in admin.routes():
        router.add_api_route(canonical(path), _rooted(handler), methods=[method], tags=["config"], response_model=None)
    for method, path, probe in admin.probes():
        router.add_api_route(path, _open(probe), methods=[method], tags=["system"], response_model=None)
    app.add_middleware(ShortPath, ready=lambda: control.ready)
    app.include_router(router)


def _rooted(handler: Handler) -> Callable[..., Awaitable[HTTPResponse]]:
    """Make an endpoint of a handler: for root alone, answering in OpenViking's envelope."""

    @_for_root
    async def endpoint(request: Request, ctx: Root) -> HTTPResponse:
        try:
            answer = await handler(request, _caller(request))
        except HTTPException as error:
            answer = Answer(None, error.status_code, error.headers or {}, str(error.detail))
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
