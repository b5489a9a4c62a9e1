"""The routes of the contract, their status codes and their limits, over a small real process."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from pydantic import SecretStr
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from hotreload.admin.app import create_app
from hotreload.admin.events import EventStreams
from hotreload.admin.exchange import expected_generation, preferred_wait_s, read_body
from hotreload.admin.guard import PEER, Peer
from hotreload.admin.metrics import Metrics
from hotreload.config.fields import Effect
from hotreload.errors import Problem
from hotreload.lifecycle import Phase
from hotreload.reload.report import Outcome, PendingRestart, TriggerKind
from tests.control import FakeControl, Settings, drain_report, report

pytestmark = pytest.mark.anyio
KEY = "k" * 32
OPEN = {
    ("GET", "/admin"): 307,
    ("GET", "/admin/"): 200,
    ("GET", "/admin/page.js"): 200,
    ("GET", "/admin/page.css"): 200,
    ("GET", "/admin/session"): 200,
    ("POST", "/admin/session"): 400,
    ("DELETE", "/admin/session"): 204,
}
"""What the page needs before a person has signed in; nothing of the process is in it."""


def as_local(app: ASGIApp) -> ASGIApp:
    """Do what our own server does for the control socket: name the peer."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": {PEER: Peer(812, 1000)}}, receive, send)

    return call


@asynccontextmanager
async def client_of(control: FakeControl, *, local: bool = True, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(control)
    transport = httpx.ASGITransport(as_local(app) if local else app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", **options) as client:
        yield client


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome.APPLIED, 200),
        (Outcome.UNCHANGED, 200),
        (Outcome.VALID, 200),
        (Outcome.REJECTED, 422),
        (Outcome.ROLLED_BACK, 500),
        (Outcome.REFUSED, 409),
    ],
)
async def test_a_reload_answers_with_its_report(outcome: Outcome, status: int) -> None:
    control = FakeControl(outcome=outcome, errors=(Problem("phase", "draining"),))
    async with client_of(control) as client:
        answer = await client.post("/admin/config/reload", json={"dry_run": True})
    ticket, trigger = control.submitted[0]
    assert answer.status_code == status
    assert answer.json() == ticket.report.to_dict()
    assert ticket.report.dry_run
    assert (trigger.kind, trigger.principal) == (TriggerKind.CLI, "pid 812 uid 1000")


async def test_over_tcp_the_trigger_is_http_and_the_key_is_the_principal() -> None:
    control = FakeControl(settings=Settings(SecretStr(KEY)))
    async with client_of(control, local=False, headers={"X-API-Key": KEY}) as client:
        assert (await client.post("/admin/config/reload")).status_code == 200
    _, trigger = control.submitted[0]
    assert (trigger.kind, trigger.principal) == (TriggerKind.HTTP, "root key from 127.0.0.1")


async def test_every_admin_route_is_guarded_and_no_other() -> None:
    control = FakeControl(settings=Settings(SecretStr(KEY)))
    app = create_app(control)
    async with client_of(control, local=False) as client:
        for route in app.routes:
            path, method = route.path, next(iter(route.methods - {"HEAD"}))  # pyright: ignore
            answer = await client.request(method, path)
            assert answer.status_code == OPEN.get((method, path), 401 if path.startswith("/admin") else 200), path
            if answer.status_code == 401:
                assert answer.headers["www-authenticate"] == "Bearer"
        rebound = await client.get("/admin/status", headers={"Host": "evil.example", "X-API-Key": KEY})
        assert rebound.status_code == 403
    assert control.submitted == control.drains == []


async def test_without_a_key_admin_points_to_the_control_socket() -> None:
    async with client_of(FakeControl(), local=False) as client:
        answer = await client.get("/admin/status")
    assert answer.status_code == 403
    assert "control socket" in answer.json()["error"]


@pytest.mark.parametrize(
    ("content", "content_type", "status"),
    [
        (b"{}", "application/json", 200),
        (b"", "text/plain", 200),
        (b'{"dry_run": true}', "application/json; charset=utf-8", 200),
        (b'{"dry_run": true}', "text/plain", 415),
        (b"dry_run=true", "application/x-www-form-urlencoded", 415),
        (b'{"dry_run": 1}', "application/json", 400),
        (b'{"dry_run": true, "force": true}', "application/json", 400),
        (b"[true]", "application/json", 400),
        (b"{", "application/json", 400),
        (b'{"dry_run": NaN}', "application/json", 400),
        (b"[" * 60_000, "application/json", 400),
        (b"\xff\xfe{", "application/json", 400),
        (b" " * (64 * 1024 + 1), "application/json", 413),
    ],
)
async def test_what_a_body_may_be(content: bytes, content_type: str, status: int) -> None:
    control = FakeControl()
    async with client_of(control) as client:
        answer = await client.post("/admin/config/reload", content=content, headers={"Content-Type": content_type})
    assert answer.status_code == status
    assert len(control.submitted) == (status == 200)
    if status != 200:
        assert set(answer.json()) == {"error"}


async def test_a_body_without_a_length_is_bounded_too() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 1024

    async with client_of(FakeControl()) as client:
        assert (await client.post("/admin/config/reload", content=endless())).status_code == 413


async def test_a_body_that_does_not_come_is_given_up() -> None:
    pieces = iter([{"type": "http.request", "body": b"{", "more_body": True}])

    async def receive() -> Any:
        for piece in pieces:
            return piece
        return await anyio.sleep_forever()

    headers = [(b"content-type", b"application/json"), (b"content-length", b"20")]
    scope: dict[str, Any] = {"type": "http", "method": "POST", "headers": headers}
    with pytest.raises(HTTPException) as refused:
        await read_body(Request(scope, receive), {}, within_s=0.05)
    assert refused.value.status_code == 408


async def test_a_client_that_leaves_within_its_body_is_refused_without_a_traceback() -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "POST", "headers": [(b"content-type", b"application/json")]}
    with pytest.raises(HTTPException) as refused:
        await read_body(Request(scope, receive), {})
    assert refused.value.status_code == 400


async def test_if_match() -> None:
    control = FakeControl()
    async with client_of(control) as client:
        etag = (await client.get("/admin/config")).headers["etag"]
        assert etag == '"abc-8"'
        assert (await client.post("/admin/config/reload", headers={"If-Match": etag})).status_code == 200
        control.generation = 9
        moved = await client.post("/admin/config/reload", headers={"If-Match": etag})
        assert (moved.status_code, moved.json()["outcome"]) == (412, "refused")
        assert (await client.post("/admin/config/reload", headers={"If-Match": "abc-9"})).status_code == 400


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None), ("*", None), ('"abc-8"', 8), ('"abc-7"', 7), ('"abc-7", "abc-8"', 8), ('"old-8"', -1),
        ('W/"abc-8"', -1), ('"abc-x"', -1), ('""', -1),
    ],
)  # fmt: skip
def test_entity_tags_are_compared_strongly(header: str | None, expected: int | None) -> None:
    assert expected_generation(header, "abc", 8) == expected


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None), ("wait=5", 5), ("respond-async, Wait = 10; x=1", 10), ("wait=0.9", 0.9), ("wait=soon", None),
        ("wait", None), ("wait=-1", None), ("wait=1e3", None), ("wait=.5", None), ("wait=1234567890", None),
    ],
)  # fmt: skip
def test_prefer_wait(header: str | None, expected: float | None) -> None:
    assert preferred_wait_s(header) == expected


async def test_who_does_not_want_to_wait_learns_the_id_and_the_reload_goes_on() -> None:
    control = FakeControl(held=True)
    async with client_of(control) as client:
        answer = await client.post("/admin/config/reload", headers={"Prefer": "wait=0"})
    assert answer.status_code == 202
    assert answer.json() == {"id": "5f0c", "outcome": None}
    ticket, _ = control.submitted[0]
    ticket.over.set()
    assert (await ticket.wait()).outcome is Outcome.APPLIED


async def test_a_uuid_names_the_reload_and_nothing_else_does() -> None:
    control = FakeControl()
    async with client_of(control) as client:
        for given in ("6ba7b810-9dad-11d1-80b4-00c04fd430c8", "../../etc", "trace-1"):
            await client.post("/admin/config/reload", headers={"X-Request-Id": given})
    assert [ticket.id for ticket, _ in control.submitted] == ["6ba7b8109dad11d180b400c04fd430c8", "5f0c", "5f0c"]


async def test_documents() -> None:
    control = FakeControl()
    async with client_of(control) as client:
        for path, expected in (
            ("/admin/config", control.config()),
            ("/admin/config/history", control.history()),
            ("/admin/config/schema", control.schema()),
            ("/admin/status", control.status()),
        ):
            assert (await client.get(path)).json() == expected
        assert (await client.get("/admin/nothing")).json() == {"error": "Not Found"}
        assert (await client.get("/admin/drain")).status_code == 405


async def test_drain() -> None:
    control = FakeControl()
    async with client_of(control) as client:
        answer = await client.post("/admin/drain", json={"deadline_s": 3, "reason": "deploy"})
        assert (answer.status_code, answer.json()["phase"]) == (202, "grace")
        assert (await client.post("/admin/drain")).status_code == 202
        for wrong in ({"deadline_s": 0}, {"deadline_s": -1}, {"deadline_s": True}, {"deadline_s": "3"}, {"now": 1}):
            assert (await client.post("/admin/drain", json=wrong)).status_code == 400, wrong
    assert control.drains == [("deploy", 3), ("asked for by pid 812 uid 1000", None)]


async def test_readiness_says_degraded_and_ends_with_the_first_moment_of_a_drain() -> None:
    control = FakeControl(degraded="last-known-good")
    async with client_of(control, local=False) as client:
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["degraded"]) == (200, True)
        assert "last-known-good" not in answer.text  # why may hold configuration values
        control.ready, control.phase = False, Phase.QUIESCING
        answer = await client.get("/readyz")
        assert (answer.status_code, answer.json()["phase"]) == (503, "quiescing")
        assert (await client.get("/livez")).status_code == 200


async def test_a_defect_shows_nothing_of_itself() -> None:
    class Broken(FakeControl):
        def history(self) -> list[dict[str, Any]]:
            raise RuntimeError("the key is hunter2")

    async with client_of(Broken()) as client:
        answer = await client.get("/admin/config/history")
    assert answer.status_code == 500
    assert "hunter2" not in answer.text


async def read_events(app: ASGIApp, until: anyio.Event) -> list[tuple[str, dict[str, Any]]]:
    """Call /admin/events as a server would; ASGITransport would wait for the end."""
    body = bytearray()

    async def receive() -> dict[str, Any]:
        await anyio.sleep_forever()
        raise AssertionError

    async def send(message: Any) -> None:
        body.extend(message.get("body", b""))
        if message["type"] == "http.response.start":
            assert dict(message["headers"])[b"content-type"].startswith(b"text/event-stream")
            until.set()

    scope = {"type": "http", "method": "GET", "path": "/admin/events", "headers": [], "query_string": b""}
    await app(scope, receive, send)
    blocks = [block for block in body.decode().split("\n\n") if block.startswith("event")]
    return [(b.split("\n")[0][7:], json.loads(b.split("\n")[1][6:])) for b in blocks]


async def test_events_begin_with_the_status_and_end_with_the_drain() -> None:
    control = FakeControl()
    app = as_local(create_app(control))
    begun = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def drive() -> None:
            await begun.wait()
            control.publish("reload", report().to_dict())
            control.publish("drain", drain_report())
            control.streams[0].close()

        tasks.start_soon(drive)
        events = await read_events(app, begun)
    assert events == [("status", control.status()), ("reload", report().to_dict()), ("drain", drain_report())]
    assert control.streams == []


async def test_the_number_of_readers_is_bounded_and_head_takes_no_place() -> None:
    control = FakeControl()
    streams = EventStreams(control.subscribe, control.status, limit=1)
    streams.response()
    streams.open = 1
    with pytest.raises(Exception, match="1 event streams"):
        streams.response()
    async with client_of(control) as client:
        assert (await client.head("/admin/events")).status_code == 200
    assert control.streams == []


def lines(metrics: Metrics) -> dict[str, float]:
    rows = [line.rsplit(" ", 1) for line in metrics.text().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in rows}


async def test_metrics_over_http() -> None:
    async with client_of(FakeControl(), local=False) as client:
        answer = await client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "hotreload_config_generation 8.0" in answer.text


def test_every_promised_metric_is_there() -> None:
    control = FakeControl(phase=Phase.INTERRUPTING, degraded="why")
    metrics = control.metrics
    metrics.observe_reload(report())
    metrics.observe_job("semantic", "done")
    found = lines(metrics)
    for name, value in {
        "hotreload_config_last_reload_successful": 1,
        "hotreload_config_generation": 8,
        'hotreload_config_hash_info{hash="hmac:1234"}': 1,
        'hotreload_config_reloads_total{outcome="applied",trigger="http"}': 1,
        'hotreload_config_reloads_total{outcome="rejected",trigger="file"}': 0,
        'hotreload_config_reload_duration_seconds_count{phase="load"}': 1,
        "hotreload_config_pending_restart_fields": 0,
        "hotreload_config_degraded": 1,
        "hotreload_config_watch_healthy": 1,
        "hotreload_config_watch_overflows_total": 3,
        'hotreload_config_jobs_on_generation{generation="7"}': 1,
        'hotreload_pool_limit{pool="semantic"}': 4,
        'hotreload_pool_running{pool="semantic"}': 4,
        'hotreload_queue_jobs{queue="semantic",state="ready"}': 9,
        'hotreload_queue_jobs{queue="semantic",state="dead"}': 2,
        'hotreload_jobs_total{outcome="done",queue="semantic"}': 1,
        "hotreload_drain_phase": 3,
        "hotreload_drain_remaining_jobs": 0,
        "hotreload_drain_deadline_seconds": 0,
    }.items():
        assert found[name] == value, name
    assert found["hotreload_config_last_reload_success_timestamp_seconds"] > 1.7e9
    assert 'hotreload_config_jobs_on_generation{generation="6"}' not in found
    assert not [name for name in found if "_created" in name]


def test_what_a_reload_says_of_the_file() -> None:
    metrics = FakeControl().metrics
    name = "hotreload_config_last_reload_successful"
    pending = (PendingRestart("storage", "/a", "/b", "why"),)
    for made, expected in (
        (report(Outcome.REJECTED), 0),
        (report(Outcome.VALID, dry_run=True), 0),
        (report(Outcome.UNCHANGED, pending_restart=pending), 1),
        (report(Outcome.REJECTED, dry_run=True), 1),
        (report(Outcome.REFUSED), 1),
        (report(Outcome.ROLLED_BACK), 0),
        (report(Outcome.APPLIED), 1),
    ):
        metrics.observe_reload(made)
        assert lines(metrics)[name] == expected, made.outcome
    counted = {k: v for k, v in lines(metrics).items() if k.startswith("hotreload_config_reloads_total") and v}
    assert sum(counted.values()) == 5
    assert lines(Metrics(FakeControl().status, loaded=False))[name] == 0


def test_effects_are_words() -> None:
    assert report().to_dict()["changes"][0]["effect"] == Effect.LIVE.value
