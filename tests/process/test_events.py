"""Events reach who reads, and nobody who does not read holds up a service: buffers, readers and the drain."""

from __future__ import annotations

import signal
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import pytest

from hotreload.admin.events import STREAMS
from hotreload.admin.feed import BUFFER, Feed
from tests.process.serving import put, serving

pytestmark = pytest.mark.anyio
OFF = {"watch": False}


async def test_a_reader_too_slow_is_let_go_after_what_it_was_given_and_no_other() -> None:
    feed = Feed()
    assert not feed.wanted
    async with feed.subscribe() as slow, feed.subscribe() as quick:
        heard: list[int] = []
        for number in range(BUFFER + 50):
            feed.publish("status", number)
            heard.append((await quick.receive())["data"])
        assert heard == list(range(BUFFER + 50))
        assert [event["data"] async for event in slow] == list(range(BUFFER))
        assert feed.wanted
        feed.publish("status", "more")
        assert (await quick.receive())["data"] == "more"
    assert not feed.wanted


async def test_the_end_of_the_process_ends_every_stream_after_what_was_published() -> None:
    feed = Feed()
    async with feed.subscribe() as reader:
        feed.publish("drain", "last")
        feed.close()
        feed.publish("drain", "later")
        assert [event["data"] async for event in reader] == ["last"]
    async with feed.subscribe() as late:
        assert [event async for event in late] == []


async def test_clients_that_never_read_hold_up_neither_reloads_nor_the_drain(short_path: Path) -> None:
    """All places but the test's own are taken by readers that read nothing, and others have asked half a question."""
    put(short_path / "ov.conf", hotreload=OFF)
    async with serving(short_path) as service, AsyncExitStack() as clients:
        for _ in range(STREAMS - 1):
            deaf = await clients.enter_async_context(await anyio.connect_unix(service.socket))
            await deaf.send(b"GET /admin/events HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await deaf.receive(64)).startswith(b"HTTP/1.1 200 ")
            slow = await clients.enter_async_context(await anyio.connect_unix(service.socket))
            await slow.send(b"POST /admin/config/reload HTTP/1.1\r\nHost: x\r\nContent-Le")
        nested = {f"key {number}": "x" * 1000 for number in range(60)}
        assert (await service.http.get("/admin/events")).status_code == 503
        for value in range(1, 21):  # together far more than what a socket holds
            put(service.conf, value=value, nested={**nested, "number": value}, hotreload=OFF)
            assert (await service.reload())["outcome"] == "applied"
        service.process.send_signal(signal.SIGTERM)
        with anyio.fail_after(3):  # its drain_deadline_s
            assert await service.process.wait() == 0
