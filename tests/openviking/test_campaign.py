"""Reloads, drains and kills at random during one import: every document is whole, only a drain refuses anybody.

HOTRELOAD_CAMPAIGN_DOCUMENTS and HOTRELOAD_CAMPAIGN_RELOADS say how many.
"""

import random
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import httpx
import pytest
from ov_home import UNWATCHED, Home, merged
from ov_process import Server, running, wait_until

from tests.counts import counted, patience_s

DOCUMENTS = counted("CAMPAIGN_DOCUMENTS", 12, least=8)
RELOADS = counted("CAMPAIGN_RELOADS", 10, least=5)
STOPS = (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM, signal.SIGKILL, None)
MOST = 12
WHOLE_S = patience_s(60, DOCUMENTS, 12)
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(6 * WHOLE_S)]


def chosen(chance: random.Random) -> dict[str, Any]:
    """Return settings that may be changed at any time."""
    return {
        "vlm": {"max_concurrent": chance.randint(2, MOST), "api_key": f"key-{chance.randint(1, 3)}"},
        "embedding": {"dense": {"api_key": f"key-e{chance.randint(1, 3)}"}},
        "queue_workers": {"add_resource": {"max_concurrent": chance.randint(2, 32)}},
        "log": {"level": chance.choice(("INFO", "WARNING"))},
        "hotreload": {"drain_deadline_s": chance.choice((3, 4))},
    }


async def reloaded(server: Server, chance: random.Random) -> None:
    """Change settings at random, and have them applied in one of the ways."""
    before = await last_reload(server)
    server.home.write(merged(UNWATCHED, chosen(chance)))
    if chance.random() < 0.5:
        server.signal(signal.SIGHUP)
    else:
        await server.admin("POST", "config/reload")
    report = await wait_until(lambda: changed(server, before), 20, "a report")
    assert report["outcome"] in ("applied", "unchanged"), report


async def last_reload(server: Server) -> dict[str, Any] | None:
    """Return the report of the last reload."""
    return (await server.status())["last_reload"]


async def changed(server: Server, before: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the report of the last reload if it is not the one before."""
    report = await last_reload(server)
    return None if report == before else report


async def asking(server: Server, statuses: Counter[int], chance: random.Random) -> None:
    """Ask for what is there, again and again, as people do."""
    while True:
        asked = {"uri": "viking://resources", "node_limit": "10"}
        with suppress(httpx.TransportError):
            answer = await server.http.get("/api/v1/fs/tree", params=asked, headers=server.user)
            statuses[answer.status_code] += 1
        await anyio.sleep(chance.uniform(0.05, 0.2))


async def test_reloads_drains_and_kills_during_an_import_lose_nothing(
    model: Any, home: Home, figures: Callable[[str], None]
) -> None:
    chance = random.Random(60)
    home.write(merged(UNWATCHED, chosen(chance)))
    names: list[str] = []
    statuses: Counter[int] = Counter()
    in_flight = reloads = 0
    model.set(latency_s=0.5)
    for life, stop in enumerate(STOPS):
        async with running(home, home.ours) as server, anyio.create_task_group() as clients:
            clients.start_soon(asking, server, statuses, chance)
            wanted = 0 if stop is None else DOCUMENTS * (life + 1) // (len(STOPS) - 1) - len(names)
            names += await server.add_documents(wanted // 2, f"reloads{life}x")
            for _ in range(RELOADS * (life + 1) // len(STOPS) - RELOADS * life // len(STOPS)):
                await anyio.sleep(chance.uniform(0, 0.5))
                await reloaded(server, chance)
                reloads += 1
            if stop is None:
                await server.finished(names, WHOLE_S)
                await wait_until(server.idle, WHOLE_S, "empty queues")
                assert await missing(server) == []
            else:
                names += await server.add_documents(wanted - wanted // 2, f"stop{life}x")
                await wait_until(lambda: model.gauges.running > 0, 20, "calls in flight")
                in_flight += model.gauges.running
                server.signal(stop)
                assert await server.ended(10) == (0 if stop is signal.SIGTERM else -signal.SIGKILL), server.log
            clients.cancel_scope.cancel()
    repeated = sum(model.gauges.prompts.values()) - len(model.gauges.prompts)
    assert {status for status in statuses if status >= 500} <= {503}
    assert model.gauges.failed == 0
    assert repeated <= MOST * (len(STOPS) - 1)  # those in flight at a stop
    figures(
        f"{reloads} reloads, {len(STOPS) - 1} stops, {len(names)} documents whole; {model.gauges.calls} model calls, "
        f"{repeated} of them asked before, {in_flight} in flight at a stop; answers by status: {dict(statuses)}"
    )


async def missing(server: Server) -> list[Any]:
    """Return what OpenViking's own consistency check misses."""
    answer = await server.http.post(
        "/api/v1/system/consistency", json={"uri": "viking://resources"}, headers=server.user
    )
    return list(answer.raise_for_status().json()["result"]["missing_records"])
