"""A mount that does not answer, under the file, its folder or the folder above, costs nothing but news of the file."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from anyio.abc import Process

from tests.process.fuse import BUSY, GO_ON, PAUSE
from tests.process.running import Spoken, hotreload, started, wait_until
from tests.process.serving import Running, put, serving

pytestmark = pytest.mark.anyio
LATE_S = 1.0
"""A loop that waited for the mount would be away for seconds; beside other tests a machine may be late by itself."""


@dataclass
class Mounted:
    """A file system that is served by another process."""

    point: Path
    source: Path
    process: Process
    spoken: Spoken

    async def hang(self) -> None:
        """Return once nothing is answered any more."""
        self.process.send_signal(PAUSE)
        await self.spoken.line("paused")

    def go_on(self) -> None:
        """Answer what was asked meanwhile."""
        self.process.send_signal(GO_ON)


@asynccontextmanager
async def mounted(source: Path, point: Path) -> AsyncIterator[Mounted]:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK) or os.geteuid() != 0:
        pytest.skip("/dev/fuse cannot be used here")
    async with started(sys.executable, "-m", "tests.process.fuse", str(source), str(point)) as (process, spoken):
        await spoken.line("mounted")
        try:
            yield Mounted(point, source, process, spoken)
        finally:
            if process.returncode is None:
                process.send_signal(GO_ON)
                process.terminate()
                await process.wait()


async def delays(service: Running, count: int) -> float:
    """Return the longest time that /livez took to answer, asked one after another on one connection."""
    longest = 0.0
    for _ in range(count):
        began = anyio.current_time()
        assert (await service.http.get("/livez")).status_code == 200
        longest = max(longest, anyio.current_time() - began)
        await anyio.sleep(0.01)
    return longest


def the_folder(root: Path) -> tuple[Path, Path, Path]:
    return root / "source", root / "etc", root / "etc" / "ov.conf"


def the_parent(root: Path) -> tuple[Path, Path, Path]:
    (root / "source" / "etc").mkdir(parents=True)
    return root / "source", root / "parent", root / "parent" / "etc" / "ov.conf"


def the_file(root: Path) -> tuple[Path, Path, Path]:
    (root / "etc").mkdir()
    (root / "etc" / "ov.conf").symlink_to(root / "far" / "ov.conf")
    return root / "source", root / "far", root / "etc" / "ov.conf"


@pytest.mark.deadline
async def test_the_service_lives_while_its_mount_hangs(short_path: Path) -> None:
    """Three services side by side, as most of it is to wait for what does not answer."""
    async with anyio.create_task_group() as services:
        for place in (the_folder, the_parent, the_file):
            home = short_path / place.__name__
            home.mkdir()
            services.start_soon(_lives_while_its_mount_hangs, home, place)


async def _lives_while_its_mount_hangs(short_path: Path, place: Callable[[Path], tuple[Path, Path, Path]]) -> None:
    source, point, conf = place(short_path)
    source.mkdir(exist_ok=True)
    point.mkdir()
    real = source / conf.parent.relative_to(point) if conf.is_relative_to(point) else source
    put(real / "ov.conf")
    environ = {"STATE_DIRECTORY": str(short_path / "state")}
    (short_path / "state").mkdir()
    async with mounted(source, point) as mount, serving(short_path, conf=conf, environ=environ) as service:
        await wait_until(lambda: _healthy(service, True), 5, "it watches")
        put(real / "ov.conf", value=1)
        await service.applied(1)
        await mount.hang()
        put(real / "ov.conf", value=2)
        service.process.send_signal(signal.SIGHUP)
        longest = await delays(service, 100)
        await wait_until(lambda: _healthy(service, False), 15, "it says so")
        report = await service.reload()
        assert report["outcome"] == "rejected"
        assert "took longer" in report["errors"][0]["message"]
        longest = max(longest, await delays(service, 20))
        mount.go_on()
        await service.applied(2)
        await wait_until(lambda: _healthy(service, True), 5, "it watches again")
        assert longest < LATE_S, point
        assert sum("watch.look_failed" in line for line in service.spoken.lines) == 1


@asynccontextmanager
async def on_a_mount(folder: Path) -> AsyncIterator[tuple[Path, Path, Mounted, Running]]:
    """Serve with a configuration in a mounted folder: what is mounted, where, the mount, the service."""
    source, point, conf = the_folder(folder)
    source.mkdir()
    point.mkdir()
    (folder / "state").mkdir()
    put(source / "ov.conf")
    environ = {"STATE_DIRECTORY": str(folder / "state")}
    async with mounted(source, point) as mount, serving(folder, conf=conf, environ=environ) as service:
        yield source, point, mount, service


async def _healthy(service: Running, wanted: bool) -> bool:
    return (await service.status())["watch"]["healthy"] is wanted


@pytest.mark.deadline
async def test_a_mount_that_hangs_delays_no_drain(short_path: Path) -> None:
    async with on_a_mount(short_path) as (_, _, mount, service):
        await mount.hang()
        service.process.send_signal(signal.SIGHUP)
        await wait_until(lambda: _healthy(service, False), 15, "it hangs")
        began = anyio.current_time()
        service.process.terminate()
        assert await service.process.wait() == 0
        assert anyio.current_time() - began < 3.0 + LATE_S


async def test_a_mount_that_is_gone_and_back_is_taken_up(short_path: Path) -> None:
    async with on_a_mount(short_path) as (source, point, mount, service):
        await wait_until(lambda: _healthy(service, True), 5, "it watches")
        mount.process.kill()  # from now on: ENOTCONN
        await mount.process.wait()
        await wait_until(lambda: _healthy(service, False), 5, "it is gone")
        put(source / "ov.conf", value=1)
        await anyio.run_process(["umount", str(point)])
        async with mounted(source, point):
            await service.applied(1)
            await wait_until(lambda: _healthy(service, True), 5, "it watches again")


async def test_a_file_that_its_file_system_cannot_give_at_once_changes_nothing(short_path: Path) -> None:
    async with on_a_mount(short_path) as (source, _, _, service):
        (source / BUSY).touch()
        put(source / "ov.conf", value=1)
        report = await service.reload()
        assert report["outcome"] == "rejected"
        assert "cannot be read: Resource temporarily unavailable" in report["errors"][0]["message"]
        (source / BUSY).unlink()
        await service.applied(1)


async def test_a_start_on_a_mount_that_hangs_says_why_it_ends(short_path: Path) -> None:
    source, point, conf = the_folder(short_path)
    source.mkdir()
    point.mkdir()
    put(source / "ov.conf")
    async with mounted(source, point) as mount:
        await mount.hang()
        done = await hotreload("check", "tests.process.sample:service", "--config", str(conf))
        assert done.returncode == 1
        assert b"reading it took longer than 5 s" in done.stdout + done.stderr
