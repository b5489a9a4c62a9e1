"""A whole service on a disk that takes no more: it says so, it goes on, it drains in time, no job pays for it."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from hotreload.cli.exits import Exit
from hotreload.host.start import STORE
from hotreload.queue.job import JobState
from hotreload.queue.sqlite import SqliteQueue

from .running import wait_until
from .serving import Running, put, serving

pytestmark = pytest.mark.anyio
TARGET = "tests.process.steady:service"
QUEUES = ("loop", "thread", "process")
DISK_KB = 4_096
DEADLINE_S = 4.0
TMPFS = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs -o mode=700,size={DISK_KB}k tmpfs "$0" && exec "$@"')


def may_mount() -> bool:
    """Say whether this user may have a disk of its own: root, in most places."""
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    try:
        return subprocess.run(probe, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


WAYS = ("file size limit", *(["tmpfs"] if may_mount() else []))
"""A limit that the kernel sets on every file works for every user, a small file system of its own for root."""


class Disk:
    """The state folder of one process, which can be made to take nothing more."""

    def __init__(self, way: str, process: int, state: Path) -> None:
        self._way = way
        self._process = process
        self._filler = Path(f"/proc/{process}/root{state}/filler")

    def fill(self) -> None:
        """Take all that is left."""
        if self._way != "tmpfs":
            _, most = resource.prlimit(self._process, resource.RLIMIT_FSIZE)
            resource.prlimit(self._process, resource.RLIMIT_FSIZE, (1, most))
            return
        descriptor = os.open(self._filler, os.O_CREAT | os.O_WRONLY)
        try:
            while True:
                os.write(descriptor, bytes(4096))
        except OSError:
            os.close(descriptor)

    def free(self) -> None:
        """Give it back."""
        if self._way != "tmpfs":
            _, most = resource.prlimit(self._process, resource.RLIMIT_FSIZE)
            resource.prlimit(self._process, resource.RLIMIT_FSIZE, (most, most))
            return
        self._filler.unlink()


@asynccontextmanager
async def steady(folder: Path, way: str) -> AsyncIterator[tuple[Running, Disk]]:
    """Serve with the state on a disk of its own."""
    state = folder / "state"
    state.mkdir(exist_ok=True)
    put(folder / "ov.conf", hotreload={"state_dir": str(state), "drain_deadline_s": DEADLINE_S})
    before = (*TMPFS, str(state)) if way == "tmpfs" else ()
    async with serving(folder, target=TARGET, before=before) as service:
        yield service, Disk(way, service.process.pid, state)


async def add(service: Running, count: int) -> None:
    for number in range(count):
        for queue in QUEUES:
            body = {"queue": queue, "payload": number}
            assert (await service.http.post("/admin/jobs", json=body)).status_code == 201


async def degraded(service: Running) -> str | None:
    return (await service.status())["degraded"]


async def depths(service: Running) -> dict[str, int]:
    """Return how many jobs of all queues are in each state."""
    queues = (await service.status())["queues"]
    return {state: sum(queue[state] for queue in queues) for state in ("ready", "scheduled", "running", "dead")}


@pytest.mark.parametrize("way", WAYS)
async def test_a_service_outlives_a_full_disk(short_path: Path, way: str) -> None:
    async with steady(short_path, way) as (service, disk):
        await add(service, 3)
        await service.spoken.line("listening on")
        disk.fill()
        trouble = await wait_until(lambda: degraded(service), 10, "degraded")
        assert "nothing acknowledged is lost" in trouble
        much = "x" * 60_000  # a little may fit in what earlier writes gave back
        refused = await service.http.post("/admin/jobs", json={"queue": "loop", "payload": much})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert "nothing acknowledged is lost" in refused.json()["error"]
        done = await service.verb("jobs", "add", "loop", f'"{much}"')
        assert (done.returncode, b"nothing acknowledged is lost" in done.stderr) == (Exit.REFUSED_BY_STATE, True)
        await anyio.sleep(2.5)
        assert (await service.http.get("/readyz")).status_code == 200
        disk.free()

        async def well() -> bool:
            return await degraded(service) is None

        async def idle() -> bool:
            found = await depths(service)
            return not any(found[state] for state in ("ready", "scheduled", "running"))

        await wait_until(well, 10, "no longer degraded")
        await wait_until(idle, 60, "all done", every_s=0.2)
        jobs = (await service.get("/admin/jobs?limit=100"))["jobs"]
        assert [(job["state"], job["attempts"]) for job in jobs] == [("done", 0)] * 9
        assert sum(job["interruptions"] for job in jobs) > 0
        said = [line for line in service.spoken.lines if "store." in line]
        assert ["unavailable" in line for line in said] == [True, False] * (len(said) // 2), said
        assert len(said) == 2 or way == "tmpfs", said


@pytest.mark.parametrize("way", WAYS)
async def test_a_drain_on_a_full_disk_ends_in_time_and_costs_nothing(short_path: Path, way: str) -> None:
    async with steady(short_path, way) as (service, disk):
        await add(service, 2)
        disk.fill()
        await wait_until(lambda: degraded(service), 10, "degraded")
        began = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        with anyio.fail_after(10):
            await service.process.wait()
        took_s = time.monotonic() - began
        assert took_s < DEADLINE_S + 2, "\n".join(service.spoken.lines)  # the disk stays full
    if way == "tmpfs":
        return  # its disk is gone with it
    store = SqliteQueue.open(short_path / "state" / STORE)
    jobs = await store.jobs()
    assert [(job.state, job.attempts) for job in jobs] == [(JobState.READY, 0)] * 6
    assert store.close()
