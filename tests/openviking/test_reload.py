"""Reloading stock OpenViking: each trigger resizes the workers of an import; what is refused changes nothing."""

import json
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from ov_home import UNWATCHED, Home
from ov_process import Server, running, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]
DOCUMENTS = 60


def limit(number: int) -> dict[str, Any]:
    """Return the setting of a limit for model calls."""
    return {"vlm": {"max_concurrent": number}}


async def by_signal(server: Server, number: int) -> None:
    server.home.write(limit(number) | UNWATCHED)
    server.signal(signal.SIGHUP)


async def by_edit_in_place(server: Server, number: int) -> None:
    server.home.write(limit(number))


async def by_rename(server: Server, number: int) -> None:
    server.home.write(limit(number), atomic=True)


async def by_post(server: Server, number: int) -> None:
    server.home.write(limit(number) | UNWATCHED)
    answer = await server.http.post("/admin/config/reload", headers=server.root)
    assert answer.status_code == 200
    assert answer.json()["result"]["outcome"] == "applied"


Change = Callable[[Server, int], Awaitable[None]]


async def peak_is_exactly(model: Any, number: int) -> None:
    """Watch a converged limit: the endpoint sees as many calls at once as it allows, and never one more."""
    await wait_until(lambda: model.gauges.running <= number, 10, f"converged to {number}")
    model.reset()
    await wait_until(lambda: model.gauges.peak >= number, 20, f"a peak of {number}")
    begun = model.gauges.calls
    await wait_until(lambda: model.gauges.calls >= begun + number, 20, "another round of calls")
    assert model.gauges.peak == number


@pytest.mark.parametrize(
    ("grow", "shrink", "kinds", "watched"),
    [
        pytest.param(by_signal, by_post, ("signal", "http"), UNWATCHED, id="asked"),
        pytest.param(by_edit_in_place, by_rename, ("file", "file"), {}, id="saved"),
    ],
)
async def test_each_way_resizes_a_running_import(
    shared_model: Any,
    server: Server,
    grow: Change,
    shrink: Change,
    kinds: tuple[str, str],
    watched: dict[str, Any],
    request: pytest.FixtureRequest,
) -> None:
    server.home.write(limit(4) | watched)  # with the watch off nothing but what is tried can have done it
    (await server.admin("POST", "config/reload")).raise_for_status()
    cut = shared_model.gauges.cut
    shared_model.set(latency_s=1.0)  # a slow machine's server must be able to begin twelve calls in that time
    names = await server.add_documents(DOCUMENTS, request.node.callspec.id)
    await peak_is_exactly(shared_model, 4)
    for number, change, kind in zip((12, 2), (grow, shrink), kinds, strict=True):
        before = await server.status()
        await change(server, number)
        reload = (await server.generation(before["generation"] + 1))["last_reload"]
        assert (reload["outcome"], reload["trigger"]["kind"]) == ("applied", kind)
        assert [(each["path"], each["new"]) for each in reload["changes"]] == [("vlm.max_concurrent", number)]
        await peak_is_exactly(shared_model, number)
    assert await server.unfinished(names)
    shared_model.set(latency_s=0.0)
    await server.finished(names, 120)
    assert shared_model.gauges.cut == cut


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


async def test_verdicts_of_what_cannot_be_applied(server: Server) -> None:
    home = server.home
    for number in (-3, 0, True, "4", 1025):
        settings, report = await refused(server, {"vlm": {"max_concurrent": number}})
        [error] = report["errors"]
        assert (error["path"], error["input"]) == ("vlm.max_concurrent", json.dumps(number))
        assert place(error) == place_of(settings, "vlm", "max_concurrent")
    settings, report = await refused(server, {"embedding": {"dense": {"dimension": 16}}, "vlm": {"max_concurrent": 7}})
    [error] = report["errors"]
    assert error["path"] == "embedding.dense.dimension"
    assert "reindex" in error["hint"]
    assert place(error) == place_of(settings, "dense", "dimension")
    before = await in_force(server)
    home.write_text('{\n  "vlm": {\n    "max_concurrent": 9,\n    "model" "stub"\n  }\n}\n')
    answer = await server.admin("POST", "config/reload")
    assert answer.status_code == 422
    assert [place(error) for error in answer.json()["errors"]] == [(4, 13)]
    assert await in_force(server) == before

    home.write({"storage": {"workspace": str(home.folder / "elsewhere")}, "server": {"port": 1}} | UNWATCHED)
    report = (await server.admin("POST", "config/reload")).raise_for_status().json()
    assert report["outcome"] == "unchanged"
    assert {entry["path"] for entry in report["pending_restart"]} == {"storage.workspace", "server.port"}
    assert not (home.folder / "elsewhere").exists()
    assert await in_force(server) == before
    names = await server.add_documents(1, "after")
    await server.finished(names, 30)


def place(error: dict[str, Any]) -> tuple[int, int]:
    """Return the line and column of a problem."""
    return error["line"], error["column"]


def place_of(settings: str, section: str, key: str) -> tuple[int, int]:
    """Return where the value of a key below a section stands in a file."""
    value = settings.index(f'"{key}": ', settings.index(f'"{section}": ')) + len(f'"{key}": ')
    before = settings[:value]
    return before.count("\n") + 1, value - before.rfind("\n")


async def in_force(server: Server) -> tuple[dict[str, Any], str, dict[str, int]]:
    """Return what runs: the settings with their generation, and the limit of each pool."""
    config = (await server.admin("GET", "config")).raise_for_status().json()
    document = await server.status()
    limits = {pool["name"]: pool["limit"] for pool in document["pools"]}
    assert limits
    shown = {key: config[key] for key in ("settings", "generation", "provenance")}
    return shown, document["fingerprint"], limits


async def refused(server: Server, over: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Write a file that must be refused and change nothing; returns its text and the report."""
    before = await in_force(server)
    server.home.write(over | UNWATCHED)
    answer = await server.admin("POST", "config/reload")
    assert answer.status_code == 422, answer.text
    report = answer.json()
    assert (report["outcome"], report["generation"]) == ("rejected", before[0]["generation"])
    assert await in_force(server) == before
    return server.home.conf.read_text(), report


async def test_a_new_key_is_used_by_the_next_call(shared_model: Any, server: Server) -> None:
    await server.finished(await server.add_documents(1, "old"), 30)
    assert set(shared_model.gauges.keys) == {"key-1"}
    server.home.write({"vlm": {"api_key": "key-2", "model": "another"}} | UNWATCHED)
    report = (await server.admin("POST", "config/reload")).json()
    assert {(change["path"], change["effect"]) for change in report["changes"]} >= {("vlm.api_key", "live")}
    assert "key-2" not in json.dumps(report)
    assert "key-2" not in (await server.admin("GET", "config")).text
    shared_model.reset()
    await server.finished(await server.add_documents(1, "new"), 30)
    assert set(shared_model.gauges.keys) == {"key-2"}
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
