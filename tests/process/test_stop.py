"""Stopped or killed with 16 jobs in hand, nothing is lost and hardly a call is repeated."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import anyio
import pytest

from tests.process.running import Endpoint, Home, Summaries, endpoint, library_files, summaries, until_idle, wait_until

pytestmark = pytest.mark.anyio
JOBS = 16
DEADLINE_S = 3.0
"""Nothing here resists its cancellation: the process leaves by itself before this, it is not ended at it."""


async def _all_pause(service: Summaries, model: Endpoint) -> None:
    """Let 16 documents make some calls, then slow down to 30 s a call: 16 jobs in hand, none in a call."""
    await wait_until(lambda: _calls(model, 3 * JOBS), 20, "some calls were made")
    report, _ = await service.ask("http", service.home.set("vlm", pace_s=30))
    assert report["outcome"] == "applied"
    await model.behave(latency_s=0.0)
    await wait_until(lambda: _quiet(service, model), 20, "16 jobs pause before their next call")


async def _calls(model: Endpoint, at_least: int) -> bool:
    return (await model.gauges())["calls"] >= at_least


async def _quiet(service: Summaries, model: Endpoint) -> bool:
    """No call is made for a while, though 16 jobs are in hand."""
    first = await model.gauges()
    await anyio.sleep(0.2)
    second = await model.gauges()
    return first["calls"] == second["calls"] and not second["running"] and await service.running() == JOBS


async def _restart_and_count(home: Home, model: Endpoint, *, repeated: int) -> None:
    """Run to the end: every document is summarised, and at most `repeated` calls were made again."""
    await model.behave(hang=False, latency_s=0.0)
    home.write(home.set("vlm", pace_s=0.0))
    await until_idle(home)
    gauges = await model.gauges()
    assert home.unsummarised() == []
    assert gauges["repeated"] <= repeated
    assert gauges["calls"] == home.calls_needed() + gauges["repeated"]


@pytest.mark.deadline
async def test_sigterm_loses_and_repeats_nothing(short_path: Path) -> None:
    async with endpoint(latency_s=0.05) as model:
        home = Home.make(short_path, library_files(40, sections=5), api_base=model.url, max_concurrent=JOBS)
        async with summaries(home, measured=False) as service:
            await _all_pause(service, model)
            began = time.monotonic()
            service.process.terminate()
            with anyio.fail_after(10):
                assert await service.process.wait() == 0, "\n".join(service.spoken.lines)
            assert time.monotonic() - began < DEADLINE_S
        async with summaries(
            home, measured=False
        ) as service:  # still at 30 s a call: nothing moves, the report can be read
            drain = (await service.status())["last_drain"]
            assert (drain["reason"], drain["lost"], len(drain["requeued"])) == ("SIGTERM", 0, JOBS), drain
            assert drain["overshoot_ms"] <= 100
            service.process.kill()
        await _restart_and_count(home, model, repeated=0)


@pytest.mark.deadline
async def test_sigterm_with_every_call_hung(short_path: Path) -> None:
    async with endpoint(latency_s=0.02) as model:
        home = Home.make(short_path, library_files(30, sections=4), api_base=model.url, max_concurrent=JOBS)
        async with summaries(home, measured=False) as service:
            await _all_hang(service, model)
            began = time.monotonic()
            service.process.terminate()
            with anyio.fail_after(10):
                assert await service.process.wait() == 0, "\n".join(service.spoken.lines)
            assert time.monotonic() - began < DEADLINE_S
        await _restart_and_count(home, model, repeated=JOBS)


async def _all_hang(service: Summaries, model: Endpoint) -> None:
    await wait_until(lambda: _calls(model, 2 * JOBS), 20, "some calls were made")
    await model.behave(hang=True)
    await wait_until(lambda: _hung(model), 20, "16 calls hang")


async def _hung(model: Endpoint) -> bool:
    return (await model.gauges())["running"] == JOBS


async def test_two_kills_repeat_at_most_the_sections_in_hand(short_path: Path) -> None:
    async with endpoint(latency_s=0.02) as model:
        home = Home.make(short_path, library_files(30, sections=4), api_base=model.url, max_concurrent=JOBS)
        for kill in (1, 2):
            async with summaries(home, measured=False) as service:
                await wait_until(lambda kill=kill: _calls(model, 2 * JOBS * kill), 20, "some calls were made")
                await model.behave(hang=True)
                await wait_until(lambda: _hung(model), 20, "16 calls hang")
                service.process.send_signal(signal.SIGKILL)
                assert await service.process.wait() == -signal.SIGKILL
            await model.behave(hang=False)
        await _restart_and_count(home, model, repeated=2 * JOBS)
