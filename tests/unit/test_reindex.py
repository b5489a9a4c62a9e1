"""The routes and the verb that look for missing work, over a search that is told what to find."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from click.testing import CliRunner, Result
from starlette.types import Receive, Scope, Send

from hotreload.admin.app import create_app
from hotreload.admin.guard import PEER, Peer
from hotreload.admin.metrics import Metrics
from hotreload.cli import reindex as verb
from hotreload.cli.reindex import reindex
from hotreload.errors import SearchRefused
from hotreload.lifecycle import Phase
from hotreload.recovery.coordinator import WAITING, RecoveryCoordinator
from hotreload.recovery.findings import Findings, Making, Wanted
from tests.control import FakeControl

pytestmark = pytest.mark.anyio


class Told:
    """Finds one entry, once it may."""

    def __init__(self) -> None:
        self.may = anyio.Event()
        self.asked: list[Wanted] = []

    async def search(self, wanted: Wanted, findings: Findings) -> None:
        """Find `a/b`."""
        self.asked.append(wanted)
        await self.may.wait()
        findings.scanned, findings.queued = 5, int(wanted.repair)
        findings.miss("a/b", "empty")

    async def making(self, findings: Findings) -> Making:
        """Say that it failed."""
        return Making(0, 0, {"a/b": "boom"})


@asynccontextmanager
async def serving(told: Told, control: FakeControl) -> AsyncIterator[httpx.AsyncClient]:
    """Serve the admin application over a coordinator that runs."""
    control.searches = RecoveryCoordinator(told)
    app = create_app(control)

    async def local(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": {PEER: Peer(812, 1000)}}, receive, send)

    transport = httpx.ASGITransport(local, raise_app_exceptions=False)
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(control.searches.run)
        yield client
        tasks.cancel_scope.cancel()


async def test_it_answers_202_with_what_it_queued_and_200_to_a_dry_run() -> None:
    told = Told()
    told.may.set()
    async with serving(told, FakeControl()) as client:
        queued = await client.post("/admin/reindex")
        looked = await client.post("/admin/reindex", json={"dry_run": True, "uri": "a", "account": "acme"})
    assert (queued.status_code, looked.status_code) == (202, 200)
    document = queued.json()
    assert document["missing"] == [{"id": "a/b", "reason": "empty"}]
    assert (document["scanned"], document["queued"], document["already_queued"]) == (5, 1, 0)
    assert told.asked == [Wanted(repair=True, retry=True), Wanted(uri="a", repair=False, account="acme")]


async def test_a_client_that_does_not_wait_asks_again_by_the_id() -> None:
    told = Told()
    async with serving(told, FakeControl()) as client:
        begun = await client.post("/admin/reindex", json={"dry_run": True}, headers={"Prefer": "wait=0"})
        assert (begun.status_code, begun.json()["ended"]) == (202, False)
        told.may.set()
        await client.post("/admin/reindex")
        found = await client.get(f"/admin/reindex/{begun.json()['id']}")
        assert found.json()["made"] == {"left": 0, "done": 0, "failed": [{"id": "a/b", "error": "boom"}]}
        assert (await client.get("/admin/reindex/other")).status_code == 404


@pytest.mark.parametrize(("phase", "offered"), [(Phase.GRACE, True), (Phase.RUNNING, False)])
async def test_it_is_refused_in_a_drain_and_where_nobody_says_what_should_exist(phase: Phase, offered: bool) -> None:
    control = FakeControl(phase=phase)
    async with serving(Told(), control) as client:
        if not offered:
            control.searches = None
        assert (await client.post("/admin/reindex")).status_code == 409


async def test_it_is_refused_where_many_wait() -> None:
    async with serving(Told(), control := FakeControl()) as client:
        for _ in range(WAITING + 1):
            control.searches.submit(Wanted())
        assert (await client.post("/admin/reindex")).status_code == 409


async def test_a_long_uri_and_an_unknown_key_are_refused() -> None:
    async with serving(Told(), FakeControl()) as client:
        assert (await client.post("/admin/reindex", json={"uri": "a" * 5_000})).status_code == 400
        assert (await client.post("/admin/reindex", json={"url": "a"})).status_code == 400


def test_the_newest_search_is_in_the_metrics() -> None:
    findings = Findings("it", Wanted())
    findings.miss("a/b", "stale")
    text = Metrics(lambda: {"recovery": [findings.summary()]}).text().decode()
    assert "hotreload_recovery_running 1.0" in text
    assert 'hotreload_recovery_missing{reason="stale"} 1.0' in text
    findings.end("it broke")
    assert "hotreload_recovery_failed 1.0" in Metrics(lambda: {"recovery": [findings.summary()]}).text().decode()
    assert "hotreload_recovery" not in Metrics(dict).text().decode()


def test_waiting_for_a_dry_run_is_wrong_usage() -> None:
    done = CliRunner().invoke(reindex, ["--dry-run", "--wait"])
    assert done.exit_code == 2


def test_a_report_is_json() -> None:
    assert json.loads(json.dumps(Findings("it", Wanted()).to_dict()))["missing"] == []


class Unknown(Told):
    """Knows nothing of what it is asked for."""

    async def search(self, wanted: Wanted, findings: Findings) -> None:
        """Refuse, once it may."""
        await self.may.wait()
        raise SearchRefused(f"no such folder: {wanted.uri}")


async def test_what_does_not_exist_is_404() -> None:
    unknown = Unknown()
    async with serving(unknown, FakeControl()) as client:
        begun = await client.post("/admin/reindex", json={"uri": "b"}, headers={"Prefer": "wait=0"})
        assert begun.status_code == 202
        unknown.may.set()
        answer = await client.post("/admin/reindex", json={"uri": "viking://resources/x"})
        assert (answer.status_code, answer.json()["error"]) == (404, "no such folder: viking://resources/x")
        found = (await client.get(f"/admin/reindex/{begun.json()['id']}")).json()
        assert (found["ended"], found["error"]) == (True, "no such folder: b")


def report(**changed: Any) -> dict[str, Any]:
    """Return a report of two missing entries in two folders."""
    findings = Findings("it", Wanted())
    findings.miss("a/b", "stale")
    findings.miss("a/c/d", "empty")
    findings.scanned = findings.queued = 2
    findings.end()
    return findings.to_dict() | changed


class Answering:
    """Stands where the verb has its client: answers with one report."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found

    def __enter__(self) -> Answering:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def reindex(self, _asked: Any, *, timeout_s: float) -> dict[str, Any]:
        """Answer with the report alone."""
        return {key: value for key, value in self.found.items() if key != "made"}

    def search(self, _search_id: str) -> dict[str, Any]:
        """Answer with all of it."""
        return self.found


def typed(monkeypatch: pytest.MonkeyPatch, found: dict[str, Any], *options: str) -> Result:
    """Run the verb against a service that answers with this report."""
    monkeypatch.setattr(verb, "Client", lambda _endpoint: Answering(found))
    monkeypatch.setattr(verb, "find", lambda _wanted: None)
    return CliRunner().invoke(reindex, options, standalone_mode=False)


def words(done: Result) -> list[list[str]]:
    """Return the lines of a table without their rules."""
    return [line.replace("│", " ").split() for line in done.stdout.splitlines()]


def test_people_see_what_is_missing_and_how_much_in_each_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    done = typed(monkeypatch, report())
    lines = words(done)
    assert (done.return_value, done.stderr) == (0, "")
    for row in (["a/b", "stale"], ["a/c/d", "empty"], ["a", "1"], ["a/c", "1"]):
        assert row in lines, done.stdout
    assert "2 scanned, 2 missing, 2 queued, 0 already queued" in done.stdout


def test_what_failed_is_named_on_stderr(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {"left": 0, "done": 1, "failed": [{"id": "a/b", "error": "boom"}]}
    done = typed(monkeypatch, report(made=made), "--wait")
    assert done.return_value == 1
    assert done.stderr.splitlines() == ["hotreload: 1 failed", "  a/b: boom"]


def test_what_could_not_be_queued_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = Findings("it", Wanted())
    findings.refuse("a/b", "locked")
    done = typed(monkeypatch, report() | {"refused": findings.to_dict()["refused"]})
    assert done.return_value == 1
    assert done.stderr.splitlines() == ["hotreload: 1 failed", "  a/b: not queued: locked"]


@pytest.mark.parametrize(("dry_run", "became"), [(True, "would be ended"), (False, "ended")])
def test_tasks_that_nobody_works_on_are_named(monkeypatch: pytest.MonkeyPatch, dry_run: bool, became: str) -> None:
    findings = Findings("it", Wanted(repair=not dry_run))
    findings.bury("t-1", "add_resource viking://resources/a")
    findings.end()
    done = typed(monkeypatch, findings.to_dict())
    said = " ".join(done.stdout.split())
    assert f"1 tasks that no process works on {became}: t-1 add_resource viking://resources/a" in said
