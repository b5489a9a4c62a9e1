"""Whatever goes wrong in whichever part: one generation everywhere, the part named, the last good file whole."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from tests.process.faulty import LIMIT_S, NAMES
from tests.process.running import wait_until
from tests.process.serving import Running, put, serving, text

pytestmark = pytest.mark.anyio
TARGET = "tests.process.faulty:service"
OFF: dict[str, Any] = {"watch": False}
HOW = {
    "prepare": ("fails", "hangs", "is cancelled", "is stuck"),
    "commit": ("fails", "is cancelled"),
    "revert": ("fails", "is cancelled"),
    "undo": ("fails", "hangs", "is cancelled", "is stuck"),
}
STOPS = [(name, f"{stage} {how}") for stage in ("prepare", "commit") for how in HOW[stage] for name in NAMES]
LEFT = [(name, f"{stage} {how}") for stage in ("revert", "undo") for how in HOW[stage] for name in NAMES]
KILLS = [(name, stage) for stage in ("prepare", "commit", "revert", "undo", "retire") for name in NAMES]


def with_a_cause(name: str, fault: str) -> dict[str, str]:
    """Return faults that make `fault` happen where something else must fail first: the last part's commit."""
    if fault.startswith(("revert", "undo")):
        return {"three": "commit fails", name: f"commit fails, {fault}" if name == "three" else fault}
    return {name: fault}


def on(service: Running) -> set[int]:
    """Return the generations the parts say they run on."""
    files = [service.folder / name for name in NAMES]
    return {json.loads(file.read_text())["generation"] for file in files if file.exists()}


async def one_generation(service: Running, generation: int, good: bytes) -> None:
    """Check that parts, status, settings and metrics are on one generation, and the last good file is whole."""
    assert (await service.status())["generation"] == generation
    assert on(service) == {generation}
    assert (await service.get("/admin/config"))["generation"] == generation
    assert f"hotreload_config_generation {float(generation)}" in (await service.http.get("/metrics")).text
    assert kept(service) == good


def kept(service: Running) -> bytes:
    """Return the last-known-good file."""
    return (service.folder / ".hotreload" / "last-known-good.json").read_bytes()


async def applied(service: Running, **conf: Any) -> bytes:
    """Apply a configuration; returns its bytes once they are kept as the last good ones."""
    put(service.conf, **conf, hotreload=OFF)
    assert (await service.reload())["outcome"] == "applied"
    good = service.conf.read_bytes()
    await wait_until(lambda: kept(service) == good, 5, "kept")
    return good


async def test_one_generation_everywhere_whatever_fails_where(short_path: Path) -> None:
    put(short_path / "ov.conf", hotreload=OFF)
    async with serving(short_path, target=TARGET) as service:
        good = await applied(service, value=1)
        for name, fault in (*STOPS, *LEFT):
            stopped, stage = (name, fault.split()[0]) if (name, fault) in STOPS else ("three", "commit")
            put(service.conf, value=2, faults=with_a_cause(name, fault), hotreload=OFF)
            with anyio.fail_after(3 * LIMIT_S + 2):
                report = await service.reload()
            assert (report["outcome"], report["generation"]) == ("rolled_back", 2), (name, fault, report)
            first, *left = report["errors"]
            assert first["message"].startswith(f"{stopped}: {stage} "), (name, fault, report)
            degraded = (await service.status())["degraded"]
            if (name, fault) in STOPS:
                assert (left, first["hint"], degraded) == ([], "everything is as it was; the log has the details", None)
            else:
                told = f"{name}: {'going back' if fault.startswith('revert') else 'undo'} "
                assert [error["message"][: len(told)] for error in left] == [told], (name, fault, report)
                assert "hint" not in first
                assert told in degraded
                assert (await service.http.get("/readyz")).json()["degraded"] is True
            await one_generation(service, 2, good)
        good = await applied(service, value=5)
        assert (await service.status())["degraded"] is None
        await one_generation(service, 3, good)


async def test_what_cannot_be_retired_is_logged_and_changes_no_verdict(short_path: Path) -> None:
    put(short_path / "ov.conf", hotreload=OFF)
    async with serving(short_path, target=TARGET) as service:
        good = await applied(service, value=2, faults={"one": "retire fails", "two": "retire hangs"})
        assert "one: retiring the old value failed" in await service.spoken.line("reload.not_retired")
        assert await service.spoken.line("two: the old value was not retired within")
        await one_generation(service, 2, good)
        good = await applied(service, value=3)
        await one_generation(service, 3, good)


@pytest.mark.parametrize("trouble", ["fail", "cancel", "hang"])
async def test_a_resource_that_cannot_be_built_changes_nothing(short_path: Path, trouble: str) -> None:
    put(short_path / "ov.conf", hotreload=OFF)
    async with serving(short_path) as service:
        for part in ("first", "second", "third") if trouble != "hang" else ("second",):  # 5 s each, as in earnest
            put(service.conf, value=1, limit=3, hotreload=OFF, **{part: {"value": 1, "trouble": trouble}})
            report = await service.reload()
            assert (report["outcome"], report["generation"]) == ("rolled_back", 1)
            assert f"resources.{part}: prepare" in report["errors"][0]["message"]
        put(service.conf, value=1, limit=20_000, hotreload=OFF)
        report = await service.reload()
        assert (report["outcome"], report["errors"][0]["message"]) == (
            "rejected",
            "workers.work: a limit is a whole number from 0 to 10,000, not 20000",
        )
        pool = (await service.status())["pools"][0]
        assert (pool["limit"], (await service.status())["generation"]) == (2, 1)
        put(service.conf, value=1, limit=3, hotreload=OFF)
        assert (await service.reload())["outcome"] == "applied"


async def test_who_waits_for_a_reload_when_a_drain_ends_gets_a_verdict(short_path: Path) -> None:
    """A resource that never comes holds the reload; the drain is over long before its limit of 5 s."""
    put(short_path / "ov.conf", hotreload=OFF)
    async with serving(short_path) as service:
        put(service.conf, first={"trouble": "hang"}, hotreload=OFF)
        done: list[Any] = []

        async def ask(way: Callable[..., Awaitable[Any]], *arguments: str) -> None:
            done.append(await way(*arguments))

        async with anyio.create_task_group() as asking:
            asking.start_soon(ask, service.verb, "reload", "--json")
            await service.spoken.line("building for ever")
            asking.start_soon(ask, service.http.post, "/admin/config/reload")
            assert (await service.status())["generation"] == 1
            service.process.send_signal(signal.SIGTERM)
            with anyio.fail_after(4):
                assert await service.process.wait() == 0
        verb, answer = sorted(done, key=lambda each: isinstance(each, httpx.Response))
        assert (verb.returncode, json.loads(verb.stdout)["outcome"]) == (4, "refused")
        assert (answer.status_code, answer.json()["errors"][0]["path"]) == (409, "phase")
        assert "building was cancelled" in "\n".join(service.spoken.lines)


@pytest.mark.parametrize(("name", "stage"), KILLS)
async def test_killed_in_a_reload_the_last_good_file_is_whole(short_path: Path, name: str, stage: str) -> None:
    put(short_path / "ov.conf", value=1, hotreload=OFF)
    good = {(short_path / "ov.conf").read_bytes(): 1}
    async with serving(short_path, target=TARGET) as service:
        put(service.conf, value=2, faults=with_a_cause(name, f"{stage} is killed"), hotreload=OFF)
        if stage == "retire":  # applied by then, and kept or about to be
            good[service.conf.read_bytes()] = 2
        with suppress(httpx.HTTPError):
            await service.reload()
            assert stage == "retire"
        with anyio.fail_after(5):
            assert await service.process.wait() == -9
        assert kept(service) in good
        service.conf.write_text('{"value": ')
    async with serving(short_path, "--last-known-good", target=TARGET) as service:
        status = await service.status()
        assert "runs on the last-known-good file" in status["degraded"]
        assert (await service.get("/admin/config"))["settings"]["value"] == good[kept(service)]
        if (name, stage) != KILLS[0]:
            return
        ready = (await service.http.get("/readyz")).json()
        assert (ready["ready"], ready["degraded"]) == (True, True)
        assert "hotreload_config_degraded 1.0" in (await service.http.get("/metrics")).text
        put(service.conf, value=3, hotreload=OFF)
        assert (await service.reload())["outcome"] == "applied"
        assert (await service.status())["degraded"] is None


POINTS = ("open", "write", "fsync", "replace", "fsync folder", "never")
KEEP = """
import os, signal, sys
from pathlib import Path
from hotreload.config.last_known_good import LastKnownGood
folder, point = Path(sys.argv[1]), sys.argv[2]
seen = []
def killed_after(name, call):
    def run(*arguments, **options):
        result = call(*arguments, **options)
        seen.append(name)
        if point == (name + " folder" if name == "fsync" and seen.count(name) == 2 else name):
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return run
keeper = LastKnownGood(folder)
if point == "write":
    real = os.fdopen
    def cut(*arguments):
        file = real(*arguments)
        file.write(b"{half"); file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    os.fdopen = cut
for name in ("open", "fsync", "replace"):
    setattr(os, name, killed_after(name, getattr(os, name)))
keeper.keep(b"new" * 1000)
"""


@pytest.mark.parametrize("point", POINTS)
def test_killed_while_it_is_kept_the_copy_is_the_old_or_the_new(tmp_path: Path, point: str) -> None:
    old, new = b"old" * 900, b"new" * 1000
    (tmp_path / "last-known-good.json").write_bytes(old)
    for expected in (-9 if point != "never" else 0, 0):
        killed = subprocess.run(
            [sys.executable, "-c", KEEP, str(tmp_path), point if expected else "never"], check=False
        )
        assert killed.returncode == expected
        kept = (tmp_path / "last-known-good.json").read_bytes()
        assert kept in ((old, new) if expected else (new,))
    (kept_file,) = tmp_path.iterdir()
    assert kept_file.stat().st_mode & 0o777 in (0o600, 0o644)


async def test_the_copy_is_private_and_no_more_than_what_was_applied(short_path: Path) -> None:
    (short_path / "ov.conf").write_text(text(password="hidden"))
    (short_path / "ov.conf").chmod(0o644)
    async with serving(short_path) as service:
        kept = service.folder / ".hotreload" / "last-known-good.json"
        assert kept.stat().st_mode & 0o777 == 0o600
        assert kept.parent.stat().st_mode & 0o777 == 0o700
        assert kept.read_bytes() == service.conf.read_bytes()
        good = kept.read_bytes()
        service.conf.write_text(text(value=-1))
        await service.until("refused", lambda reloads: any(report["outcome"] == "rejected" for report in reloads))
        assert kept.read_bytes() == good
