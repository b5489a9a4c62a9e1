"""OpenViking's queues, for people: paused without a restart, over restarts, and what each message waits for."""

import signal
from typing import Any

import pytest
from ov_home import UNWATCHED, Home
from ov_process import Server, running, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]


async def listed(server: Server, **asked: str) -> list[dict[str, Any]]:
    """Return the jobs, as a person is shown them."""
    query = "&".join(f"{name}={value}" for name, value in asked.items())
    return (await server.admin("GET", f"jobs?{query}")).raise_for_status().json()["jobs"]


async def queue(server: Server, name: str) -> dict[str, Any]:
    """Return what the status says of a queue."""
    return {each["name"]: each for each in (await server.status())["queues"]}[name]


async def test_a_paused_queue_makes_no_model_call_and_stays_paused_over_a_restart(model: Any, home: Home) -> None:
    home.write(UNWATCHED)
    async with running(home, home.ours, measured=True) as server:
        answer = await server.admin("POST", "jobs/pause", {"queue": "semantic"})
        assert answer.raise_for_status().json() == {"queue": "semantic", "paused": True}
        assert (await server.admin("POST", "jobs/pause", {"queue": "wrong"})).status_code == 404
        names = await server.add_documents(3)
        await wait_until(lambda: waits(server, 3), 20, "three messages wait")
        for job in await listed(server, queue="Semantic", state="ready"):
            assert (job["reason"], job["key"].startswith("viking://resources/")) == ("paused", True)
        home.write({"vlm": {"max_concurrent": 9}} | UNWATCHED)
        assert (await server.admin("POST", "config/reload")).json()["outcome"] == "applied"
        assert (await queue(server, "Semantic"))["paused"] is True
        assert model.gauges.calls == 0
        server.signal(signal.SIGTERM)
        assert await server.ended(40) == 0
    async with running(home, home.ours) as server:
        await wait_until(lambda: waits(server, 3), 20, "three messages wait again")
        pools = {pool["name"]: pool for pool in (await server.status())["pools"]}
        assert pools["workers.semantic"]["bound_by"] == "paused"
        assert model.gauges.calls == 0
        (await server.admin("POST", "jobs/resume", {"queue": "Semantic"})).raise_for_status()
        await server.finished(names, 60)
        assert (await queue(server, "Semantic"))["paused"] is False


async def waits(server: Server, count: int) -> bool:
    """Say whether that many messages of the semantic queue wait."""
    return len(await listed(server, queue="Semantic", state="ready")) == count


async def test_what_a_held_message_waits_for_is_said(shared_model: Any, server: Server) -> None:
    shared_model.set(fail_status=503)
    names = await server.add_documents(3, "held")

    async def held() -> list[dict[str, Any]]:
        jobs = await listed(server, queue="Semantic", state="running")
        return [job for job in jobs if (job["reason"] or "").startswith("vlm endpoint: 503 since ")]

    jobs = await wait_until(held, 20, "a message says what it waits for")
    assert jobs[0]["key"].startswith("viking://resources/held")
    one = (await server.admin("GET", f"jobs/{jobs[0]['id']}")).raise_for_status().json()
    assert (one["queue"], one["state"], bool(one["payload"])) == ("Semantic", "running", True)

    async def parents_wait() -> bool:
        parents = await listed(server, queue="AddResource", state="running")
        return {job["reason"] for job in parents} == {"the work it has started"}

    await wait_until(parents_wait, 20, "each import says that it waits for the work it has started")
    page = await listed(server, limit="2")
    rest = await listed(server, before=page[-1]["id"])
    assert len(page) == 2
    assert not {job["id"] for job in page} & {job["id"] for job in rest}
    assert (await server.admin("GET", "jobs/no-such-message")).status_code == 404
    answer = (await server.admin("POST", "jobs/retry", {"ids": [jobs[0]["id"]]})).json()
    assert answer == {"retried": [], "passed_over": [jobs[0]["id"]]}
    shared_model.set(fail_status=0)
    await server.finished(names, 60)
