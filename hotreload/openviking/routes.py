"""The admin routes on OpenViking's own port, under its root authentication and in its response envelope.

FastAPI reads the annotations of the handlers at run time: no postponed ones in this module.
"""

from collections.abc import Callable
from typing import Annotated, Any, cast

import anyio
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from openviking.server import auth
from openviking.server.identity import RequestContext
from openviking.server.models import ErrorInfo, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from hotreload.admin import reindex
from hotreload.admin.app import status_of
from hotreload.admin.control import Control
from hotreload.admin.exchange import expected_generation, preferred_wait_s, read_body
from hotreload.clock import now_ms
from hotreload.reload.report import Trigger, TriggerKind

Root = Annotated[RequestContext, Depends(auth.get_request_context)]
_for_root = cast(Any, auth.require_auth_root)  # pyright: ignore[reportUnknownMemberType]
CANONICAL = "/api/v1/admin/config"
SHORT = {"/admin/config/reload": f"{CANONICAL}/reload", "/admin/reindex": f"{CANONICAL}/reindex"}
"""The paths of our own services; OpenViking's key plugin takes root keys below `/api/v1/admin` only."""


class ShortPath:
    """Take a short path to its canonical one, before anything looks at it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] == "http" and scope["path"] in SHORT:
            path = SHORT[scope["path"]]
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await self.app(scope, receive, send)


def attach(app: FastAPI, control: Callable[[], Control]) -> None:
    """Add the routes to an application that does not serve yet."""
    app.add_middleware(ShortPath)
    app.include_router(admin_routes(control))
    app.include_router(recovery_routes(control))
    app.include_router(probes(control))


def admin_routes(control: Callable[[], Control]) -> APIRouter:
    """Return the routes that need the root key."""
    router = APIRouter(prefix=CANONICAL, tags=["config"])

    @router.post("/reload")
    @_for_root
    async def reload_config(request: Request, ctx: Root) -> JSONResponse:
        body = await read_body(request, {"dry_run": bool})
        host = control()
        expected = expected_generation(request.headers.get("if-match"), host.instance, host.generation)
        trigger = Trigger(TriggerKind.HTTP, _principal(request), now_ms())
        ticket = host.submit_reload(trigger, dry_run=body.get("dry_run", False), if_match=expected)
        with anyio.move_on_after(preferred_wait_s(request.headers.get("prefer"))):
            report = await ticket.wait()
            status = status_of(report)
            return _answer(report.to_dict(), status, None if status == 200 else report.summary())
        return _answer({"id": ticket.id, "outcome": None}, 202)

    @router.get("")
    @_for_root
    async def show_config(request: Request, ctx: Root) -> JSONResponse:
        host = control()
        tag = f'"{host.instance}-{host.generation}"'
        return _answer(host.config(), headers={"ETag": tag, "Cache-Control": "no-store"})

    @router.get("/history")
    @_for_root
    async def show_history(request: Request, ctx: Root) -> JSONResponse:
        return _answer(control().history())

    @router.get("/schema")
    @_for_root
    async def show_schema(request: Request, ctx: Root) -> JSONResponse:
        return _answer(control().schema())

    @router.get("/status")
    @_for_root
    async def show_status(request: Request, ctx: Root) -> JSONResponse:
        return _answer(control().status())

    @router.post("/drain")
    @_for_root
    async def start_drain(request: Request, ctx: Root) -> JSONResponse:
        body = await read_body(request, {"reason": str})
        reason = str(body.get("reason") or f"asked for by {_principal(request)}")[:200]
        return _answer(control().start_drain(reason), 202)

    return router


def recovery_routes(control: Callable[[], Control]) -> APIRouter:
    """Return the routes that look for missing work; they need the root key."""
    router = APIRouter(prefix=CANONICAL, tags=["config"])

    @router.post("/reindex")
    @_for_root
    async def find_missing(request: Request, ctx: Root) -> JSONResponse:
        return _answer(*await reindex.search(control(), request))

    @router.get("/reindex/{search_id}")
    @_for_root
    async def show_search(request: Request, search_id: str, ctx: Root) -> JSONResponse:
        return _answer(await reindex.progress(control(), search_id))

    return router


def probes(control: Callable[[], Control]) -> APIRouter:
    """Return the routes for those who watch the process; they need no key."""
    router = APIRouter(tags=["system"])

    @router.get("/livez")
    async def livez() -> JSONResponse:
        return JSONResponse({"status": "alive"})

    @router.get("/readyz")
    async def readyz() -> JSONResponse:
        host = control()
        body = {"ready": host.ready, "phase": host.phase.value, "degraded": host.degraded}
        return JSONResponse(body, 200 if host.ready else 503)

    return router


def _principal(request: Request) -> str:
    return f"root key from {request.client.host}" if request.client else "root key"


def _answer(
    result: Any, status: int = 200, refused: str | None = None, headers: dict[str, str] | None = None
) -> JSONResponse:
    """Return a result in OpenViking's envelope; `refused` makes it an error that still carries the result."""
    code = {409: "CONFLICT", 412: "FAILED_PRECONDITION", 500: "INTERNAL"}.get(status, "INVALID_ARGUMENT")
    error = ErrorInfo(code=code, message=refused) if refused else None
    envelope = Response(status="error" if refused else "ok", result=result, error=error)
    return JSONResponse(envelope.model_dump(), status, headers=headers)
