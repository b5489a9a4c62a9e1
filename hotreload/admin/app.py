"""The admin application: a table of routes over one running process.

Handlers only translate; what is done and what is true is the process', met as `Control`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Final

import anyio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hotreload.admin import jobs, reindex
from hotreload.admin.control import Control, Fleet, Ticket
from hotreload.admin.events import STREAMS, EventStreams
from hotreload.admin.exchange import (
    AsciiResponse,
    answer_error,
    expected_generation,
    preferred_wait_s,
    read_body,
    read_configuration,
    whole_number,
)
from hotreload.admin.guard import Caller, Policy, Refusal, judge
from hotreload.admin.page import Page
from hotreload.admin.session import WrongKeys
from hotreload.clock import now_ms
from hotreload.errors import QueueError
from hotreload.reload.report import Outcome, ReloadReport, Trigger, TriggerKind

HISTORY_MOST: Final = 10_000
FLEET_S: Final = 30.0
METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_STATUS: Final = {
    Outcome.APPLIED: 200,
    Outcome.UNCHANGED: 200,
    Outcome.VALID: 200,
    Outcome.REJECTED: 422,
    Outcome.ROLLED_BACK: 500,
    Outcome.REFUSED: 409,
}


def create_app(control: Control, *, streams: int = STREAMS) -> Starlette:
    """Build the ASGI application; `streams` bounds the readers of /admin/events."""
    admin = Admin(control, streams)
    wrong_keys = WrongKeys()

    def policy() -> Policy:
        settings = control.admin_settings()
        key = settings.root_key
        return Policy(key.get_secret_value() if key else None, settings.allowed_hosts, time.time())

    table = [
        *((method, path, _guarded(policy, handler, wrong_keys)) for method, path, handler in admin.routes()),
        *((method, path, _open(handler)) for method, path, handler in admin.probes()),
        ("GET", "/metrics", admin.metrics),
    ]
    return Starlette(
        routes=[
            *(Route(path, handler, methods=[method]) for method, path, handler in table),
            *Page(policy, wrong_keys).routes(),
        ],
        exception_handlers=dict.fromkeys((HTTPException, QueueError, Exception), answer_error),
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler answers: a JSON value, its status and headers.

    `summary` says in one line what `value` says, where `status` is an error.
    """

    value: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    summary: str | None = None


def status_of(report: ReloadReport) -> int:
    """Return the HTTP status a reload report is answered with."""
    if report.outcome is Outcome.REFUSED and report.errors and report.errors[0].path == "generation":
        return 412
    return _STATUS[report.outcome]


Handler = Callable[[Request, Caller], Awaitable[Answer | Response]]
"""What one route does for a caller who may; HTTPException where it refuses."""
Probe = Callable[[], Answer]
_Endpoint = Callable[[Request], Awaitable[Response]]


def _guarded(policy: Callable[[], Policy], handler: Handler, wrong_keys: WrongKeys) -> _Endpoint:
    """Let only those call `handler` who may, and tell it who they are."""

    async def call(request: Request) -> Response:
        caller = judge(request.scope, policy())
        if isinstance(caller, Refusal):
            if caller.wrong_key:
                await wrong_keys.refused(request.client.host if request.client else "an unknown address")
            headers = {"WWW-Authenticate": "Bearer"} if caller.status == 401 else None
            raise HTTPException(caller.status, caller.message, headers)
        return _response(await handler(request, caller))

    return call


def _open(probe: Probe) -> _Endpoint:
    async def call(_request: Request) -> Response:
        return _response(probe())

    return call


def _response(answer: Answer | Response) -> Response:
    if isinstance(answer, Response):
        return answer
    return AsciiResponse(answer.value, answer.status, headers=answer.headers)


class Admin:
    """The handlers over one process, for an edge that knows the caller: this application or another server."""

    def __init__(self, control: Control, streams: int = STREAMS) -> None:
        self._control = control
        self._streams = EventStreams(control.subscribe, control.status, streams)

    def routes(self) -> Sequence[tuple[str, str, Handler]]:
        """Return method, path and handler of each route that needs the root key."""
        return (
            ("POST", "/admin/config/reload", self.reload),
            ("POST", "/admin/config/check", self.check),
            ("GET", "/admin/config", self.config),
            ("GET", "/admin/config/history", self.history),
            ("GET", "/admin/config/schema", self.schema),
            ("GET", "/admin/status", self.status),
            ("GET", "/admin/events", self.events),
            ("POST", "/admin/drain", self.drain),
            ("POST", "/admin/fleet/reload", self.reload_fleet),
            ("POST", "/admin/fleet/drain", self.drain_fleet),
            ("POST", "/admin/reindex", self.reindex),
            ("GET", "/admin/reindex/{id}", self.search),
            *((method, path, self._answered(answer)) for method, path, answer in jobs.ROUTES),
            ("POST", "/admin/backup", self.backup),
        )

    def probes(self) -> Sequence[tuple[str, str, Probe]]:
        """Return method, path and handler of each route for those who watch the process; they need no key."""
        return ("GET", "/livez", self.livez), ("GET", "/readyz", self.readyz)

    async def backup(self, request: Request, caller: Caller) -> Answer:
        """Write a copy of the store; for the control socket alone, as it writes files in the service's name."""
        if not caller.local:
            raise HTTPException(403, "a copy of the store is made over the control socket only")
        return Answer(*await jobs.backup(self._control, request))

    def _answered(self, answer: Callable[[Control, Request], Awaitable[tuple[Any, int]]]) -> Handler:
        """Make a handler of a function that returns a JSON value and a status."""

        async def call(request: Request, _caller: Caller) -> Answer:
            return Answer(*await answer(self._control, request))

        return call

    async def reload(self, request: Request, caller: Caller) -> Answer:
        body = await read_body(request, {"dry_run": bool})
        expected = expected_generation(
            request.headers.get("if-match"), self._control.instance, self._control.generation
        )
        ticket = self._control.submit_reload(
            _trigger(caller), dry_run=body.get("dry_run", False), if_match=expected, id=_request_id(request)
        )
        return await _verdict(request, ticket)

    async def check(self, request: Request, caller: Caller) -> Answer:
        """Validate the file in the body against this process; its variables are expanded on the control socket only."""
        raw = await read_configuration(request)
        name = PurePath(request.query_params.get("name", "")).name[:255] or "ov.conf"
        ticket = self._control.submit_check(_trigger(caller), name, raw, expands=caller.local, id=_request_id(request))
        return await _verdict(request, ticket)

    async def config(self, _request: Request, _caller: Caller) -> Answer:
        etag = f'"{self._control.instance}-{self._control.generation}"'
        return Answer(self._control.config(), headers={"ETag": etag, "Cache-Control": "no-store"})

    async def history(self, request: Request, _caller: Caller) -> Answer:
        """Answer the reports from the `from`-th (0: the newest) on, at most `limit`; without, all that are kept."""
        first = whole_number(request, "from", 0, 0, HISTORY_MOST)
        most = whole_number(request, "limit", HISTORY_MOST, 1, HISTORY_MOST)
        return Answer(self._control.history()[first : first + most])

    async def schema(self, _request: Request, _caller: Caller) -> Answer:
        return Answer(self._control.schema())

    async def status(self, _request: Request, _caller: Caller) -> Answer:
        return Answer(self._control.status())

    async def events(self, _request: Request, _caller: Caller) -> Response:
        return self._streams.response()

    async def drain(self, request: Request, caller: Caller) -> Answer:
        body = await read_body(request, {"deadline_s": (int, float), "reason": str})
        deadline_s = _deadline_s(body)
        reason = str(body.get("reason") or f"asked for by {caller.principal}")[:200]
        return Answer(self._control.start_drain(reason, deadline_s), 202)

    async def reload_fleet(self, request: Request, caller: Caller) -> Answer:
        """Answer with one verdict for all nodes: 200 where all applied, 409 where none did, 500 where some did."""
        body = await read_body(request, {"timeout_s": (int, float)})
        timeout_s = body.get("timeout_s", FLEET_S)
        if not 0 < timeout_s <= 3600:
            raise HTTPException(400, "timeout_s must be above 0 and at most 3600")
        verdict = await self._fleet().reload(caller.principal, timeout_s)
        return Answer(verdict, {"refused": 409, "partial": 500}.get(verdict["outcome"], 200))

    async def drain_fleet(self, request: Request, caller: Caller) -> Answer:
        body = await read_body(request, {"nodes": list, "deadline_s": (int, float)})
        names = [str(name) for name in body.get("nodes", [])]
        return Answer(await self._fleet().drain(caller.principal, names, _deadline_s(body)), 202)

    def _fleet(self) -> Fleet:
        fleet = self._control.fleet
        if fleet is None:
            raise HTTPException(409, "this service shares its store with no other: hotreload.store is not PostgreSQL")
        return fleet

    async def reindex(self, request: Request, _caller: Caller) -> Answer:
        return Answer(*await reindex.search(self._control, request))

    async def search(self, request: Request, _caller: Caller) -> Answer:
        return Answer(await reindex.progress(self._control, request.path_params["id"]))

    def livez(self) -> Answer:
        return Answer({"status": "alive"})

    def readyz(self) -> Answer:
        """Answer whether work is taken; why it is degraded may hold configuration values, and is told under /admin."""
        control = self._control
        body = {"ready": control.ready, "phase": control.phase.value, "degraded": control.degraded is not None}
        return Answer(body, 200 if control.ready else 503)

    async def metrics(self, _request: Request) -> Response:
        return Response(self._control.metrics_text(), headers={"Content-Type": METRICS_TYPE})


def _deadline_s(body: Mapping[str, Any]) -> float | None:
    """Return the deadline that a drain was asked for with, None for the configured one."""
    deadline_s = body.get("deadline_s")
    if deadline_s is not None and not 0 < deadline_s <= 86_400:
        raise HTTPException(400, "deadline_s must be above 0 and at most 86400")
    return deadline_s


def _trigger(caller: Caller) -> Trigger:
    return Trigger(TriggerKind.CLI if caller.local else TriggerKind.HTTP, caller.principal, now_ms())


async def _verdict(request: Request, ticket: Ticket) -> Answer:
    """Answer with the verdict, or by `Prefer: wait=N` with the id alone; `X-Reload-Id` has it either way."""
    headers = {"X-Reload-Id": ticket.id}
    wait_s = preferred_wait_s(request.headers.get("prefer"))
    with anyio.move_on_after(wait_s):
        report = await ticket.wait()
        return Answer(report.to_dict(), status_of(report), headers, report.summary())
    headers["Preference-Applied"] = f"wait={wait_s:g}"
    return Answer({"id": ticket.id, "outcome": None}, 202, headers)


def _request_id(request: Request) -> str | None:
    """Return the id a client gave its request where it is a UUID: proxies put anything into this header."""
    try:
        return uuid.UUID(request.headers["x-request-id"]).hex
    except (KeyError, ValueError):
        return None
