"""The queue for people: routes and verbs over a running service, and what a host without a queue answers."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from pydantic import BaseModel, TypeAdapter

from hotreload.admin.app import create_app
from hotreload.cli.exits import Exit
from hotreload.client.find import in_ascii
from hotreload.queue.job import Failed, NewJob
from hotreload.queue.sqlite import SqliteQueue
from hotreload.service.jobs import ServiceJobs
from hotreload.workers.kind import Kind
from tests.control import FakeControl
from tests.process.running import HOTRELOAD, hotreload, started, wait_until
from tests.unit.test_admin_app import as_local

pytestmark = pytest.mark.anyio


class Text(BaseModel):
    name: str


@asynccontextmanager
async def asked(folder: Path) -> AsyncIterator[tuple[SqliteQueue, httpx.AsyncClient]]:
    """Answer for a queue `texts` with nobody working on it."""
    store = SqliteQueue.open(folder / "q.db")
    kinds = {"texts": Kind("texts", TypeAdapter(Text), version=3), "anything": Kind("anything")}
    control = FakeControl(jobs=ServiceJobs(store, kinds, ()))
    transport = httpx.ASGITransport(as_local(create_app(control)), raise_app_exceptions=False)
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield store, client
    finally:
        store.close()


async def test_a_copy_of_the_store_is_written_for_the_control_socket_only(tmp_path: Path) -> None:
    copy = tmp_path / "copy.db"
    async with asked(tmp_path) as (store, client):
        await store.enqueue([NewJob("texts", {"name": "a"})])
        made = await client.post("/admin/backup", json={"file": str(copy)})
        assert (made.status_code, made.json()) == (200, {"file": str(copy), "bytes": copy.stat().st_size})
        for file, status in (("copy.db", 400), (str(tmp_path / "q.db"), 422), (str(tmp_path / "no" / "x.db"), 422)):
            assert (await client.post("/admin/backup", json={"file": file})).status_code == status
        control = FakeControl(jobs=ServiceJobs(store, {}, ()))
        transport = httpx.ASGITransport(create_app(control), raise_app_exceptions=False)
        headers = {"Authorization": "Bearer root"}
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as remote:
            refused = await remote.post("/admin/backup", json={"file": str(copy)})
            assert refused.status_code in (401, 403)
    kept = SqliteQueue.open(copy)
    assert [job.payload for job in [await kept.job("1")] if job] == [{"name": "a"}]
    assert kept.close()


async def test_jobs_over_http(tmp_path: Path) -> None:
    async with asked(tmp_path) as (store, client):
        body = {"queue": "texts", "payload": {"name": "a"}, "key": "a"}
        added = await client.post("/admin/jobs", json=body)
        assert (added.status_code, added.json()) == (201, {"id": "1", "existing": None})
        again = await client.post("/admin/jobs", json=body)
        assert (again.status_code, again.json()) == (200, {"id": "1", "existing": "ready"})
        await client.post("/admin/jobs", json={**body, "key": "b", "priority": 2, "delay_s": 60})
        [row] = await store.claim("texts", 9)
        await store.settle(row, Failed("no", traceback="Traceback …", for_good=True))
        page = (await client.get("/admin/jobs", params={"state": "dead"})).json()["jobs"]
        assert [(job["id"], job["key"], job["state"], job["reason"]) for job in page] == [("1", "a", "dead", "no")]
        assert len((await client.get("/admin/jobs", params={"limit": 1})).json()["jobs"]) == 1
        whole = (await client.get("/admin/jobs/1")).json()
        assert (whole["payload"], whole["version"], whole["traceback"]) == ({"name": "a"}, 3, "Traceback …")

        async def post(verb: str, **asked: Any) -> Any:
            return (await client.post(f"/admin/jobs/{verb}", json=asked)).json()

        assert await post("retry", queue="texts") == {"retried": ["1"], "passed_over": []}
        assert await post("retry", ids=["1"]) == {"retried": [], "passed_over": ["1"]}
        assert await post("pause", queue="texts") == {"queue": "texts", "paused": True}
        assert await store.claim("texts", 1) == []
        assert await post("resume", queue="texts") == {"queue": "texts", "paused": False}
        assert await post("cancel", ids=["3", "1", "77"]) == {"cancelled": ["1", "3"], "passed_over": ["77"]}
        batch = {"queue": "texts", "jobs": [{"payload": {"name": "x"}, "key": "x"}] * 2}
        many = await client.post("/admin/jobs/batch", json=batch)
        assert many.json() == {"jobs": [{"id": "4", "existing": None}, {"id": "4", "existing": "ready"}]}
        waited = await client.get("/admin/jobs/4", headers={"Prefer": "wait=0.1"})
        assert waited.json()["state"] == "ready"
        assert await post("discard", ids=["4", "77"]) == {"discarded": ["4"], "passed_over": ["77"]}
        store.refuse_new()
        refused = await client.post("/admin/jobs", json={**body, "key": "c"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/99", None, 404),
        ("GET", "/no-number", None, 404),
        ("GET", "?state=odd", None, 400),
        ("GET", "?limit=0", None, 400),
        ("POST", "", {"queue": "texts", "payload": {}}, 422),
        ("POST", "", {"queue": "nobody", "payload": {}}, 422),
        ("POST", "", {"queue": "texts", "payload": {"name": "a"}, "priority": 2**31}, 422),
        ("POST", "", {"queue": "texts", "payload": {"name": "a"}, "priority": -(10**30)}, 422),
        ("POST", "", {"queue": "texts", "payload": {"name": "a"}, "delay_s": 1e300}, 422),
        ("POST", "", {"payload": {}}, 400),
        ("POST", "", {"queue": "texts", "priority": "high"}, 400),
        ("POST", "/retry", {}, 400),
        ("POST", "/discard", {"ids": [], "queue": "texts"}, 400),
        ("POST", "/pause", {"queue": "nobody"}, 404),
    ],
)
async def test_what_is_wrong_is_said(tmp_path: Path, method: str, path: str, body: Any, status: int) -> None:
    async with asked(tmp_path) as (_, client):
        answer = await client.request(method, f"/admin/jobs{path}", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]


@pytest.mark.parametrize("payload", ['"\\ud800"', "1e999", '{"name": "\\udd00"}', '{"name": 1e999}'])
async def test_what_no_worker_could_read_is_refused(tmp_path: Path, payload: str) -> None:
    async with asked(tmp_path) as (store, client):
        for queue in ("texts", "anything"):
            body = f'{{"queue": "{queue}", "payload": {payload}}}'
            answer = await client.post("/admin/jobs", content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code in (400, 422)
        halved = in_ascii({"json": {"queue": "anything", "payload": 1, "key": "\ud800"}})
        assert ((await client.post("/admin/jobs", **halved)).status_code, store.depths()) == (422, [])


async def test_a_file_name_of_any_bytes_goes_in_and_comes_out(tmp_path: Path) -> None:
    async with asked(tmp_path) as (_, client):
        name = os.fsdecode(b"bad\xff")
        await client.post(
            "/admin/jobs", **in_ascii({"json": {"queue": "texts", "payload": {"name": name}, "key": name}})
        )
        shown = (await client.get("/admin/jobs/1")).json()
        assert (shown["payload"], shown["key"]) == ({"name": name}, "bad\\udcff")


@pytest.mark.parametrize("delay", ["1e999", "-1e999"])
async def test_a_delay_without_end_is_refused_or_none(tmp_path: Path, delay: str) -> None:
    body = f'{{"queue": "texts", "payload": {{"name": "a"}}, "delay_s": {delay}}}'
    async with asked(tmp_path) as (_, client):
        answer = await client.post("/admin/jobs", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == (201 if delay.startswith("-") else 422)


async def test_a_host_without_a_queue_says_so() -> None:
    transport = httpx.ASGITransport(as_local(create_app(FakeControl())), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        answer = await client.get("/admin/jobs")
    assert answer.status_code == 409
    assert answer.json()["error"].startswith("not offered by this host")


async def test_ends_of_jobs_are_counted_over_a_crash(short_path: Path) -> None:
    (short_path / "ov.conf").write_text(json.dumps({"history": str(short_path / "history")}))
    where = short_path / "run" / "s"
    run = ("run", "tests.process.odd_jobs:service", "--config", str(short_path / "ov.conf"), "--socket", str(where))
    series = 'hotreload_jobs_total{outcome="crashed",queue="odd"}'

    async def counted(http: httpx.AsyncClient) -> list[str]:
        return [line for line in (await http.get("/metrics")).text.splitlines() if line.startswith(series)]

    def client() -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(where)), base_url="http://localhost")

    async with started(*HOTRELOAD, *run) as (process, spoken):
        await spoken.line("listening on")
        async with client() as http:
            assert await counted(http) == []
            await http.post("/admin/jobs", json={"queue": "odd", "payload": {"way": "shields", "seconds": 60}})
            await wait_until((short_path / "history").exists, 10, "begun")
        process.kill()
        await process.wait()
    async with started(*HOTRELOAD, *run) as (process, spoken):
        await spoken.line("listening on")
        async with client() as http:
            assert await counted(http) == [f"{series} 1.0"]


async def test_the_verbs(short_path: Path) -> None:
    conf: dict[str, Any] = {"history": str(short_path / "history")}
    (short_path / "ov.conf").write_text(json.dumps(conf))
    where = ("--socket", str(short_path / "run" / "s"))
    run = ("run", "tests.process.odd_jobs:service", "--config", str(short_path / "ov.conf"), *where)

    async def verb(*arguments: str) -> tuple[int, str, str]:
        done = await hotreload("jobs", *arguments, *where)
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    async with started(*HOTRELOAD, *run) as (process, spoken):
        await spoken.line("listening on")
        code, out, _ = await verb("pause", "odd")
        assert (code, out) == (Exit.DONE, "odd is paused\n")
        code, out, _ = await verb("add", "odd", '{"way": "plain"}', "--key", os.fsdecode(b"k\xff"), "--json")
        assert (code, json.loads(out)) == (Exit.DONE, {"id": "1", "existing": None})
        code, out, _ = await verb("list", "--queue", "odd")
        assert code == Exit.DONE
        assert out.splitlines()[1].split()[:4] == ["1", "odd", "ready", "0"]
        code, out, _ = await verb("show", "1")
        assert '{"way": "plain", "seconds": 0.0}' in out
        code, _, error = await verb("add", "odd", "{}")
        assert code == Exit.REFUSED_BY_CONTENT
        assert "way: Field required" in error
        assert (await verb("add", "odd", "{"))[0] == Exit.USAGE
        assert (await verb("retry", "--all"))[0] == Exit.USAGE
        assert (await verb("show", "99"))[0] == Exit.REFUSED_BY_CONTENT
        code, out, error = await verb("retry", "1")
        assert (code, out, error) == (Exit.REFUSED_BY_CONTENT, "0 retried\n", "hotreload: not retried: 1\n")
        assert await verb("cancel", "1") == (Exit.DONE, "1 cancelled\n", "")
        assert (await verb("cancel", "1"))[0] == Exit.REFUSED_BY_CONTENT
        large = json.dumps({"way": "x" * 2_000})
        assert (await verb("add", "odd", large))[0] == Exit.DONE
        conf["hotreload"] = {"max_payload_bytes": 1024}
        (short_path / "ov.conf").write_text(json.dumps(conf))
        assert (await hotreload("reload", *where)).returncode == Exit.DONE
        refused = "the payload has 2,024 bytes as JSON; the limit is 1,024 (hotreload.max_payload_bytes)"
        code, _, error = await verb("add", "odd", large)
        assert (code, refused in error) == (Exit.REFUSED_BY_CONTENT, True)
        process.terminate()
        with anyio.fail_after(20):
            assert await process.wait() == 0
    assert (await verb("list"))[0] == Exit.UNREACHABLE
    down = await hotreload("jobs", "add", "odd", large, "--config", str(short_path / "ov.conf"))
    told = refused.replace("2,024", "2,010")  # without the defaults of the type, which is not known here
    assert (down.returncode, told in down.stderr.decode()) == (Exit.REFUSED_BY_CONTENT, True)
