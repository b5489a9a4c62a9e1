"""Settings that OpenViking keeps in objects made at its start: a reload of the running server shows in what it does."""

import signal
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ov_home import UNWATCHED
from ov_process import Server, wait_until

from hotreload.openviking.swaps import Swap
from hotreload.reload.apply import PartFailed, Ready, Transition, commit

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]


async def applied(server: Server, over: dict[str, Any]) -> dict[str, str | None]:
    """Write settings and have them applied; returns the changed paths and their owners."""
    server.home.write(over | UNWATCHED)
    report = (await server.admin("POST", "config/reload")).raise_for_status().json()
    assert (report["outcome"], report["pending_restart"]) == ("applied", []), report
    return {change["path"]: change["owner"] for change in report["changes"]}


async def test_other_origins_may_call_and_no_longer(server: Server) -> None:
    async def allowed(origin: str) -> tuple[str | None, str | None]:
        answer = await server.http.get("/health", headers={"Origin": origin})
        shown = answer.headers.get("Access-Control-Expose-Headers")
        return answer.headers.get("Access-Control-Allow-Origin"), shown

    ours, other = "https://ours.example", "https://other.example"
    exposed = (await allowed(ours))[1]
    assert exposed
    assert await applied(server, {"server": {"cors_origins": [ours]}}) == {"server.cors_origins": "cors"}
    assert await allowed(ours) == (ours, exposed)
    assert (await allowed(other))[0] is None
    asked = {"Origin": ours, "Access-Control-Request-Method": "POST"}
    assert (await server.http.options("/api/v1/resources", headers=asked)).status_code == 200
    await applied(server, {"server": {"cors_origins": [other]}})
    assert (await server.http.options("/api/v1/resources", headers=asked)).status_code == 400
    assert (await allowed(ours))[0] is None
    assert await allowed(other) == (other, exposed)


async def test_the_level_and_format_of_the_log(server: Server) -> None:
    await server.finished(await server.add_documents(1, "quiet"), 30)
    assert "Processing semantic message" not in server.log
    owners = await applied(server, {"log": {"level": "DEBUG", "format": "<<%(levelname)s>> %(message)s"}})
    assert owners == {"log.level": "logging", "log.format": "logging"}
    await server.finished(await server.add_documents(1, "loud"), 30)
    assert "<<DEBUG>> Processing semantic message" in server.log
    await applied(server, {"log": {"level": "ERROR"}})
    await server.finished(await server.add_documents(1, "calm"), 30)
    assert [line for line in server.log.splitlines() if "calm" in line and "Processing semantic" in line] == []


async def test_the_log_goes_to_a_file_that_is_opened_again_by_sighup(server: Server) -> None:
    file = server.home.folder / "openviking.log"
    owners = await applied(server, {"log": {"level": "INFO", "output": str(file)}})
    assert owners == {"log.level": "logging", "log.output": "logging"}
    await applied(server, {"log": {"level": "INFO", "output": str(file)}, "vlm": {"max_concurrent": 5}})
    await wait_until(lambda: "reload.applied" in file.read_text(), 10, "what hotreload says is in the file")
    await server.finished(await server.add_documents(1, "filed"), 30)
    assert "HTTP request completed" in file.read_text()
    moved = file.rename(file.with_suffix(".1"))
    server.signal(signal.SIGHUP)
    await wait_until(lambda: file.exists() and "reload.unchanged" in file.read_text(), 10, "the file is made again")
    assert "reload.unchanged" not in moved.read_text()
    server.home.write({"log": {"output": "/nowhere/at/all.log"}} | UNWATCHED)
    report = (await server.admin("POST", "config/reload")).json()
    assert report["outcome"] == "rolled_back"
    assert "/nowhere/at/all.log" in report["errors"][0]["message"]
    await applied(server, {})


async def test_another_root_key_is_taken_at_once(server: Server) -> None:
    new = {"Authorization": "Bearer another-root-key-0123456789"}
    changed = {"server": {"root_api_key": "another-root-key-0123456789"}}
    assert await applied(server, changed) == {"server.root_api_key": "root key"}
    assert (await server.http.get("/api/v1/admin/accounts", headers=server.root)).status_code in (401, 403)
    (await server.http.get("/api/v1/admin/accounts", headers=new)).raise_for_status()
    (await server.http.get("/admin/status", headers=new)).raise_for_status()
    (await server.http.get("/api/v1/fs/tree?uri=viking://resources", headers=server.user)).raise_for_status()
    await applied(server, {})
    (await server.http.get("/api/v1/admin/accounts", headers=server.root)).raise_for_status()


async def test_other_prompts_are_sent(shared_model: Any, server: Server, tmp_path: Path) -> None:
    bundled = files("openviking.prompts") / "templates" / "semantic"
    (tmp_path / "semantic").mkdir()
    for each in bundled.iterdir():
        text = each.read_text().replace("template: |", "template: |\n  Spoken like a sailor.", 1)
        (tmp_path / "semantic" / each.name).write_text(text)
    owners = await applied(server, {"prompts": {"templates_dir": str(tmp_path)}})
    assert owners == {"prompts.templates_dir": "prompts"}
    shared_model.set(refused_text="Spoken like a sailor", refused_status=400)
    await server.add_documents(1, "salty")
    await wait_until(lambda: shared_model.gauges.failed > 0, 30, "a prompt of the other folder is sent")
    await applied(server, {})
    before = shared_model.gauges.failed
    await server.finished(await server.add_documents(1, "plain"), 30)
    assert shared_model.gauges.failed == before


async def test_what_the_file_system_and_the_routes_read_at_each_request(server: Server) -> None:
    changed = {
        "grep": {"engine": "fs", "switch_to_remote_threshold": 7},
        "glob": {"engine": "fs", "switch_to_remote_threshold": 8},
        "server": {"public_base_url": "https://docs.example", "upload_signed_ttl_seconds": 77},
        "parsers": {"pdf": {"max_section_size": 99}, "html": {"max_section_size": 98}},
    }
    owners = await applied(server, changed)
    assert {path.partition(".")[0]: owner for path, owner in owners.items()} == {
        "grep": "retrieval", "glob": "retrieval", "server": "server", "parsers": "parsers",
    }  # fmt: skip
    await applied(server, {})


@pytest.mark.parametrize(("parser", "suffix"), [("markdown", "md"), ("text", "txt")])
async def test_a_parser_splits_as_it_is_told(server: Server, parser: str, suffix: str) -> None:
    whole = await sections(server, f"whole-{suffix}", suffix)
    owners = await applied(server, {"parsers": {parser: {"max_section_size": 64, "max_section_chars": 400}}})
    assert set(owners.values()) == {"parsers"}
    split = await sections(server, f"split-{suffix}", suffix)
    assert split > whole
    await applied(server, {})
    assert await sections(server, f"again-{suffix}", suffix) == whole


async def sections(server: Server, name: str, suffix: str) -> int:
    """Import a document of some length and return how many files it became."""
    paragraphs = [f"Paragraph {number} of it. " + "It goes on for some words more. " * 8 for number in range(12)]
    text = "\n\n".join(f"## Part {n}\n\n{text}" for n, text in enumerate(paragraphs))
    files = {"file": (f"{name}.{suffix}", text.encode())}
    sent = await server.http.post("/api/v1/resources/temp_upload", files=files, headers=server.user)
    wanted = {"temp_file_id": sent.raise_for_status().json()["result"]["temp_file_id"], "wait": False}
    wanted["to"] = f"viking://resources/{name}"
    (await server.http.post("/api/v1/resources", json=wanted, headers=server.user)).raise_for_status()
    await server.finished([name], 30)
    await wait_until(server.idle, 30, "empty queues")
    options = {"uri": f"viking://resources/{name}", "node_limit": "1000"}
    tree = await server.http.get("/api/v1/fs/tree", params=options, headers=server.user)
    return sum(not entry.get("isDir", False) for entry in tree.raise_for_status().json()["result"])


async def searched(server: Server) -> None:
    """Search, and see that something is found."""
    asked = {"query": "what does it say", "limit": 3}
    found = await server.http.post("/api/v1/search/search", json=asked, headers=server.user)
    assert found.raise_for_status().json()["result"]["resources"]


async def test_a_reranker_is_asked_once_there_is_one(shared_model: Any, server: Server) -> None:
    names = await server.add_documents(3, "ranked")
    await server.finished(names, 30)
    await wait_until(server.idle, 30, "empty queues")

    async def reranks() -> int:
        before = shared_model.gauges.reranks
        await searched(server)
        return shared_model.gauges.reranks - before

    assert await reranks() == 0
    rerank = {"provider": "openai", "model": "stub", "api_key": "k", "api_base": f"{shared_model.url}/v1/rerank"}
    owners = await applied(server, {"rerank": rerank})
    assert set(owners.values()) == {"retrieval"}
    assert await reranks() > 0
    server.home.write(UNWATCHED)
    report = (await server.admin("POST", "config/reload")).raise_for_status().json()
    assert report["outcome"] == "applied"
    assert [each["message"].partition(":")[0] for each in report["warnings"] if each["path"] == "rerank"] == [
        "was removed"
    ]
    assert await reranks() == 0


async def test_a_reranker_that_fails_is_told_and_spared(shared_model: Any, server: Server) -> None:
    await server.finished(await server.add_documents(3, "spared"), 30)
    await wait_until(server.idle, 30, "empty queues")
    rerank = {"provider": "openai", "model": "stub", "api_key": "k", "api_base": f"{shared_model.url}/v1/rerank"}

    async def told() -> str | None:
        return (await server.status())["degraded"]

    await applied(server, {"rerank": rerank})
    shared_model.set(rerank_fail_status=503)
    before = shared_model.gauges.reranks
    for _ in range(20):
        await searched(server)
    assert "rerank endpoint: 503 since" in (await told() or "")
    assert shared_model.gauges.reranks - before < 20  # only probes ask it
    shared_model.set(rerank_fail_status=401)
    await applied(server, {"rerank": {**rerank, "api_key": "another"}})  # another endpoint: asked at once
    assert await told() is None
    await searched(server)
    assert "rerank endpoint: 401 since" in (await told() or "")
    shared_model.set(rerank_fail_status=0)

    async def answers() -> bool:
        await searched(server)
        return await told() is None

    await wait_until(answers, 30, "a probe that was answered")
    await applied(server, {})


async def test_the_report_names_accounts_with_values_of_their_own(server: Server) -> None:
    own = {"vlm": {"model": "own", "credentials": [{"provider": "openai", "api_key": "key-own", "api_base": "x"}]}}
    account = "/api/v1/admin/accounts/acme/configuration"

    async def warned(over: dict[str, Any]) -> dict[str, str]:
        server.home.write(over | UNWATCHED)
        report = (await server.admin("POST", "config/reload")).raise_for_status().json()
        assert report["outcome"] == "applied"
        return {each["path"]: each["message"] for each in report["warnings"] if "API" in each["message"]}

    assert await warned({"vlm": {"model": "second", "max_retries": 1}}) == {}
    (await server.http.patch(account, json={"settings": own}, headers=server.root)).raise_for_status()
    try:
        found = await warned({"vlm": {"model": "third", "max_retries": 2}})
        assert list(found) == ["vlm.model"]
        assert found["vlm.model"].endswith("in accounts that keep it: acme")
        assert "key-own" not in str(found)
    finally:
        (await server.http.patch(account, json={"settings": {"vlm": None}}, headers=server.root)).raise_for_status()
    assert await warned({"vlm": {"model": "fourth"}}) == {}
    await applied(server, {})


async def test_a_session_is_planned_for_or_not(shared_model: Any, server: Server) -> None:
    made = await server.http.post("/api/v1/sessions", json={}, headers=server.user)
    session = made.raise_for_status().json()["result"]["session_id"]
    told = {"role": "user", "content": "I look for the text of a document."}
    await server.http.post(f"/api/v1/sessions/{session}/messages", json=told, headers=server.user)

    async def model_calls() -> int:
        before = shared_model.gauges.calls
        asked = {"query": "what does it say", "session_id": session, "limit": 3}
        found = await server.http.post("/api/v1/search/search", json=asked, headers=server.user)
        found.raise_for_status()
        return shared_model.gauges.calls - before

    assert await model_calls() > 0
    assert await applied(server, {"retrieval": {"enable_intent": False}}) == {"retrieval.enable_intent": "retrieval"}
    assert await model_calls() == 0


async def test_what_the_routes_read_at_each_request(server: Server) -> None:
    async def upload() -> str:
        sent = await server.http.post(
            "/api/v1/resources/temp_upload", files={"file": ("a.md", b"# a")}, headers=server.user
        )
        return sent.raise_for_status().json()["result"]["temp_file_id"]

    async def policy() -> Any:
        path = "/api/v1/admin/accounts/acme/users/alice/settings"
        shown = await server.http.get(path, headers=server.root)
        return shown.raise_for_status().json()["result"]["memory_policy"]["self"]["enabled"]

    assert not (await upload()).startswith("shared_")
    assert await policy() is True
    changed = {
        "temp_upload": {"default_mode": "shared"},
        "user_config_defaults": {"memory_policy": {"self": {"enabled": False}}},
    }
    owners = await applied(server, {"server": changed})
    assert set(owners.values()) == {"server"}
    assert (await upload()).startswith("shared_")
    assert await policy() is False


async def test_an_unknown_key_is_named_and_changes_nothing(server: Server) -> None:
    generation = (await server.status())["generation"]
    over: dict[str, Any] = {
        "$schema": "x",
        "vlm": {"max_concurent": 99},
        "server": {"prot": 1},
        "no_such_section": {"a": 1},
        "dotted.key": 5,
        "parsers": {"markdown": {"max_sectoin_size": 3}},
    }
    server.home.write(over | UNWATCHED)
    report = (await server.admin("POST", "config/reload")).raise_for_status().json()
    assert (report["outcome"], report["changes"], report["pending_restart"]) == ("unchanged", [], [])
    said = {warning["path"]: warning["message"] for warning in report["warnings"] if "unknown" in warning["message"]}
    assert set(said) == {
        "vlm.max_concurent",
        "server.prot",
        "no_such_section",
        "dotted.key",
        "parsers.markdown.max_sectoin_size",
    }
    assert said["vlm.max_concurent"] == "unknown key; did you mean vlm.max_concurrent?"
    assert (await server.status())["generation"] == generation


class Fails:
    """A part whose commit raises."""

    def commit(self) -> None:
        raise RuntimeError("no")

    def revert(self) -> None: ...

    async def undo(self) -> None: ...

    async def retire(self) -> None: ...


async def test_a_neighbour_that_fails_takes_all_back() -> None:
    owner = SimpleNamespace(one=1, two=2)
    swap = Swap("swap", ["server"], lambda new: [(owner, "one", new), (owner, "two", new), (owner, "one", 7)])
    prepared = await swap.prepare(Transition(old=None, new=9, paths=["server.x"], generation=2))
    assert prepared is not None
    assert vars(owner) == {"one": 1, "two": 2}
    with pytest.raises(PartFailed):
        await commit([Ready("swap", prepared), Ready("fails", Fails())], lambda: None)
    assert vars(owner) == {"one": 1, "two": 2}
