"""The verbs of the command line with stock OpenViking as their target, running or not."""

import json
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from ov_forked import Forked
from ov_home import ROOT_KEY, UNWATCHED, Home
from ov_process import Server, running, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]


async def hotreload(home: Home, *arguments: str) -> tuple[int, str, str]:
    """Run the command; returns exit code, standard output, standard error."""
    assert home.warm is not None
    out, errors = home.folder / "out", home.folder / "errors"
    for each in (out, errors):
        each.write_text("")
    command = [sys.executable, "-m", "hotreload", *arguments]
    files = {"cwd": str(home.folder), "log": str(out), "errors": str(errors)}
    process = await Forked.start(home.warm, {"command": command, "env": home.environment(), **files})
    with anyio.fail_after(60):
        code = await process.wait()
    await process.aclose()
    return code, out.read_text(), errors.read_text()


@pytest.fixture
def idle_home(tmp_path: Path, warm: Path) -> Home:
    """A home whose server does not run."""
    home = Home(tmp_path, "http://127.0.0.1:9", warm)
    home.write()
    return home


async def test_check_tells_a_bad_file_with_its_place(idle_home: Home) -> None:
    idle_home.write({"vlm": {"max_concurrent": -3}})
    code, out, err = await hotreload(idle_home, "check", "--openviking", "--json")
    assert code == 1, err
    [error] = json.loads(out)["errors"]
    assert (error["path"], error["input"]) == ("vlm.max_concurrent", "-3")
    assert error["line"] > 1
    assert not (idle_home.folder / "data").exists()


async def test_schema_is_one_document_with_what_a_reload_does(idle_home: Home) -> None:
    code, out, err = await hotreload(idle_home, "schema", "--openviking")
    assert code == 0, err
    sections = json.loads(out)["properties"]
    assert sections["vlm"]["properties"]["max_concurrent"]["x-reload"] == "live"
    assert sections["vlm"]["properties"]["api_key"]["x-secret"] is True
    assert sections["server"]["properties"]["port"]["x-reload"] == "restart"
    assert "drain_deadline_s" in sections["hotreload"]["properties"]


@pytest.mark.parametrize("verb", ["check", "schema"])
async def test_a_target_is_one_thing(idle_home: Home, verb: str) -> None:
    code, _, err = await hotreload(idle_home, verb, "--openviking", "some.module:service")
    assert code == 2
    assert "--openviking" in err


async def test_status_metrics_and_a_followed_drain(model: Any, home: Home) -> None:
    home.write({"vlm": {"max_concurrent": 3}, "hotreload": {"drain_deadline_s": 4}})
    async with running(home, home.ours, measured=True) as server:
        model.set(hang=True)
        await server.add_documents(6)
        await wait_until(lambda: model.gauges.hanging == 3, 20, "three hung calls")
        await wait_until(lambda: shows_the_work(server), 20, "status shows the work")
        await metrics_show_the_work(server)

        home.write({"vlm": {"max_concurrent": 3}, "server": {"port": 1}, "hotreload": {"drain_deadline_s": 4}})
        at = ("--socket", str(home.socket))
        code, out, err = await hotreload(home, "reload", "--fail-on-pending-restart", *at)
        assert code == 6, err
        assert "server.port" in out

        code, out, err = await hotreload(home, "drain", "--json", *at)
        assert code == 0, err
        report = json.loads(out)
        assert (report["phase"], report["lost"], report["abandoned"]) == ("stopped", 0, [])
        assert [job for job in report["requeued"] if job.startswith("Semantic/")]
        assert await server.ended(5) == 0


async def shows_the_work(server: Server) -> bool:
    """Say whether the status document counts the calls at their limit and the messages by queue."""
    document = await server.status()
    pools = {pool["name"]: pool for pool in document["pools"]}
    queues = {queue["name"]: queue for queue in document["queues"]}
    semantic = pools["workers.semantic"]
    assert semantic["limit"] == 3
    assert "TOTAL" not in queues
    return semantic["running"] == 3 and queues["AddResource"]["running"] == 6 and semantic["waiting"] > 0


async def metrics_show_the_work(server: Server) -> None:
    """Read the metrics on the control socket; OpenViking's port has what OpenViking puts there."""
    text = (await server.control("GET", "/metrics")).raise_for_status().text
    assert 'hotreload_pool_limit{pool="workers.semantic"} 3.0' in text
    assert 'hotreload_queue_jobs{queue="AddResource",state="running"} 6.0' in text
    elsewhere = await server.http.get("/metrics")
    assert elsewhere.status_code != 200 or "hotreload_" not in elsewhere.text


async def test_the_verbs_over_openvikings_own_port(model: Any, home: Home) -> None:
    home.write({"vlm": {"max_concurrent": 3}} | UNWATCHED)
    (home.folder / "key").write_text(ROOT_KEY)
    at = ("--url", f"http://127.0.0.1:{home.port}", "--key-file", str(home.folder / "key"), "--json")
    async with running(home, home.ours) as server:
        code, out, err = await hotreload(home, "status", *at)
        assert code == 0, err
        status = json.loads(out)
        assert (status["name"], status["pid"], status["generation"]) == ("openviking", server.process.pid, 1)

        home.write({"vlm": {"max_concurrent": 5}} | UNWATCHED)
        for arguments, outcome in ((["--dry-run"], "valid"), ([], "applied"), ([], "unchanged")):
            code, out, err = await hotreload(home, "reload", *arguments, *at)
            report = json.loads(out)
            assert (code, report["outcome"], report["trigger"]["kind"]) == (0, outcome, "http"), err
        code, out, err = await hotreload(home, "check", "--against-running", *at)
        assert (code, json.loads(out)["outcome"]) == (0, "valid"), err
        home.write({"vlm": {"max_concurrent": -5}} | UNWATCHED)
        code, out, err = await hotreload(home, "reload", *at)
        assert (code, json.loads(out)["errors"][0]["path"]) == (1, "vlm.max_concurrent"), err
        home.write({"vlm": {"max_concurrent": 5}} | UNWATCHED)

        code, out, err = await hotreload(home, "reindex", "--dry-run", *at)
        assert (code, json.loads(out)["missing"]) == (0, []), err
        code, out, err = await hotreload(home, "jobs", "list", *at)
        assert (code, json.loads(out)) == (0, {"jobs": []}), err
        for refused in (["add", "Semantic", "{}"], ["cancel", "1"]):
            code, out, err = await hotreload(home, "jobs", *refused, *at)
            assert (code, json.loads(out)["exit_code"]) == (4, 4)
            assert "not offered" in err
        (home.folder / "wrong").write_text("another-key-than-that-one")
        code, out, err = await hotreload(home, "status", "--url", at[1], "--key-file", str(home.folder / "wrong"))
        assert code == 4, err
        assert "401" in err
        await routes_answer_in_the_envelope(server)

        model.set(hang=True)
        await server.add_documents(4)
        await wait_until(lambda: model.gauges.hanging == 4, 20, "hung calls")
        code, out, err = await hotreload(home, "drain", "--deadline", "3", *at)
        assert code == 0, err
        report = json.loads(out)
        assert (report["phase"], report["deadline_s"], report["lost"]) == ("stopped", 3.0, 0)
        assert len([job for job in report["requeued"] if job.startswith("Semantic/")]) == 4
        assert await server.ended(5) == 0


async def routes_answer_in_the_envelope(server: Server) -> None:
    """Read what no verb does, on the short and on the canonical path; refuse with the status that is meant."""
    for path in ("/admin/config", "/api/v1/admin/config"):
        history = await server.http.get(f"{path}/history", headers=server.root)
        outcomes = [report["outcome"] for report in history.json()["result"]]
        assert outcomes[-3:] == ["rejected", "unchanged", "applied"]
        schema = await server.http.get(f"{path}/schema", headers=server.root)
        assert schema.json()["result"]["properties"]["vlm"]["properties"]["max_concurrent"]["x-reload"] == "live"
        assert (await server.http.get(f"{path}/history", headers=server.user)).status_code == 403
        reload = f"{path}/reload"
        answer = await server.http.post(reload, headers=server.root | {"If-Match": '"somebody-3"'})
        assert (answer.status_code, answer.json()["error"]["code"]) == (412, "FAILED_PRECONDITION")
        assert answer.json()["result"]["id"] == answer.headers["X-Reload-Id"]
        answer = await server.http.post(reload, headers=server.root, content=b"dry_run=1")
        assert (answer.status_code, answer.json()["status"]) == (415, "error")
        answer = await server.http.post(reload, headers=server.root, json={"dry_run": False, "now": True})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "INVALID_ARGUMENT")
    answer = await server.http.post("/admin/drain", headers=server.root, json={"deadline_s": 0})
    assert answer.status_code == 400
    assert (await server.http.get("/admin/anything", headers=server.root)).status_code == 404
    assert (await server.http.get("/readyz")).json()["ready"] is True
