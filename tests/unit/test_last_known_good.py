"""The copy of the last applied file: whole, private, and at a start what a broken file is replaced by, or why not."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hotreload.config.last_known_good import NAME, LastKnownGood
from hotreload.config.settings import LiveSettings, SettingsModel
from hotreload.errors import ConfigError, ConfigInvalid
from hotreload.host.start import RunOptions, Started, start
from hotreload.reload.load import Reader
from hotreload.reload.validate import Source

pytestmark = pytest.mark.anyio
BROKEN = '{"value": '


class Sample(LiveSettings):
    value: int = 0


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize(("original", "kept"), [(0o644, 0o600), (0o600, 0o600), (0o400, 0o400), (0o640, 0o600)])
def test_the_copy_is_private_and_never_more_readable(tmp_path: Path, original: int, kept: int) -> None:
    conf = tmp_path / "ov.conf"
    conf.write_bytes(b"{}")
    conf.chmod(original)
    reader = Reader()
    reader.read([conf])
    keeper = LastKnownGood(tmp_path, partial(reader.mode_of, conf))
    for _ in range(2):
        keeper.keep(b"{}")
        assert keeper.read() == b"{}"
        assert mode(keeper.path) == kept
        keeper.path.chmod(0o644)  # as a careless restore leaves it
    assert sorted(path.name for path in tmp_path.iterdir()) == [NAME, "ov.conf"]


def test_a_link_in_its_place_is_replaced(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"{}")
    keeper = LastKnownGood(tmp_path)
    keeper.path.symlink_to(elsewhere)
    keeper.keep(b"{}")
    assert not keeper.path.is_symlink()
    assert mode(keeper.path) == 0o600


def test_the_same_content_is_not_written_again(tmp_path: Path) -> None:
    keeper = LastKnownGood(tmp_path, partial(Reader().mode_of, tmp_path / "gone"))
    keeper.keep(b"{}")
    before = keeper.path.stat().st_ino
    keeper.keep(b"{}")
    assert keeper.path.stat().st_ino == before
    keeper.keep(b"{ }")
    assert keeper.read() == b"{ }"


def test_a_disk_that_refuses_it_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    LastKnownGood(tmp_path / "missing").keep(b"{}")
    assert "last_known_good.not_kept" in caplog.text


async def begin(folder: Path, text: str, **options: Any) -> Started:
    conf = folder / "ov.conf"
    conf.write_text(text)
    own = RunOptions(**options)
    source = Source(conf, SettingsModel(Sample), own_options=own.own_settings())
    started = await start("sample", source, own)
    started.store.close()
    return started


async def keep(folder: Path, **settings: Any) -> Path:
    await begin(folder, json.dumps({"value": 7, **settings}))
    return folder / ".hotreload" / NAME


ASKED: list[Callable[[pytest.MonkeyPatch], dict[str, Any]]] = [
    lambda _: {"last_known_good": True},
    lambda patch: patch.setenv("OVCONF__HOTRELOAD__LAST_KNOWN_GOOD", "yes") or {},
    lambda patch: patch.setenv("ovconf__hotreload__last_known_good", "1") or {},
]


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("text", [BROKEN, '{"value": "x"}', '{"value": "x", "hotreload": {"last_known_good": false}}'])
async def test_a_broken_file_is_replaced_by_it_where_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: Callable[[pytest.MonkeyPatch], dict[str, Any]], text: str
) -> None:
    await keep(tmp_path)
    started = await begin(tmp_path, text, **asked(monkeypatch))
    assert started.snapshots.current.settings.value == 7
    assert str(started.degraded).startswith("runs on the last-known-good file: ov.conf:1:")


async def test_the_file_that_was_applied_may_ask_for_it(tmp_path: Path) -> None:
    await keep(tmp_path, hotreload={"last_known_good": True})
    assert (await begin(tmp_path, BROKEN)).degraded
    with pytest.raises(ConfigInvalid):
        await begin(tmp_path, '{"value": "x"}')  # here the file itself can be asked, and says nothing


async def test_where_it_is_not_asked_for_the_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await keep(tmp_path)
    monkeypatch.setenv("OVCONF__HOTRELOAD__LAST_KNOWN_GOOD", "no")
    for text in (BROKEN, '{"value": "x", "hotreload": {"last_known_good": true}}'):
        with pytest.raises(ConfigError):
            await begin(tmp_path, text)


@pytest.mark.parametrize("name", ["OVCONF__HOTRELOAD__STATE_DIR", "ovconf__hotreload__state_dir"])
async def test_the_state_folder_is_where_any_source_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "state")
    assert (await begin(tmp_path, "{}")).state_dir == tmp_path / "state"
    assert (tmp_path / "state" / NAME).exists()
    assert not (tmp_path / ".hotreload").exists()
    assert (await begin(tmp_path, BROKEN, last_known_good=True)).state_dir == tmp_path / "state"


@pytest.mark.parametrize("stated", [5, None, [], {"x": 1}])
async def test_a_state_folder_that_is_no_path_is_a_refusal(tmp_path: Path, stated: object) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        await begin(tmp_path, json.dumps({"value": "x", "hotreload": {"state_dir": stated}}))
    expected = ["value"] if stated is None else ["value", "hotreload.state_dir"]
    assert [problem.path for problem in caught.value.problems] == expected


@pytest.mark.parametrize("stated", [5, "x", []])
async def test_a_section_that_is_none_is_a_refusal(tmp_path: Path, stated: object) -> None:
    with pytest.raises(ConfigInvalid, match="hotreload: must be an object"):
        await begin(tmp_path, json.dumps({"hotreload": stated}))


async def test_a_copy_that_is_broken_too_is_named_as_what_it_is(tmp_path: Path) -> None:
    kept = await keep(tmp_path)
    for content, place in (('{"value": "y"}', f"{NAME}:1:11: value: "), ("{", f"{NAME}:1:2: ")):
        kept.write_text(content)
        with pytest.raises(ConfigInvalid) as caught:
            await begin(tmp_path, '{\n"value": "x"}', last_known_good=True)
        first, second = map(str, caught.value.problems)
        assert first.startswith("ov.conf:2:10: value: must be a whole number")
        assert second.startswith(f"{place}the last-known-good file cannot be used either: ")


async def test_a_copy_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    kept = await keep(tmp_path)
    kept.unlink()
    with pytest.raises(ConfigInvalid) as caught:
        await begin(tmp_path, BROKEN, last_known_good=True)
    assert len(caught.value.problems) == 1
    kept.mkdir()
    with pytest.raises(ConfigInvalid) as caught:
        await begin(tmp_path, BROKEN, last_known_good=True)
    assert str(caught.value.problems[1]) == (
        f"{NAME}: the last-known-good file cannot be used either: cannot be read: Is a directory"
    )
