"""The limits of a running OpenViking: one for the model calls of all its loops, one for each of its queues."""

from typing import Any

import pytest
from ov_home import UNWATCHED
from ov_process import Server, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]
FEEDER = "queue_workers.add_resource.max_concurrent"


async def pool(server: Server, name: str) -> dict[str, Any]:
    """Return the figures of one pool."""
    return next(each for each in (await server.status())["pools"] if each["name"] == f"workers.{name}")


async def reload(server: Server, over: dict[str, Any]) -> dict[str, Any]:
    """Write settings and have them applied; returns the report."""
    server.home.write(over | UNWATCHED)
    return (await server.admin("POST", "config/reload")).raise_for_status().json()


def feeding(number: int) -> dict[str, Any]:
    """Return the setting of how many imports are worked on at a time."""
    return {"queue_workers": {"add_resource": {"max_concurrent": number}}}


async def test_an_import_and_a_reindex_at_once_share_one_limit(shared_model: Any, server: Server) -> None:
    old = await server.add_documents(12, "old")
    await server.finished(old, 60)
    await wait_until(server.idle, 30, "empty queues")
    shared_model.set(hang=True)
    shared_model.reset()
    new = await server.add_documents(12, "new")
    await wait_until(lambda: shared_model.gauges.hanging == 4, 20, "the import is at the limit")
    for name in old:
        asked = {"uri": f"viking://resources/{name}", "mode": "semantic_and_vectors", "wait": False, "force": True}
        answer = await server.http.post("/api/v1/content/reindex", json=asked, headers=server.user)
        answer.raise_for_status()
    begun = shared_model.gauges.calls
    await wait_until(lambda: both_want_calls(server), 20, "reindexing waits for calls too")
    assert shared_model.gauges.calls == begun
    shared_model.set(hang=False, latency_s=0.2)
    await wait_until(lambda: shared_model.gauges.calls >= begun + 24, 60, "calls of both")
    assert shared_model.gauges.peak == 4
    shared_model.set(latency_s=0.0)
    await server.finished(old + new, 60)
    assert shared_model.gauges.peak == 4


async def both_want_calls(server: Server) -> bool:
    """Say whether messages of both queues are in hand, with the calls of one gate at their limit."""
    semantic, reindex = await pool(server, "semantic"), await pool(server, "reindex")
    assert semantic["running"] <= semantic["limit"] == 4
    return semantic["running"] == 4 and reindex["running"] == 4


async def test_the_workers_of_a_queue_follow_their_limit_mid_import(shared_model: Any, server: Server) -> None:
    await reload(server, feeding(1))
    shared_model.set(latency_s=0.3)
    names = await server.add_documents(30, "fed")
    await at_most_and_soon(server, 1)
    await reload(server, feeding(6))
    await at_most_and_soon(server, 6)
    report = await reload(server, feeding(2))
    assert [each["owner"] for each in report["converging"]] == ["workers.add_resource"]
    await wait_until(lambda: no_more_than(server, 2), 20, "converged to 2")
    await at_most_and_soon(server, 2)
    assert await server.unfinished(names)
    shared_model.set(latency_s=0.0)
    await server.finished(names, 60)


async def at_most_and_soon(server: Server, number: int) -> None:
    """See as many imports worked on as the limit allows, and never one more."""
    seen: list[int] = []

    async def full_five_times() -> bool:
        figures = await pool(server, "add_resource")
        assert figures["limit"] == number
        assert figures["running"] <= number
        seen.append(figures["running"])
        return seen.count(number) >= 5

    await wait_until(full_five_times, 20, f"{number} imports at a time")


async def no_more_than(server: Server, number: int) -> bool:
    """Say whether a shrunken pool has converged."""
    return (await pool(server, "add_resource"))["running"] <= number


async def test_says_which_other_limit_binds(shared_model: Any, server: Server) -> None:
    report = await reload(server, {"vlm": {"max_concurrent": 4}} | feeding(2))
    assert [warning for warning in report["warnings"] if FEEDER in warning["message"]] == []
    report = await reload(server, {"vlm": {"max_concurrent": 12}} | feeding(2))
    [warning] = [warning for warning in report["warnings"] if FEEDER in warning["message"]]
    assert warning["path"] == "vlm.max_concurrent"
    assert warning["message"].startswith(f"limited by {FEEDER}")
    assert warning["line"] > 1
    shared_model.reset()
    shared_model.set(latency_s=0.5)
    begun = shared_model.gauges.calls
    names = await server.add_documents(12, "bound")

    async def bound_by() -> str | None:
        return (await pool(server, "semantic"))["bound_by"]

    assert await wait_until(bound_by, 20) == FEEDER
    await wait_until(lambda: shared_model.gauges.calls >= begun + 12, 20, "some rounds of calls")
    assert shared_model.gauges.peak <= 4
    shared_model.set(latency_s=0.0)
    await server.finished(names, 60)
