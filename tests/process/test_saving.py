"""Whatever way a file is saved: one reload, applied; none missed, and nothing half-written taken for broken."""

# ruff: noqa: ASYNC221, ASYNC240

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import anyio
import pytest

from tests.process.running import wait_until
from tests.process.saves import MISSING, PATTERNS, TOOLS, Save, in_place
from tests.process.serving import Running, put, serving, text

pytestmark = pytest.mark.anyio


@pytest.fixture
def conf(short_path: Path) -> Path:
    folder = short_path / "etc"
    folder.mkdir()
    put(folder / "ov.conf")
    return folder / "ov.conf"


async def one_reload(service: Running, save: Save, value: int) -> None:
    """Save, and hear exactly one report: applied."""
    generation, before = (await service.status())["generation"], len(service.reloads)
    await save(service.conf, text(value=value))
    report = await service.applied(value)
    assert report["generation"] == generation + 1
    assert (report["trigger"]["kind"], report["errors"], report["warnings"]) == ("file", [], [])
    assert len(service.reloads) == before + 1, service.reloads[before:]


async def test_each_way_of_saving_is_one_reload(short_path: Path, conf: Path) -> None:
    async with serving(short_path, conf=conf) as service:
        patterns = {name: save for name, save in PATTERNS.items() if TOOLS.get(name) not in MISSING}
        for value, (name, save) in enumerate(patterns.items(), 1):
            try:
                await one_reload(service, save, value)
            except AssertionError as error:
                raise AssertionError(name) from error
        await anyio.sleep(1.2)  # two looks: nothing is found that was not told
        assert [report["outcome"] for report in service.reloads] == ["applied"] * len(patterns)
        watch = (await service.status())["watch"]
        assert (watch["healthy"], watch["backend"]) == (True, "inotify")
    if MISSING:
        pytest.skip(f"all others hold; not installed: {', '.join(MISSING)}")


async def test_a_swap_of_a_mounted_config_map_is_one_reload(short_path: Path) -> None:
    folder = short_path / "etc"
    for version in range(3):
        (folder / f"..{version}").mkdir(parents=True)
        put(folder / f"..{version}" / "ov.conf", value=version)
    (folder / "..data").symlink_to("..0")
    (folder / "ov.conf").symlink_to("..data/ov.conf")

    async def swap(conf: Path, _text: str) -> None:
        new = conf.parent / "..data_tmp"
        new.symlink_to(f"..{value}")
        new.replace(conf.parent / "..data")

    async with serving(short_path, conf=folder / "ov.conf") as service:
        for value in (1, 2):
            await one_reload(service, swap, value)


async def test_a_link_that_points_elsewhere_is_one_reload(short_path: Path, conf: Path) -> None:
    far, link = short_path / "far" / "deep", short_path / "ov.conf"
    far.mkdir(parents=True)
    link.symlink_to(conf)

    async def retarget(_conf: Path, content: str) -> None:
        (far / "other.conf").write_text(content)
        (short_path / "link").symlink_to(far / "other.conf")
        (short_path / "link").replace(link)

    async def behind(_conf: Path, content: str) -> None:
        new = far / "other.new"
        new.write_text(content)
        new.replace(far / "other.conf")

    async with serving(short_path, conf=link) as service:
        await one_reload(service, retarget, 1)
        await one_reload(service, behind, 2)
        conf.write_text(text(value=3))  # nobody's any more
        await service.rest()
        assert len(service.reloads) == 2


async def test_a_file_that_says_the_same_calls_no_part(short_path: Path, conf: Path) -> None:
    async with serving(short_path, conf=conf) as service:
        before = conf.read_text()

        async def unchanged(count: int) -> None:
            await service.until("a verdict", lambda reloads: len(reloads) == count)
            assert service.reloads[-1]["outcome"] == "unchanged", service.reloads
            assert "prepare" not in service.reloads[-1]["timings_ms"]

        os.utime(conf)
        await unchanged(1)
        conf.chmod(0o600)
        await unchanged(2)
        conf.write_text("\n\n" + before.replace("  ", "\t"))
        await unchanged(3)
        conf.write_text('{"value": 0, ' + before.lstrip("{ \n"))
        await unchanged(4)
        (conf.parent / "another").write_text("nobody's")
        await service.rest()
        assert len(service.reloads) == 4
        assert (await service.status())["generation"] == 1


async def test_a_broken_file_is_refused_once_and_so_is_one_that_stays_empty(short_path: Path, conf: Path) -> None:
    async with serving(short_path, conf=conf) as service:
        for count, content in enumerate(('{"value": ', "", "[]"), 1):
            conf.write_text(content)
            await service.until("a verdict", lambda reloads, count=count: len(reloads) == count)
            assert service.reloads[-1]["outcome"] == "rejected"
        conf.unlink()
        await service.rest()
        await one_reload(service, in_place, 7)
        assert len(service.reloads) == 4


ON_ITS_OWN = 'mount --make-rprivate / && mount --bind "$0" "$1" && shift && exec "$@"'


async def test_a_file_mounted_alone_is_followed_in_place_and_warned_about(short_path: Path, conf: Path) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("nobody may mount here")
    source = short_path / "source.conf"
    put(source)
    before = ("unshare", "-m", "sh", "-c", ON_ITS_OWN, str(source), str(conf))
    async with serving(short_path, conf=conf, before=before) as service:
        for value in (1, 2):
            source.write_text(text(value=value))
            report = await service.applied(value)
            assert len(service.reloads) == value
            (warning,) = report["warnings"]
            assert "is mounted as a single file" in warning["message"]
        put(source, value=3)
        await wait_until(lambda: _warned(service, "was replaced or deleted on the other side"), 5, "a warning")
        assert len(service.reloads) == 2


async def test_a_write_through_another_name_of_the_file_is_seen(short_path: Path, conf: Path) -> None:
    other = short_path / "other.conf"
    other.hardlink_to(conf)
    async with serving(short_path, conf=conf) as service:
        other.write_text(text(value=1))
        await service.applied(1)
        assert (await service.status())["watch"]["overflows"] == 0


async def _warned(service: Running, words: str) -> bool:
    return words in ((await service.status())["watch"]["warning"] or "")
