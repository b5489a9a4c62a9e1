"""Whatever goes wrong in whichever part: one generation everywhere, the part named, the last good file whole."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.process.faulty import LIMIT_S, NAMES
from tests.process.serving import Running, put, serving, text

pytestmark = pytest.mark.anyio
TARGET = "tests.process.faulty:service"
OFF: dict[str, Any] = {"watch": False}
FAULTS = tuple(
    f"{step} {how}"
    for step, ways in (
        ("prepare", ("fails", "hangs", "is cancelled")),
        ("commit", ("fails", "is cancelled")),
        ("undo", ("fails", "hangs", "is cancelled")),
    )
    for how in ways
)


def on(service: Running) -> set[int]:
    """Return the generations the parts say they run on."""
    files = [service.folder / name for name in NAMES]
    return {json.loads(file.read_text())["generation"] for file in files if file.exists()}


async def one_generation(service: Running, generation: int) -> None:
    assert (await service.status())["generation"] == generation
    assert on(service) == {generation}
    assert f"hotreload_config_generation {float(generation)}" in (await service.http.get("/metrics")).text


async def test_one_generation_everywhere_whatever_fails_where(short_path: Path) -> None:
    put(short_path / "ov.conf", hotreload=OFF)
    async with serving(short_path, target=TARGET) as service:
        put(service.conf, value=1, hotreload=OFF)
        assert (await service.reload())["outcome"] == "applied"
        good = (service.folder / ".hotreload" / "last-known-good.json").read_bytes()
        for fault in FAULTS:
            for name in NAMES:
                faults = {name: fault}
                named = name
                if fault.startswith("undo"):  # somebody after it must fail, or nothing is undone
                    named = "three"
                    faults = {"three": "commit fails", **({} if name == "three" else {name: fault})}
                put(service.conf, value=2, faults=faults, hotreload=OFF)
                with anyio.fail_after(10 * LIMIT_S + 3):
                    report = await service.reload()
                assert (report["outcome"], report["generation"]) == ("rolled_back", 2), (fault, report)
                assert report["errors"][0]["message"].startswith(f"{named}: {fault.split()[0]}"[: len(named) + 2])
                await one_generation(service, 2)
        put(service.conf, value=2, faults={"one": "retire fails", "two": "retire hangs"}, hotreload=OFF)
        report = await service.reload()
        assert (report["outcome"], len(report["warnings"])) == ("applied", 2)
        await one_generation(service, 3)
        put(service.conf, value=5, hotreload=OFF)
        assert (await service.reload())["outcome"] == "applied"
        await one_generation(service, 4)
        assert good != service.conf.read_bytes()


@pytest.mark.parametrize("trouble", ["fail", "cancel"])
async def test_a_resource_that_cannot_be_built_changes_nothing(short_path: Path, trouble: str) -> None:
    put(short_path / "ov.conf", hotreload=OFF)
    async with serving(short_path) as service:
        for part in ("first", "second", "third"):
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


@pytest.mark.parametrize("fault", ["prepare is killed", "commit is killed"])
async def test_killed_in_a_reload_the_last_good_file_is_whole(short_path: Path, fault: str) -> None:
    put(short_path / "ov.conf", value=1, hotreload=OFF)
    good = (short_path / "ov.conf").read_bytes()
    async with serving(short_path, target=TARGET) as service:
        put(service.conf, value=2, faults={"two": fault}, hotreload=OFF)
        with pytest.raises(Exception, match=r".*"):
            await service.reload()
        with anyio.fail_after(5):
            assert await service.process.wait() == -9
        service.conf.write_text('{"value": ')
    async with serving(short_path, "--last-known-good") as service:
        assert (service.folder / ".hotreload" / "last-known-good.json").read_bytes() == good
        status = await service.status()
        assert "runs on the last-known-good file" in status["degraded"]
        ready = (await service.http.get("/readyz")).json()
        assert (ready["ready"], ready["degraded"]) == (True, status["degraded"])
        assert "hotreload_config_degraded 1.0" in (await service.http.get("/metrics")).text
        assert (await service.get("/admin/config"))["settings"]["value"] == 1
        put(service.conf, value=3, hotreload=OFF)
        assert (await service.reload())["outcome"] == "applied"
        assert (await service.status())["degraded"] is None


POINTS = ("open", "write", "fsync", "replace", "fsync folder", "never")
KEEP = """
import os, signal, sys
from pathlib import Path
from hotreload.host.last_known_good import LastKnownGood
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
