"""What OpenViking should have and has not is found, with the reason, and made again by its own reindex."""

import json
import os
import random
import signal
import sys
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import anyio
import pytest
from ov_process import Home, Server, running, start, wait_until

from tests.counts import counted, patience_s

DOCUMENTS = counted("DOCUMENTS", 30, least=10)
HIT, KILLS, EACH = DOCUMENTS // 10, counted("OPENVIKING_KILLS", 2), 12
FINISH_S = patience_s(120, max(DOCUMENTS, EACH * KILLS), 30)
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(5 * FINISH_S)]
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


def rate(report: Mapping[str, Any], when: str) -> str:
    """Return what a search took, in words."""
    scanned, took_s = report["scanned"], report["elapsed_s"]
    return f"{scanned} entries in {took_s * 1000:.0f} ms ({scanned / took_s:.0f}/s) {when}"


async def verb(server: Server, *options: str) -> CompletedProcess[bytes]:
    """Run the verb."""
    command = [sys.executable, "-m", "hotreload", "reindex", "--socket", str(server.home.socket), *options]
    return await anyio.run_process(command, check=False)


async def reindex(server: Server, *options: str) -> tuple[dict[str, Any], int]:
    """Run the verb; return its document and its exit code."""
    done = await verb(server, "--json", *options)
    assert done.returncode in (0, 1), done.stderr.decode()
    return json.loads(done.stdout), done.returncode


async def idle(server: Server) -> bool:
    """Say whether no queue holds anything."""
    return not any(pending or busy for pending, busy in (await server.queues()).values())


async def test_names_and_restores_exactly_what_is_missing_while_an_import_goes_on(
    model: Any, home: Home, figures: Callable[[str], None]
) -> None:
    home.write({"vlm": {"max_concurrent": 6}})
    async with running(home, home.ours) as server:
        names = await server.add_documents(DOCUMENTS)
        await server.finished(names, FINISH_S)
        await wait_until(lambda: idle(server), FINISH_S, "the first import is done")
        model.set(hang=True)
        others = await server.add_documents(DOCUMENTS, "later")
        await wait_until(lambda: model.gauges.running == 6, 20, "six hung calls")
        expected = damage(home, random.Random(5).sample(names, HIT), random.Random(6))
        calls = model.gauges.calls
        looked, _ = await reindex(server, "--dry-run")
        assert found(looked) == expected
        assert looked["queued"] == 0
        assert model.gauges.calls == calls
        figures(rate(looked, f"beside {len(others)} imports, {len(expected)} of {len(names)} damaged and named"))
        model.set(hang=False, latency_s=0.1)
        one, *_ = expected
        part, code = await reindex(server, one, "--wait")
        assert (found(part), part["queued"], code) == ({one: expected[one]}, 1, 0)
        rest, code = await reindex(server, "--wait")
        assert found(rest) == {uri: reason for uri, reason in expected.items() if uri != one}, rest
        assert (rest["made"]["failed"], code) == ([], 0)
        model.set(latency_s=0)
        await server.finished(names + others, FINISH_S)
        await wait_until(lambda: idle(server), FINISH_S, "all is done")
        calls = model.gauges.calls
        again, _ = await reindex(server)
        assert (again["missing"], again["queued"], again["already_queued"]) == ([], 0, 0)
        assert model.gauges.calls == calls
        figures(rate(again, "on an idle server, none missing"))


async def test_one_call_for_each_folder_in_memories_and_skills_too(model: Any, home: Home) -> None:
    async with running(home, home.ours) as server:
        skill = {"data": "---\nname: adder\ndescription: add two numbers\n---\n# adder\n\nAdd them.\n"}
        (await server.http.post("/api/v1/skills", json=skill, headers=server.user)).raise_for_status()
        fact = {"uri": "viking://user/alice/memories/facts/a.md", "content": "# a\n\nA fact.\n", "mode": "create"}
        (await server.http.post("/api/v1/content/write", json=fact, headers=server.user)).raise_for_status()
        text = "# One\n\n" + "\n\n".join(f"## S{part}\n\n" + "word " * 1200 for part in range(3))
        await server.add_document("deep", text)
        await server.finished(["deep"], 60)
        await wait_until(lambda: idle(server), FINISH_S, "all is done")
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
        model.set(fail_status=400)  # a refusal: what fails at the endpoint itself is held
        report, code = await reindex(server, "--wait")
        assert (code, [each["id"] for each in report["made"]["failed"]]) == (1, ["viking://resources/deep"])
        await server.add_document("unlucky")
        await wait_until(lambda: idle(server), 60, "the import has failed as it could")
        model.set(fail_status=0)
        left = {"viking://resources/deep", "viking://resources/unlucky"}  # placeholders, and nothing of the new file
        report, code = await reindex(server, "--wait")
        assert (left <= found(report).keys(), report["made"]["failed"], code) == (True, [], 0), report
        assert found((await reindex(server))[0]) == {}


async def test_killed_again_and_again_everything_is_there_after_the_last_start(
    model: Any, home: Home, figures: Callable[[str], None]
) -> None:
    home.write({"vlm": {"max_concurrent": 6}})
    chance = random.Random(11)
    names: list[str] = []
    for kill in range(KILLS):
        server = await start(home, home.ours, measured=False)
        try:
            await server.ready()
            model.set(latency_s=0.3)
            names += await server.add_documents(EACH, f"kill{kill}x")
            await anyio.sleep(chance.uniform(0, 2))  # at a random instant
            server.signal(signal.SIGKILL)
            await server.ended(5)
        finally:
            await server.close()
    model.set(latency_s=0)
    async with running(home, home.ours) as server:
        await server.finished(names, FINISH_S)
        await wait_until(lambda: idle(server), FINISH_S, "all is done")
        await wait_until(lambda: not unended(home), 20, "no task is left that nobody works on")
        server.signal(signal.SIGKILL)
        await server.ended(5)
    hit, *_ = damage(home, names[:1], chance)
    (folder(home, names[0]) / ".overview.md").unlink(missing_ok=True)
    forged = {
        forge(home, "alice", "add_resource", "running"),
        forge(home, "alice", "add_resource", "cancelling"),
        forge(home, "default", "admin_reindex", "pending", hit),  # killed before its message was queued
    }
    assert unended(home) == forged
    async with running(home, home.ours) as server:
        await server.finished(names, FINISH_S)
        await wait_until(lambda: idle(server), FINISH_S, "all is done")
        assert unended(home) == set()
        found, *_ = (await server.status())["recovery"]
        assert (found["zombies"], found["refused"], found["error"]) == (3, 0, None)
        ended = [task for task in tasks(home) if task["task_id"] in forged]
        assert {task["status"] for task in ended} <= {"failed", "cancelled"}
        assert all("interrupted" in task["error"] for task in ended if task["status"] == "failed")
        listed = await every_task(server)
        assert {task["task_id"] for task in ended if task["user_id"] == "alice"} <= {task["task_id"] for task in listed}
        assert {task["status"] for task in listed}.isdisjoint(ACTIVE)
        figures(f"{KILLS} kill -9 at random instants of imports: {len(names)} documents whole, no zombie task")


ACTIVE = {"pending", "running", "cancelling"}


def tasks(home: Home) -> list[dict[str, Any]]:
    """Return every task of every user of every account as OpenViking keeps it."""
    kept = sorted((home.folder / "data/viking").glob("*/_system/tasks/*/*.json"))
    return [json.loads(path.read_text()) for path in kept]


def unended(home: Home) -> set[str]:
    """Return the ids of the tasks that say they go on."""
    return {task["task_id"] for task in tasks(home) if task["status"] in ACTIVE}


async def every_task(server: Server) -> list[dict[str, Any]]:
    """Return the tasks of the user as the server lists them, page by page."""
    found: list[dict[str, Any]] = []
    options: dict[str, Any] = {"limit": 50, "pagination": "cursor"}
    while True:
        answer = await server.http.get("/api/v1/tasks", params=options, headers=server.user)
        page = answer.raise_for_status().json()["result"]
        found += page["items"]
        if page["next_cursor"] is None:
            return found
        options["cursor"] = page["next_cursor"]


def forge(home: Home, user: str, kind: str, status: str, uri: str | None = None) -> str:
    """Leave a task that says it goes on, as a kill between two steps does; return its id."""
    kept = home.folder / "data/viking/acme/_system/tasks"
    task = json.loads(next(iter(sorted((kept / "alice").glob("*.json")))).read_text())
    forged = {"task_id": str(uuid.uuid4()), "task_type": kind, "status": status, "user_id": user, "result": None}
    (kept / user).mkdir(exist_ok=True)
    text = json.dumps({**task, **forged, "resource_id": uri or task["resource_id"], "error": None})
    (kept / user / f"{forged['task_id']}.json").write_text(text)
    return str(forged["task_id"])


async def test_accounts_modes_and_the_port(model: Any, home: Home) -> None:
    home.write({"hotreload": {"recovery": "off"}})
    async with running(home, home.ours) as server:
        await server.add_documents(3)
        await server.finished([f"doc{number}" for number in range(3)], 60)
        acme, home.user_key = home.user_key, await another_account(server)
        await server.add_document("doc0")
        await server.finished(["doc0"], 60)
        home.user_key = acme
        await wait_until(lambda: idle(server), FINISH_S, "all is done")
        assert (await server.status())["recovery"] == []
        expected = damage(home, ["doc1"], random.Random(3))
        (home.folder / "data/viking/other/resources/doc0/.overview.md").unlink()
        others = {"viking://resources/doc0": "no overview"}
        assert found((await reindex(server, "--dry-run", "--account", "other"))[0]) == others
        assert found((await reindex(server, "--dry-run", "--account", "acme"))[0]) == expected
        assert found((await reindex(server, "--dry-run"))[0]) == expected | others
        calls = model.gauges.calls
        over = await server.http.post("/admin/reindex", json={"dry_run": True}, headers=server.root)
        assert (over.status_code, over.json()["status"]) == (200, "ok")
        assert found(over.json()["result"]) == expected | others
        assert (await server.http.post("/admin/reindex", headers=server.user)).status_code == 403
        for asked in ({"uri": "viking://resources/gone"}, {"account": "nobody"}):
            assert (await server.http.post("/admin/reindex", json=asked, headers=server.root)).status_code == 404
        done = await verb(server, "viking://resources/gone", "--wait")
        assert (done.returncode, done.stderr.decode().strip()) == (
            1, "hotreload: refused (404): no such folder: viking://resources/gone",
        )  # fmt: skip
        slash, _ = await reindex(server, "viking://resources/doc1/", "--dry-run")
        assert found(slash) == expected
        assert model.gauges.calls == calls
        before = await known(server)
        home.write({"hotreload": {"recovery": "report"}})
        looked = await wait_until(lambda: since(server, before), 20, "a report after the change")
        assert (looked["dry_run"], looked["missing"], looked["queued"]) == (True, 2, 0)
        assert model.gauges.calls == calls
        before = await known(server)
        home.write({"hotreload": {"recovery": "repair"}})
        looked = await wait_until(lambda: since(server, before), 20, "a repair after the change")
        assert (looked["dry_run"], looked["queued"]) == (False, 2)
        await wait_until(lambda: whole(server), 60, "all is made")
        before = await known(server)
        home.write({"hotreload": {"recovery": "off"}})
        await server.generation(4)
        assert await known(server) == before


async def whole(server: Server) -> bool:
    """Say whether nothing is missing and nothing in hand."""
    looked, _ = await reindex(server, "--dry-run")
    return (looked["missing"], looked["already_queued"]) == ([], 0)


async def another_account(server: Server) -> str:
    """Make the account `other`; return the key of its user."""
    body = {"account_id": "other", "admin_user_id": "bob"}
    made = await server.http.post("/api/v1/admin/accounts", json=body, headers=server.root)
    return str(made.raise_for_status().json()["result"]["user_key"])


async def known(server: Server) -> set[str]:
    """Return the ids of the searches so far."""
    return {search["id"] for search in (await server.status())["recovery"]}


async def since(server: Server, before: set[str]) -> dict[str, Any] | None:
    """Return the search that is not among these, once it has ended."""
    every = (await server.status())["recovery"]
    return next((search for search in every if search["id"] not in before and search["ended"]), None)


async def test_damage_of_a_large_tree_is_passed_over_and_the_rest_is_found(
    home: Home, figures: Callable[[str], None]
) -> None:
    """A tree that another hand put there: thousands of folders, some of them such as no import makes."""
    home.write({"hotreload": {"recovery": "off"}})
    async with running(home, home.ours) as server:
        await server.add_document("one")
        await server.finished(["one"], 60)
        await wait_until(lambda: idle(server), FINISH_S, "all is done")
        resources = home.folder / "data/viking/acme/resources"
        for number in range(FOLDERS):
            place = resources / f"many{number // 100}/n{number}"
            place.mkdir(parents=True)
            for name in ("n.md", *SIDECARS):
                (place / name).write_text(f"The text of {number}.")
        for number in range(0, FOLDERS, 100):
            for name in ("n.md", *SIDECARS):
                (resources / f"many{number // 100}/{name}").write_text("The text above.")
        places = [resources / f"many0/n{number}" for number in range(6)]
        (places[0] / ".abstract.md").write_bytes(b"\xff\xfe\0 no text")
        (places[1] / ".overview.md").unlink()
        (places[1] / ".overview.md").mkdir()
        (places[2] / "loop").symlink_to(resources)
        (places[3] / "round.md").symlink_to("round.md")
        (places[4] / os.fsdecode(b"\xff.md")).write_text("its name is no text")
        (places[5] / ".overview.md").unlink()
        (places[5] / ".overview.md").symlink_to(".overview.md")
        forget_peak(server)
        before = memory_mb(server, "VmRSS")
        looked, code = await reindex(server, "--dry-run")
        grown = max(0.0, memory_mb(server, "VmHWM") - before)
        assert (code, looked["error"], looked["scanned"] > 4 * FOLDERS) == (0, None, True)
        assert {uri: reason for uri, reason in found(looked).items() if reason != "no vector"} == {
            "viking://resources/many0/n0": "damaged",
            "viking://resources/many0/n5": "no overview",
        }
        assert looked["reasons"]["no vector"] >= FOLDERS - len(places)  # no import has made any of them
        (told,) = looked["passed_over"]
        assert told["id"] == "viking://resources/many0/n1"
        assert "directory" in told["reason"]
        figures(f"{rate(looked, 'on an idle server, bodies read')}; {grown:.0f} MB more at most")


def forget_peak(server: Server) -> None:
    """Have the kernel count the peak of its memory from now on."""
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")


def memory_mb(server: Server, what: str) -> float:
    """Return what the kernel says of the memory of a server."""
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{what}:")).split()[1]) / 1024


FOLDERS = counted("FOLDERS", 600, least=600)
SIDECARS = (".abstract.md", ".overview.md")


async def test_vectors_that_are_missing_are_named_and_made(model: Any, home: Home) -> None:
    home.write({"hotreload": {"hold_s": 0, "recovery": "off"}, "embedding": {"max_retries": 0}})
    async with running(home, home.ours) as server:
        whole = await server.add_documents(2, "whole")
        await server.finished(whole, 60)
        await wait_until(lambda: idle(server), FINISH_S, "the first import is done")
        model.set(embedding_fail_status=401)
        names = await server.add_documents(3, "lost")
        await server.finished(names, 60)
        await wait_until(lambda: idle(server), FINISH_S, "the import is done")
        looked, _ = await reindex(server, "--dry-run")
        missing = found(looked)
        assert {f"viking://resources/{name}" for name in names} <= missing.keys()
        assert not [uri for uri in missing if "whole" in uri]
        assert {reason for uri, reason in missing.items() if "lost" in uri} == {"no vector"}
        model.set(embedding_fail_status=0)
        calls = model.gauges.calls
        report, code = await reindex(server, "--wait")
        assert (report["made"]["failed"], code) == ([], 0), report
        await wait_until(lambda: idle(server), FINISH_S, "all is made")
        for name in names:
            asked = {"uri": f"viking://resources/{name}"}
            answer = await server.http.post("/api/v1/system/consistency", json=asked, headers=server.user)
            assert answer.raise_for_status().json()["result"]["ok"], answer.text
        assert model.gauges.calls == calls  # vectors alone cost no model call
        assert found((await reindex(server, "--dry-run"))[0]) == {}


async def test_summaries_of_files_that_were_lost_in_folders_that_look_whole_are_named_and_made(
    model: Any, home: Home
) -> None:
    home.write({"hotreload": {"recovery": "off"}})
    async with running(home, home.ours) as server:
        await server.finished(await server.add_documents(2, "whole"), 60)
        model.set(refused_text="forbidden words")  # in the text of the file; its folder's L0 and L1 are made
        names = [f"lost{number}" for number in range(3)]
        for name in names:
            await server.add_document(name, f"# {name}\n\nThese are forbidden words.\n")
        await server.finished(names, 60)
        await wait_until(lambda: idle(server), FINISH_S, "the import is done")
        lost = {f"viking://resources/{name}/{name}.md": "no file summary" for name in names}
        assert found((await reindex(server, "--dry-run"))[0]) == lost
        report, code = await reindex(server, "--wait")
        assert (found(report), {each["id"] for each in report["made"]["failed"]}, code) == (lost, set(lost), 1)
        assert found((await reindex(server, "--dry-run"))[0]) == lost
        model.set(refused_text="")
        calls = model.gauges.calls
        report, code = await reindex(server, "--wait")
        assert (found(report), report["made"], code) == (lost, {"left": 0, "done": 3, "failed": []}, 0)
        assert model.gauges.calls - calls <= 4 * len(lost)  # the file, its folder with what is in it, the one above
        assert await whole(server)


async def test_what_half_of_the_calls_lost_is_made_until_nothing_is_missing(
    model: Any, home: Home, figures: Callable[[str], None]
) -> None:
    home.write({"hotreload": {"recovery": "off", "hold_s": 0}, "embedding": {"max_retries": 0}})
    async with running(home, home.ours) as server:
        model.set(fail_status=400, embedding_fail_status=400, fail_rate=0.5)
        names = [f"half{number}" for number in range(HIT + 4)]
        for name in names:
            sections = "\n\n".join(f"## S{part}\n\n" + f"{name} says word " * 400 for part in range(3))
            await server.add_document(name, f"# {name}\n\n{sections}")
        await wait_until(lambda: idle(server), FINISH_S, "the import has failed as it could")
        model.set(fail_status=0, embedding_fail_status=0)
        report, code = await reindex(server, "--wait")
        assert (report["made"]["failed"], code) == ([], 0), report
        assert await whole(server)
        for name in names:
            asked = {"uri": f"viking://resources/{name}"}
            answer = await server.http.post("/api/v1/system/consistency", json=asked, headers=server.user)
            assert answer.raise_for_status().json()["result"]["ok"], answer.text
        figures(f"half of all calls failing: {report['reasons']} in {len(names)} documents, all made by one search")
