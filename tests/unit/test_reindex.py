"""The routes and the verb that look for missing work, over a search that is told what to find."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest
from click.testing import CliRunner, Result
from starlette.types import Receive, Scope, Send

from hotreload.admin.app import create_app
from hotreload.admin.guard import PEER, Peer
from hotreload.admin.metrics import Metrics
from hotreload.cli.reindex import reindex
from hotreload.errors import SearchRefused
from hotreload.lifecycle import Phase
from hotreload.recovery.coordinator import WAITING, RecoveryCoordinator
from hotreload.recovery.findings import Findings, Making, Wanted
from tests.control import FakeControl
from tests.control import serving as serving_socket

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


class Finding(Told):
    """Finds what `fill` notes, of which `made` becomes."""

    def __init__(self, fill: Callable[[Findings], None], made: Making = Making(0, 0, {})) -> None:  # noqa: B008 - frozen
        super().__init__()
        self.fill = fill
        self.made = made

    async def search(self, wanted: Wanted, findings: Findings) -> None:
        """Find it at once."""
        self.fill(findings)

    async def making(self, findings: Findings) -> Making:
        """Say what became of it."""
        return self.made


def two(findings: Findings) -> None:
    """Note two missing entries in two folders."""
    findings.miss("a/b", "stale")
    findings.miss("a/c/d", "empty")
    findings.scanned = findings.queued = 2


async def typed(folder: Path, found: Finding, *options: str) -> Result:
    """Run the verb against a service that finds this."""
    control, socket = FakeControl(), folder / "control"
    control.searches = RecoveryCoordinator(found)
    command = [*options, "--socket", str(socket)]
    async with serving_socket(control, socket=socket), anyio.create_task_group() as tasks:
        tasks.start_soon(control.searches.run)
        invoke = partial(CliRunner().invoke, reindex, command, standalone_mode=False)
        done = await anyio.to_thread.run_sync(invoke)
        tasks.cancel_scope.cancel()
    return done


def words(done: Result) -> list[list[str]]:
    """Return the lines of a table without their rules."""
    return [line.replace("│", " ").split() for line in done.stdout.splitlines()]


async def test_people_see_what_is_missing_and_how_much_in_each_folder(short_path: Path) -> None:
    done = await typed(short_path, Finding(two))
    lines = words(done)
    assert (done.return_value, done.stderr) == (0, "")
    for row in (["a/b", "stale"], ["a/c/d", "empty"], ["a", "1"], ["a/c", "1"]):
        assert row in lines, done.stdout
    assert "2 scanned, 2 missing, 2 queued, 0 already queued" in done.stdout


async def test_what_failed_is_named_on_stderr(short_path: Path) -> None:
    done = await typed(short_path, Finding(two, Making(0, 1, {"a/b": "boom"})), "--wait")
    assert done.return_value == 1
    assert done.stderr.splitlines() == ["hotreload: 1 failed", "  a/b: boom"]


async def test_what_could_not_be_queued_has_failed(short_path: Path) -> None:
    done = await typed(short_path, Finding(lambda findings: findings.refuse("a/b", "locked")))
    assert done.return_value == 1
    assert done.stderr.splitlines() == ["hotreload: 1 failed", "  a/b: not queued: locked"]


@pytest.mark.parametrize(("options", "became"), [(["--dry-run"], "would be ended"), ([], "ended")])
async def test_tasks_that_nobody_works_on_are_named(short_path: Path, options: list[str], became: str) -> None:
    zombie = Finding(lambda findings: findings.bury("t-1", "add_resource viking://resources/a"))
    done = await typed(short_path, zombie, *options)
    said = " ".join(done.stdout.split())
    assert f"1 tasks that no process works on {became}: t-1 add_resource viking://resources/a" in said
