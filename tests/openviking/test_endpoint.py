"""The model endpoint of the example: what it answers, what it counts, how it is changed while it runs."""

import asyncio
import json
import sys
from typing import Any

import anyio
import httpx
import pytest
from conftest import EXAMPLES
from ov_process import wait_until

pytestmark = pytest.mark.anyio
PROMPT = {"model": "stub", "messages": [{"role": "user", "content": "say something"}]}


@pytest.fixture
async def client(model: Any) -> Any:
    """A client of the endpoint."""
    async with httpx.AsyncClient(base_url=model.url, timeout=10) as made:
        yield made


async def test_answers_chats_and_embeddings(client: httpx.AsyncClient) -> None:
    chat = (await client.post("/v1/chat/completions", json=PROMPT)).json()
    assert "summary" in chat["choices"][0]["message"]["content"]
    vectors = (await client.post("/v1/embeddings", json={"input": ["a", "b", "a"]})).json()["data"]
    assert [len(entry["embedding"]) for entry in vectors] == [8, 8, 8]
    assert vectors[0]["embedding"] == vectors[2]["embedding"] != vectors[1]["embedding"]
    streamed = await client.post("/v1/chat/completions", json=PROMPT | {"stream": True})
    assert streamed.text.endswith("data: [DONE]\n\n")


async def test_counts_peak_and_cut_calls(model: Any, client: httpx.AsyncClient) -> None:
    model.set(hang=True)
    calls = [asyncio.ensure_future(client.post("/v1/chat/completions", json=PROMPT)) for _ in range(3)]
    await wait_until(lambda: model.gauges.running == 3, 5)
    calls[0].cancel()
    await wait_until(lambda: model.gauges.cut == 1, 5)
    shown = (await client.patch("/control", json={"hang": False})).json()
    assert shown["peak"] == 3
    assert [(await call).status_code for call in calls[1:]] == [200, 200]
    shown = (await client.patch("/control", json={"reset": True})).json()
    assert (shown["peak"], shown["calls"], shown["answered"], shown["cut"]) == (0, 3, 2, 1)


async def test_fails_and_refuses_keys_as_told(client: httpx.AsyncClient) -> None:
    await client.patch("/control", json={"accepted_keys": ["good"]})
    assert (await client.post("/v1/chat/completions", json=PROMPT)).status_code == 401
    good = {"Authorization": "Bearer good"}
    assert (await client.post("/v1/chat/completions", json=PROMPT, headers=good)).status_code == 200
    await client.patch("/control", json={"fail_status": 503})
    assert (await client.post("/v1/chat/completions", json=PROMPT, headers=good)).status_code == 503


@pytest.mark.parametrize("wanted", [{"latency": 1}, {"latency_s": True}, {"hang": 1}, {"accepted_keys": "k"}, []])
async def test_refuses_what_it_does_not_know(client: httpx.AsyncClient, wanted: Any) -> None:
    before = (await client.get("/control")).json()["behaviour"]
    assert (await client.patch("/control", json=wanted)).status_code == 422
    assert (await client.get("/control")).json()["behaviour"] == before


async def test_runs_as_a_script_and_says_where() -> None:
    async with await anyio.open_process([sys.executable, str(EXAMPLES / "endpoint.py"), "--port", "0"]) as process:
        assert process.stdout is not None
        url = json.loads((await process.stdout.receive()).decode())["url"]
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.get("/control")).json()["running"] == 0
        process.terminate()
        await process.wait()
