"""What OpenViking should have and has not is found, with the reason, and made again by its own reindex."""

import json
import random
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest
from ov_process import Home, Server, running, start, wait_until

from tests.counts import counted

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]
DOCUMENTS = counted("DOCUMENTS", 60, least=10)
HIT, KILLS = DOCUMENTS // 5, counted("OPENVIKING_KILLS", 2)
PLACEHOLDER = "# it\n\n[Directory overview is not generated]\n"


def folder(home: Home, name: str) -> Path:
    """Return the folder of a document in the workspace."""
    return home.folder / "data/viking/acme/resources" / name


def damage(home: Home, names: list[str], chance: random.Random) -> dict[str, str]:
    """Delete, empty or replace by the placeholder an L0 or an L1 of each; return the URIs with the reasons."""
    expected: dict[str, str] = {}
    for number, name in enumerate(names):
        sidecar = chance.choice((".abstract.md", ".overview.md"))
        path = folder(home, name) / sidecar
        reason = (f"no {sidecar[1:-3]}", "empty", "placeholder")[number % 3]
        path.unlink() if number % 3 == 0 else path.write_text("" if number % 3 == 1 else PLACEHOLDER)
        expected[f"viking://resources/{name}"] = reason
    return expected


def found(report: Mapping[str, Any]) -> dict[str, str]:
    """Return what a report says is missing, and why."""
    return {each["id"]: each["reason"] for each in report["missing"]}


async def reindex(server: Server, *options: str) -> tuple[dict[str, Any], int]:
    """Run the verb; return its document and its exit code."""
    command = [sys.executable, "-m", "hotreload", "reindex", "--json", "--socket", str(server.home.socket), *options]
    done = await anyio.run_process(command, check=False)
    assert done.returncode in (0, 1), done.stderr.decode()
    return json.loads(done.stdout), done.returncode


async def idle(server: Server) -> bool:
    """Say whether no queue holds anything."""
    return not any(pending or busy for pending, busy in (await server.queues()).values())


async def test_names_and_restores_exactly_what_is_missing_while_an_import_goes_on(model: Any, home: Home) -> None:
    home.write({"vlm": {"max_concurrent": 6}})
    async with running(home, home.ours) as server:
        names = await server.add_documents(DOCUMENTS)
        await server.finished(names, 120)
        await wait_until(lambda: idle(server), 60, "the first import is done")
        model.set(hang=True)
        others = await server.add_documents(DOCUMENTS, "later")
        await wait_until(lambda: model.gauges.running == 6, 20, "six hung calls")
        expected = damage(home, random.Random(5).sample(names, HIT), random.Random(6))
        calls = model.gauges.calls
        looked, _ = await reindex(server, "--dry-run")
        assert found(looked) == expected
        assert looked["queued"] == 0
        assert model.gauges.calls == calls
        print(f"scanned {looked['scanned']} in {looked['elapsed_s'] * 1000:.0f} ms beside {len(others)} imports")
        model.set(hang=False, latency_s=0.1)
        one, *_ = expected
        part, code = await reindex(server, one, "--wait")
        assert (found(part), part["queued"], code) == ({one: expected[one]}, 1, 0)
        rest, code = await reindex(server, "--wait")
        assert found(rest) == {uri: reason for uri, reason in expected.items() if uri != one}, rest
        assert (rest["made"]["failed"], code) == ([], 0)
        model.set(latency_s=0)
        await server.finished(names + others, 120)
        await wait_until(lambda: idle(server), 60, "all is done")
        calls = model.gauges.calls
        again, _ = await reindex(server)
        assert (again["missing"], again["queued"], again["in_hand"]) == ([], 0, 0)
        assert model.gauges.calls == calls
        print(f"scanned {again['scanned']} in {again['elapsed_s'] * 1000:.0f} ms on an idle server")


async def test_one_call_for_each_folder_in_memories_and_skills_too(model: Any, home: Home) -> None:
    async with running(home, home.ours) as server:
        skill = {"data": "---\nname: adder\ndescription: add two numbers\n---\n# adder\n\nAdd them.\n"}
        (await server.http.post("/api/v1/skills", json=skill, headers=server.user)).raise_for_status()
        fact = {"uri": "viking://user/alice/memories/facts/a.md", "content": "# a\n\nA fact.\n", "mode": "create"}
        (await server.http.post("/api/v1/content/write", json=fact, headers=server.user)).raise_for_status()
        text = "# One\n\n" + "\n\n".join(f"## S{part}\n\n" + "word " * 1200 for part in range(3))
        await server.add_document("deep", text)
        await server.finished(["deep"], 60)
        await wait_until(lambda: idle(server), 60, "all is done")
        assert found((await reindex(server))[0]) == {}
        user = home.folder / "data/viking/acme/user/alice"
        (user / "skills/adder/.abstract.md").unlink()
        (user / "memories/.overview.md").unlink()
        (folder(home, "deep") / "One/.overview.md").unlink()
        (folder(home, "deep") / "One/S1/.abstract.md").write_text("")
        expected = {
            "viking://user/alice/skills/adder": "no abstract",
            "viking://user/alice/memories": "no overview",
            "viking://resources/deep/One": "no overview",
            "viking://resources/deep/One/S1": "empty",
        }
        calls = model.gauges.calls
        report, code = await reindex(server, "--wait")
        assert (found(report), report["made"], code) == (expected, {"left": 0, "done": 4, "failed": []}, 0)
        assert model.gauges.calls - calls <= len(expected) + 1  # a memory's own text is looked at too
        assert found((await reindex(server))[0]) == {}
        damage(home, ["deep"], random.Random(1))
        model.set(fail_status=500)
        report, code = await reindex(server, "--wait")
        assert (code, [each["id"] for each in report["made"]["failed"]]) == (1, ["viking://resources/deep"])


async def test_killed_again_and_again_everything_is_there_after_the_last_start(model: Any, home: Home) -> None:
    home.write({"vlm": {"max_concurrent": 6}})
    chance = random.Random(11)
    names: list[str] = []
    for kill in range(KILLS):
        server = await start(home, home.ours)
        try:
            await server.ready()
            model.set(latency_s=0.3)
            names += await server.add_documents(20, f"kill{kill}x")
            await anyio.sleep(chance.uniform(0, 2))  # at a random instant
            server.signal(signal.SIGKILL)
            await server.ended(5)
        finally:
            await server.close()
    model.set(latency_s=0)
    forge_zombie(home)
    async with running(home, home.ours) as server:
        await server.finished(names, 120)
        await wait_until(lambda: idle(server), 60, "all is done")
        listed = await server.http.get("/api/v1/tasks", params={"limit": 200}, headers=server.user)
        tasks = listed.raise_for_status().json()["result"]
        assert [task for task in tasks if task["status"] in ("pending", "running")] == []
        forged = next(task for task in tasks if task["task_id"] == ZOMBIE)
        assert forged["status"] == "failed"
        assert "interrupted" in forged["error"]


ZOMBIE = "11111111-2222-4333-8444-555555555555"


def forge_zombie(home: Home) -> None:
    """Leave a task that says it runs, as a kill between two steps does."""
    kept = home.folder / "data/viking/acme/_system/tasks/alice"
    task = json.loads(next(iter(sorted(kept.glob("*.json")))).read_text())
    text = json.dumps({**task, "task_id": ZOMBIE, "status": "running", "stage": "processing", "result": None})
    (kept / f"{ZOMBIE}.json").write_text(text)
