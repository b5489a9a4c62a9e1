"""An endpoint that fails during an import holds the messages that call it; afterwards everything is whole.

HOTRELOAD_OUTAGE_DOCUMENTS says how many documents are imported in each outage, HOTRELOAD_OUTAGE_S and
HOTRELOAD_DENIED_S how many seconds an outage, and one by a wrong key, goes on after the status has said it.
"""

import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from conftest import load_example
from ov_home import UNWATCHED, Home, merged
from ov_process import Server, running, wait_until

from tests.counts import counted, patience_s

DOCUMENTS = counted("OUTAGE_DOCUMENTS", 8, least=8)
OUTAGE_S = counted("OUTAGE_S", 1)
DENIED_S = counted("DENIED_S", 3)
WHOLE_S = patience_s(60, DOCUMENTS, 3)
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(5 * WHOLE_S)]


async def degraded(server: Server) -> str | None:
    """Return what the status says is degraded."""
    return (await server.status())["degraded"]


async def whole(server: Server, names: list[str]) -> None:
    """Return once every document is whole, by OpenViking's own account too."""
    await server.finished(names, WHOLE_S)
    await wait_until(server.idle, WHOLE_S, "empty queues")
    assert await inconsistent(server, names) == []


async def inconsistent(server: Server, names: list[str]) -> list[str]:
    """Return what OpenViking's own consistency check finds missing of these documents."""
    found: list[str] = []
    for name in names:
        asked = {"uri": f"viking://resources/{name}"}
        answer = await server.http.post("/api/v1/system/consistency", json=asked, headers=server.user)
        found += [each["uri"] for each in answer.raise_for_status().json()["result"]["missing_records"]]
    return found


@pytest.mark.parametrize("status", [401, 403, 408, 429, 500, 503])
async def test_a_status_of_the_endpoint_holds_the_import(shared_model: Any, server: Server, status: int) -> None:
    before = shared_model.gauges.failed
    shared_model.set(fail_status=status, retry_after="1" if status == 429 else "")
    names = await server.add_documents(DOCUMENTS, f"status-{status}-")
    await wait_until(lambda: says(server, f"vlm endpoint: {status} since "), 20, "the status says it")
    assert shared_model.gauges.failed - before <= 12
    await anyio.sleep(OUTAGE_S)
    shared_model.set(fail_status=0, retry_after="")
    await whole(server, names)
    await wait_until(lambda: healthy(server), 10, "the status is healthy")


async def healthy(server: Server) -> bool:
    """Say whether nothing is degraded."""
    return await degraded(server) is None


async def applied(server: Server, over: dict[str, Any]) -> None:
    """Write settings and have them applied."""
    server.home.write(merged(UNWATCHED, over))
    report = (await server.admin("POST", "config/reload")).raise_for_status().json()
    assert report["outcome"] in ("applied", "unchanged"), report


def vlm(url: str, **more: Any) -> dict[str, Any]:
    """Return the setting of a model that is served elsewhere."""
    return {"vlm": {"api_base": f"{url}/v1", **more}}


@asynccontextmanager
async def another_model(port: int = 0) -> AsyncIterator[tuple[Any, str]]:
    """Serve a second endpoint; after the block connections to it are refused."""
    async with load_example("endpoint").serving(port=port) as (endpoint, url):
        yield endpoint, url


async def test_a_connection_refused_and_the_name_of_a_host_not_resolved(server: Server) -> None:
    async with another_model() as (_, url):
        pass
    await applied(server, vlm(url))
    names = await server.add_documents(DOCUMENTS, "refused")
    await wait_until(lambda: says(server, "vlm endpoint: connection refused since "), 20, "the status says it")
    await applied(server, vlm("http://no-such-host.invalid:80"))
    await wait_until(
        lambda: says(server, "vlm endpoint: host name not resolved since "), 20, "the status says what fails"
    )
    await applied(server, vlm(url))
    async with another_model(int(url.rpartition(":")[2])):
        await whole(server, names)


async def says(server: Server, words: str) -> str | None:
    """Return what the status says is degraded, if it says these words."""
    said = await degraded(server)
    return said if said is not None and words in said else None


async def test_calls_that_never_end_time_out_and_are_held(shared_model: Any, server: Server) -> None:
    await applied(server, {"vlm": {"timeout": 1.0}})
    shared_model.set(hang=True)
    names = await server.add_documents(DOCUMENTS, "timeout")
    await wait_until(lambda: says(server, "vlm endpoint: timeout since "), 20, "the status says it")
    shared_model.set(hang=False)
    await whole(server, names)
    assert await server.unfinished(names) == []


async def test_only_the_embeddings_fail(shared_model: Any, server: Server) -> None:
    shared_model.set(embedding_fail_status=503)
    names = await server.add_documents(DOCUMENTS, "embed")
    said = await wait_until(lambda: degraded(server), 20, "the status says it")
    assert said.startswith("embedding endpoint: 503 since "), said
    await wait_until(lambda: inconsistent(server, names), WHOLE_S, "summaries without vectors")
    shared_model.set(embedding_fail_status=0)
    await whole(server, names)


async def test_an_endpoint_that_comes_and_goes_and_one_of_which_half_the_calls_fail(
    shared_model: Any, server: Server
) -> None:
    chance = random.Random(7)
    shared_model.set(latency_s=0.05)
    names = await server.add_documents(DOCUMENTS, "flap")
    for _ in range(8):
        shared_model.set(fail_status=chance.choice((401, 429, 500)), embedding_fail_status=chance.choice((0, 503)))
        await anyio.sleep(chance.uniform(0.1, 0.6))
        shared_model.set(fail_status=0, embedding_fail_status=0)
        await anyio.sleep(chance.uniform(0.1, 0.6))
    await whole(server, names)
    shared_model.set(latency_s=0.0, fail_status=503, embedding_fail_status=503, fail_rate=0.5)
    half = await server.add_documents(DOCUMENTS, "half")
    await whole(server, half)
    assert await server.unfinished([*names, *half]) == []


async def test_what_is_refused_for_its_content_fails_alone_and_is_named(shared_model: Any, server: Server) -> None:
    shared_model.set(refused_text="forbidden words", fail_status=503)
    bad = [f"bad{number}" for number in range(2)]
    for name in bad:
        await server.add_document(name, f"# {name}\n\nIt says forbidden words.\n")
    names = await server.add_documents(DOCUMENTS, "good")
    await wait_until(lambda: degraded(server), 20, "the status says it")
    shared_model.set(fail_status=0)
    await server.finished(names, WHOLE_S)
    await wait_until(server.idle, WHOLE_S, "empty queues")
    refused = (await server.status())["refused"]
    assert {each["about"].split("/")[3] for each in refused} == set(bad), refused
    assert {each["cause"] for each in refused} == {"400 content safety"}
    assert f"viking://resources/{bad[0]}" in server.log
    metrics = (await server.control("GET", "/metrics")).text
    assert 'hotreload_endpoint_up{endpoint="vlm"} 1.0' in metrics


async def test_a_key_is_rotated_with_refusals_in_between(
    shared_model: Any, server: Server, figures: Callable[[str], None]
) -> None:
    shared_model.set(latency_s=0.05)
    names = await server.add_documents(DOCUMENTS, "rotated")
    failed = shared_model.gauges.failed
    shared_model.set(accepted_keys=["key-2", "key-e"])
    await wait_until(lambda: shared_model.gauges.failed > failed, 20, "a call is denied")
    began = anyio.current_time()
    await wait_until(lambda: says(server, "vlm endpoint: 401 since "), 20, "the status says it")
    said_s, denied = anyio.current_time() - began, shared_model.gauges.failed
    await anyio.sleep(DENIED_S)
    probes = shared_model.gauges.failed - denied
    assert probes <= 2 * DENIED_S
    figures(f"a key is rotated: said {said_s:.2f} s after the first refusal; {probes} probes in {DENIED_S} s of 401")
    await applied(server, {"vlm": {"api_key": "key-2"}})
    await wait_until(lambda: healthy(server), 2, "the reload lets them go on")
    await whole(server, names)


async def test_patience_is_a_setting_and_people_do_not_wait(shared_model: Any, server: Server) -> None:
    await server.finished(await server.add_documents(1, "searched"), WHOLE_S)
    await wait_until(server.idle, WHOLE_S, "empty queues")
    shared_model.set(fail_status=503, embedding_fail_status=401)
    names = await server.add_documents(2, "impatient")
    await wait_until(lambda: says(server, "vlm endpoint: 503"), 20, "held")
    asked = {"query": "what does it say, then", "limit": 1}
    answer = await server.http.post("/api/v1/search/find", json=asked, headers=server.user)
    assert answer.status_code >= 400
    assert not await server.idle()
    await applied(server, {"hotreload": {"hold_s": 1}})
    await wait_until(server.idle, WHOLE_S, "what was held has failed as in stock")
    shared_model.set(fail_status=0, embedding_fail_status=0)
    assert set(await placeholders(server, names)) == set(names)


async def placeholders(server: Server, names: list[str]) -> list[str]:
    """Return which documents have an overview that holds no summary."""
    found: list[str] = []
    for name in names:
        options = {"uri": f"viking://resources/{name}"}
        answer = await server.http.get("/api/v1/content/overview", params=options, headers=server.user)
        if answer.status_code != 200 or "summary of the text" not in str(answer.json()["result"]):
            found.append(name)
    return found


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGKILL], ids=lambda stop: stop.name)
async def test_what_is_held_is_in_the_queue_after_a_stop_and_a_start_before_the_endpoint(
    home: Home, stop: signal.Signals
) -> None:
    async with another_model() as (_, url):
        pass
    home.write(vlm(url) | {"hotreload": {"drain_deadline_s": 10}})
    async with running(home, home.ours, measured=True) as server:
        names = await server.add_documents(DOCUMENTS, "stopped")
        await wait_until(lambda: degraded(server), 20, "held")
        server.signal(stop)
        code = await server.ended(10)
        assert code == (0 if stop is signal.SIGTERM else -signal.SIGKILL)
    for torn in (home.folder / "data/viking/acme/_system/tasks/alice").glob("*.json"):
        torn.write_bytes(b"")  # what a kill in the middle of a write leaves
    async with running(home, home.ours) as server:
        if stop is signal.SIGTERM:
            drain = (await server.status())["last_drain"]
            assert (drain["phase"], drain["lost"], drain["abandoned"]) == ("stopped", 0, [])
            assert drain["elapsed_s"] < 5, drain
        await wait_until(lambda: degraded(server), 20, "held again")
        async with another_model(int(url.rpartition(":")[2])):
            await whole(server, names)
