"""Reloading stock OpenViking: four triggers resize its workers in one import; what is refused changes nothing."""

import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import load_example
from ov_home import Home
from ov_process import Server, running, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]
UNWATCHED = {"hotreload": {"watch": False}}
"""Settings under which no trigger but the one that is tried reloads."""
Change = Callable[[Server, Home, int], Awaitable[None]]


@pytest.fixture(scope="module")
async def model() -> AsyncIterator[Any]:
    """One model endpoint for all tests of this module."""
    async with load_example("endpoint").serving() as (endpoint, url):
        endpoint.url = url
        yield endpoint


@pytest.fixture(scope="module")
async def running_server(model: Any, warm: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """One server for the tests that do not need a start or an end of their own."""
    home = Home(tmp_path_factory.mktemp("shared"), model.url, warm)
    home.write()
    async with running(home, home.ours) as server:
        yield server


@pytest.fixture
async def server(running_server: Server, model: Any) -> AsyncIterator[Server]:
    """That server at rest: with the settings it began with, and, afterwards, with nothing to do."""
    running_server.home.write(UNWATCHED)
    (await running_server.admin("POST", "config/reload")).raise_for_status()
    model.reset()
    yield running_server
    model.set(hang=False, latency_s=0.0)
    await wait_until(running_server.idle, 60, "empty queues")


def limit(number: int) -> dict[str, Any]:
    """Return the setting of a limit for model calls."""
    return {"vlm": {"max_concurrent": number}}


async def by_signal(server: Server, home: Home, number: int) -> None:
    home.write(limit(number) | UNWATCHED)
    server.signal(signal.SIGHUP)


async def by_edit_in_place(_server: Server, home: Home, number: int) -> None:
    home.write(limit(number))


async def by_rename(_server: Server, home: Home, number: int) -> None:
    home.write(limit(number), atomic=True)


async def by_post(server: Server, home: Home, number: int) -> None:
    home.write(limit(number) | UNWATCHED)
    answer = await server.http.post("/admin/config/reload", headers=server.root)
    assert answer.status_code == 200
    assert answer.json()["result"]["outcome"] in ("applied", "unchanged")


async def peak_is_exactly(model: Any, number: int) -> None:
    """Watch a converged limit: the endpoint sees as many calls at once as it allows, and never one more."""
    await wait_until(lambda: model.gauges.running <= number, 10, f"converged to {number}")
    model.reset()
    await wait_until(lambda: model.gauges.peak >= number, 20, f"a peak of {number}")
    begun = model.gauges.calls
    await wait_until(lambda: model.gauges.calls >= begun + number, 20, "another round of calls")
    assert model.gauges.peak == number
    assert model.gauges.cut == 0


async def test_four_triggers_resize_a_running_import(model: Any, server: Server) -> None:
    server.home.write(limit(4))
    before = (await server.admin("POST", "config/reload")).raise_for_status().json()["generation"]
    model.set(latency_s=0.6)
    names = await server.add_documents(100)
    await peak_is_exactly(model, 4)
    for generation, (change, number) in enumerate(
        [(by_edit_in_place, 12), (by_rename, 2), (by_signal, 12), (by_post, 2), (by_post, 12)], start=before + 1
    ):
        await change(server, server.home, number)
        await server.generation(generation)
        await peak_is_exactly(model, number)
    model.set(latency_s=0.0)
    await server.finished(names, 90)
    assert model.gauges.cut == 0


async def test_grows_from_a_start_at_one(model: Any, home: Home) -> None:
    home.write(limit(1))
    async with running(home, home.ours) as server:
        model.set(latency_s=0.5)
        names = await server.add_documents(16)
        await peak_is_exactly(model, 1)
        home.write(limit(6))
        await server.generation(2)
        await peak_is_exactly(model, 6)
        model.set(latency_s=0.0)
        await server.finished(names, 60)


async def test_says_which_other_limit_binds(model: Any, server: Server) -> None:
    server.home.write(limit(12) | {"queue_workers": {"add_resource": {"max_concurrent": 2}}} | UNWATCHED)
    (await server.admin("POST", "config/reload")).raise_for_status()
    model.set(latency_s=0.5)
    await server.add_documents(8, "bound")

    async def bound_by() -> str | None:
        pools = {pool["name"]: pool for pool in (await server.status())["pools"]}
        return pools["workers.semantic"]["bound_by"]

    assert await wait_until(bound_by, 20) == "queue_workers.add_resource.max_concurrent"


async def test_verdicts_of_what_cannot_be_applied(server: Server) -> None:
    home, before = server.home, (await server.status())["generation"]
    for number in (-3, 0, True, "4", 1025):
        report = await refused(server, {"vlm": {"max_concurrent": number}})
        assert report["errors"][0]["path"] == "vlm.max_concurrent"
        assert report["errors"][0]["input"] == json.dumps(number)
        assert isinstance(report["errors"][0]["line"], int)
    report = await refused(server, {"embedding": {"dense": {"dimension": 16}}, "vlm": {"max_concurrent": 7}})
    assert report["errors"][0]["path"] == "embedding.dense.dimension"
    assert "reindex" in report["errors"][0]["hint"]
    home.write_text('{"vlm": {"max_concurrent": 9,}}')
    answer = await server.admin("POST", "config/reload")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["line"] == 1

    home.write({"storage": {"workspace": str(home.folder / "elsewhere")}, "server": {"port": 1}} | UNWATCHED)
    report = (await server.admin("POST", "config/reload")).raise_for_status().json()
    assert report["outcome"] == "unchanged"
    assert {entry["path"] for entry in report["pending_restart"]} == {"storage.workspace", "server.port"}
    assert not (home.folder / "elsewhere").exists()
    assert (await server.status())["generation"] == before
    names = await server.add_documents(1, "after")
    await server.finished(names, 30)


async def refused(server: Server, over: dict[str, Any]) -> dict[str, Any]:
    """Write a file that must be refused, reload and return the report."""
    generation = (await server.status())["generation"]
    server.home.write(over | UNWATCHED)
    answer = await server.admin("POST", "config/reload")
    assert answer.status_code == 422, answer.text
    report = answer.json()
    assert (report["outcome"], report["generation"]) == ("rejected", generation)
    return report


async def test_a_new_key_is_used_by_the_next_call(model: Any, server: Server) -> None:
    await server.finished(await server.add_documents(1, "old"), 30)
    assert set(model.gauges.keys) == {"key-1"}
    server.home.write({"vlm": {"api_key": "key-2", "model": "another"}} | UNWATCHED)
    report = (await server.admin("POST", "config/reload")).json()
    assert {(change["path"], change["effect"]) for change in report["changes"]} >= {("vlm.api_key", "live")}
    assert "key-2" not in json.dumps(report)
    assert "key-2" not in (await server.admin("GET", "config")).text
    model.reset()
    await server.finished(await server.add_documents(1, "new"), 30)
    assert set(model.gauges.keys) == {"key-2"}
    assert "key-2" not in server.log


async def test_root_authentication_of_openviking_guards_the_routes(server: Server) -> None:
    for path in ("/admin/config/reload", "/api/v1/admin/config/reload"):
        assert (await server.http.post(path)).status_code == 401
        assert (await server.http.post(path, headers=server.user)).status_code == 403
        answer = await server.http.post(path, headers=server.root, json={"dry_run": True})
        assert answer.status_code == 200
        assert answer.json()["result"]["outcome"] == "valid"
    shown = await server.http.get("/api/v1/admin/config", headers=server.root)
    assert shown.json()["result"]["settings"]["vlm.max_concurrent"] == 4
    assert shown.headers["ETag"]
    assert "unknown config field" not in server.log
