"""Jobs do whatever a job can do, among good ones: each good one is done once, each bad one is dead with a reason."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests import strangers
from tests.counts import counted, patience_s
from tests.process.running import wait_until
from tests.process.serving import Running, put, serving

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(900)]
USUAL = 330
BAD = counted("STRANGERS", USUAL)
"""How many bad jobs among as many good ones; a campaign has 2,000."""
QUEUES = ("loop", "threads", "processes")


def mixed(count: int, seed: int) -> dict[str, list[str]]:
    """Return the jobs of each queue: all ways over and over, good ones between, in an order of its own."""
    order = random.Random(seed)
    ways = {queue: strangers.kinds(in_loop=queue == "loop") for queue in QUEUES}
    for known in ways.values():
        order.shuffle(known)
    of_each = {queue: itertools.cycle(known) for queue, known in ways.items()}
    jobs: dict[str, list[str]] = {queue: [] for queue in QUEUES}
    for queue in itertools.islice(itertools.cycle(QUEUES), count):
        jobs[queue] += [next(of_each[queue]), "good"]
    for listed in jobs.values():
        order.shuffle(listed)
    return jobs


async def add(http: httpx.AsyncClient, queue: str, payloads: list[str]) -> dict[str, str]:
    """Add jobs; returns the way of each by its id."""
    body = {"queue": queue, "jobs": [{"payload": payload} for payload in payloads]}
    added = (await http.post("/admin/jobs/batch", json=body)).json()["jobs"]
    return {job["id"]: payload for job, payload in zip(added, payloads, strict=True)}


async def ended(service: Running, within_s: float) -> None:
    """Return once nothing waits and nothing runs."""

    async def idle() -> bool:
        assert service.process.returncode is None, "\n".join(service.spoken.lines[-40:])
        queues: list[dict[str, Any]] = (await service.status())["queues"]
        return not any(queue["ready"] or queue["scheduled"] or queue["running"] for queue in queues)

    await wait_until(idle, within_s, "idle", every_s=0.1)


async def test_a_job_harms_only_itself(short_path: Path, figures: Any) -> None:
    put(short_path / "ov.conf")
    seed = random.randrange(2**32)
    async with serving(short_path, target="tests.process.strangers_service:service") as service:
        ways: dict[str, str] = {}
        for queue, payloads in mixed(BAD, seed).items():
            ways |= await add(service.http, queue, payloads)
        await ended(service, patience_s(300, BAD, USUAL))
        found: dict[str, Any] = {}
        for job_id in ways:
            found[job_id] = (await service.http.get(f"/admin/jobs/{job_id}")).json()
        status = await service.status()
        service.process.terminate()
        with anyio.fail_after(30):
            assert await service.process.wait() == 0
    good = [found[job_id] for job_id, way in ways.items() if way == "good"]
    bad = {job_id: found[job_id] for job_id, way in ways.items() if way != "good"}
    assert {(job["state"], job["result"], job["attempts"], job["interruptions"]) for job in good} == {
        ("done", "good", 0, 0)
    }
    wrong = {(ways[i], job["queue"], job["state"], job["reason"]) for i, job in bad.items() if job["state"] != "dead"}
    assert not wrong, (seed, sorted(wrong, key=str))
    assert all(job["reason"] for job in bad.values())
    assert status["degraded"] is None
    figures(f"{len(good)} good jobs done once among {len(bad)} bad ones of {len(set(ways.values())) - 1} ways")
