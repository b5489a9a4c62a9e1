"""Stopping stock OpenViking: gone inside the deadline whatever its model calls do, nothing lost, no traceback."""

import signal
import sqlite3
import time
from contextlib import suppress
from typing import Any

import anyio
import httpx
import pytest
from ov_forked import Forked
from ov_home import Home
from ov_process import Server, running, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]
TRACES = ("did not stop", "Traceback", "did not exit in time")
LATE_S = 0.1
"""How much later than its deadline a process may be gone."""


async def hung_import(model: Any, server: Server) -> list[str]:
    """Import 12 documents and return their names once every model call that may run hangs."""
    await server.finished(await server.add_documents(2, "warm"), 30)
    model.set(hang=True, latency_s=0)
    names = await server.add_documents(12)
    await wait_until(lambda: model.gauges.hanging == 6, 20, "six hung calls")
    return names


async def gone_after(server: Server, deadline_s: float) -> float:
    """Send SIGTERM and return the seconds until its parent saw the process gone, exit code 0."""
    assert isinstance(server.process, Forked)
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    code = await server.ended(deadline_s + 5)
    assert code == 0, server.log
    return server.process.gone_at - began


@pytest.mark.deadline
@pytest.mark.parametrize("deadline_s", [3, 10])
async def test_is_gone_inside_the_deadline_and_loses_nothing(model: Any, home: Home, deadline_s: int) -> None:
    home.write({"vlm": {"max_concurrent": 6}, "hotreload": {"drain_deadline_s": deadline_s}})
    async with running(home, home.ours, measured=True) as server:
        names = await hung_import(model, server)
        took_s = await gone_after(server, deadline_s)
        assert took_s <= deadline_s + LATE_S
        assert not [trace for trace in TRACES if trace in server.log], server.log
        assert "listening" in server.log
    model.set(hang=False)
    assert unacknowledged(home)
    async with running(home, home.ours, measured=True) as server:
        drain = (await server.status())["last_drain"]
        assert (drain["phase"], drain["lost"], drain["abandoned"]) == ("stopped", 0, [])
        assert len([message for message in drain["requeued"] if message.startswith("Semantic/")]) == 6
        await server.finished(names, 60)
        await wait_until(server.idle, 20, "empty queues")
        await (leaves_at_once(server) if deadline_s == 10 else a_hung_request_does_not_hold_it(model, server))


async def leaves_at_once(server: Server) -> None:
    """Stop a server that has nothing to do, long before its deadline; what stock logged while it worked is its own."""
    before = len(server.log)
    assert await gone_after(server, 10) < 4
    told = server.log[before:]
    assert not [trace for trace in TRACES if trace in told], told


async def a_hung_request_does_not_hold_it(model: Any, server: Server) -> None:
    """Stop a server one of whose clients waits for what never comes."""
    model.set(embedding_latency_s=300)
    asked = model.gauges.embeddings
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(search, server)
        await wait_until(lambda: model.gauges.embeddings > asked, 10, "a search that hangs")
        assert await gone_after(server, 3) <= 3 + LATE_S
    assert not [trace for trace in TRACES[:1] if trace in server.log], server.log


async def search(server: Server) -> None:
    """Ask for what cannot be answered, and be cut."""
    with suppress(httpx.HTTPError):
        await server.http.post("/api/v1/search/find", json={"query": "what", "limit": 1}, headers=server.user)


async def test_running_calls_may_finish_in_the_grace(model: Any, home: Home) -> None:
    home.write({"vlm": {"max_concurrent": 6}, "hotreload": {"drain_deadline_s": 10}})
    async with running(home, home.ours, measured=True) as server:
        model.set(latency_s=1.0)
        await server.add_documents(8)
        await wait_until(lambda: model.gauges.running == 6, 20, "six calls")
        await gone_after(server, 10)
        assert model.gauges.cut == 0


async def test_kill_9_loses_nothing(model: Any, home: Home) -> None:
    home.write({"vlm": {"max_concurrent": 6}})
    async with running(home, home.ours) as server:
        names = await hung_import(model, server)
        server.signal(signal.SIGKILL)
        await server.ended(5)
    model.set(hang=False)
    async with running(home, home.ours) as server:
        await server.finished(names, 90)


def unacknowledged(home: Home) -> int:
    """Return how many messages the closed store holds."""
    store = home.folder / "data" / "_system" / "queue" / "queue.db"
    with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as connection:
        return connection.execute("SELECT count(*) FROM queue_messages").fetchone()[0]


async def test_openvikings_own_readiness_is_refused_from_the_first_moment_on(model: Any, home: Home) -> None:
    home.write({"vlm": {"max_concurrent": 6}, "hotreload": {"drain_deadline_s": 20}})
    async with running(home, home.ours, measured=True) as server:
        await hung_import(model, server)
        assert not await refused(server)
        server.signal(signal.SIGTERM)
        await wait_until(lambda: refused(server), 10, "not ready")
        model.set(hang=False)
        assert await server.ended(30) == 0


async def refused(server: Server) -> bool:
    """Say whether the server answers that it is not ready."""
    answer = await server.http.get("/ready")
    return answer.status_code == 503 and answer.json()["reason"] == "draining"


async def test_a_request_that_waits_is_answered_and_its_task_goes_on(model: Any, home: Home) -> None:
    home.write({"hotreload": {"drain_deadline_s": 4}})
    answers: list[httpx.Response] = []
    async with running(home, home.ours, measured=True) as server:
        await server.finished(await server.add_documents(1, "warm"), 30)
        model.set(hang=True, latency_s=0)
        sent = await server.http.post(
            "/api/v1/resources/temp_upload",
            files={"file": ("slow.md", b"# slow\n\nIt takes its time.\n")},
            headers=server.user,
        )
        wanted = {"temp_file_id": sent.json()["result"]["temp_file_id"], "to": "viking://resources/slow", "wait": True}

        async def ask() -> None:
            answers.append(await server.http.post("/api/v1/resources", json=wanted, headers=server.user, timeout=60))

        async with anyio.create_task_group() as asking:
            asking.start_soon(ask)
            await wait_until(lambda: model.gauges.hanging > 0, 20, "a hung call")
            server.signal(signal.SIGTERM)
        assert await server.ended(8) == 0
        assert not [trace for trace in TRACES if trace in server.log], server.log
    [answer] = answers
    assert answer.status_code == 503, answer.text
    assert answer.headers["Retry-After"] == "5"
    task_id = answer.json()["error"]["details"]["task_id"]
    model.set(hang=False)
    async with running(home, home.ours) as server:
        await server.finished(["slow"], 60)

        async def completed() -> bool:
            task = await server.http.get(f"/api/v1/tasks/{task_id}", headers=server.user)
            return task.json()["result"]["status"] == "completed"

        await wait_until(completed, 30, "the task it waited for is completed")
