"""Hundreds of reloads later there is no more of anything than after the first hundred."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.counts import counted, patience_s
from tests.process.running import wait_until
from tests.process.serving import Running, put, serving

WARM = 100
RELOADS = counted("RELOADS", 300, least=WARM + 50)
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(patience_s(120, RELOADS, 300))]
MEGABYTE = 1024 * 1024


def _each(folder: Path, read: Callable[[Path], str]) -> list[str]:
    """Read every entry of a folder of /proc; one whose descriptor was closed meanwhile is left out."""
    found: list[str] = []
    for entry in folder.iterdir():
        with suppress(FileNotFoundError):
            found.append(read(entry))
    return found


def held(service: Running) -> dict[str, int]:
    """Return what a process holds: descriptors, threads, inotify watches, and tasks as its part wrote them down."""
    pid = service.process.pid
    folder = Path(f"/proc/{pid}")
    watches = sum(info.count("inotify wd:") for info in _each(folder / "fdinfo", Path.read_text))
    links = _each(folder / "fd", os.readlink)
    return {
        "descriptors": sum(not link.startswith("socket:") for link in links),
        "sockets": sum(link.startswith("socket:") for link in links),
        "threads": len(os.listdir(folder / "task")),
        "watches": watches,
        "tasks": json.loads((service.folder / "one").read_text())["tasks"],
    }


def flat(now: dict[str, int], first: dict[str, int]) -> bool:
    """Tell whether there is no more of anything; a connection more or less, and its task, is the test's own."""
    near = {"tasks": 1, "sockets": 2}
    return all(now[kind] - first[kind] <= near.get(kind, 0) for kind in first)


def memory(service: Running) -> int:
    """Return the private bytes of a process."""
    rollup = Path(f"/proc/{service.process.pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Private_"))


async def _at_rest(service: Running) -> bool:
    (queue,) = (await service.status())["queues"]
    assert queue["dead"] == 0
    return not queue["ready"] + queue["running"] + queue["scheduled"]


async def test_reloads_leave_nothing_behind(short_path: Path, figures: Callable[[str], None]) -> None:
    put(short_path / "ov.conf")
    async with serving(short_path, target="tests.process.faulty:service", executed=True) as service:
        first: tuple[dict[str, int], int] | None = None
        for value in range(1, RELOADS + 1):
            job = {"queue": "work", "payload": value}
            assert (await service.http.post("/admin/jobs", json=job)).status_code == 201
            put(service.conf, value=value, limit=1 + value % 5, hold_s=0.01 * (value % 3))
            if value % 2:
                await service.applied(value)  # the file asks
            else:
                await service.reload()
            service.reloads.clear()
            if value == WARM:
                first = held(service), memory(service)
        assert first is not None
        await wait_until(lambda: _at_rest(service), 20, "every job done")
        grown = memory(service) - first[1]
        figures(f"{RELOADS} reloads and jobs: {first[0]}, {grown / MEGABYTE:+.2f} MB since the first {WARM}")
        assert (await service.status())["generation"] == RELOADS + 1
        await wait_until(lambda: flat(held(service), first[0]), 20, f"{first[0]} again, not {held(service)}")
        assert grown <= MEGABYTE
        assert json.loads((service.folder / "one").read_text())["frozen"] > 0, "what the start made is never garbage"
