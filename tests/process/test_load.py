"""Real files: "being written" is told from "broken", and nothing but a quiet regular file is read."""
# ruff: noqa: ASYNC240

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from hotreload.config.document import MAX_BYTES, Document
from hotreload.errors import ConfigError, ConfigInvalid, ConfigUnreadable, Problem
from hotreload.reload import load as module
from hotreload.reload.load import Reading, load, read_file

pytestmark = pytest.mark.anyio

GOOD, OTHER, BROKEN = b'{"a": 1}', b'{"a": 2}', b'{"a": '


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "ov.conf"
    path.write_bytes(GOOD)
    return path


async def take(path: Path, **options: Any) -> Document:
    return await load(path, **{"settle_s": 0.2, "deadline_s": 1.0, **options})


async def refused(path: Path, **options: Any) -> tuple[ConfigError, float]:
    began = anyio.current_time()
    with pytest.raises(ConfigError) as caught:
        await take(path, **options)
    return caught.value, anyio.current_time() - began


async def while_writing(path: Path, steps: list[Callable[[], object]], pause_s: float, **options: Any) -> Document:
    """Load while another task takes these steps, the first before the load begins."""

    async def write() -> None:
        for step in steps[1:]:
            await anyio.sleep(pause_s)
            step()

    steps[0]()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        return await take(path, **options)


async def test_a_good_file_is_read(conf: Path) -> None:
    document = await take(conf)
    assert document.data == {"a": 1}
    assert document.raw == GOOD
    assert document.path == conf


@pytest.mark.parametrize("pause_s", [0.0, 0.05, 0.12])
async def test_a_writer_that_truncates_and_pauses_is_waited_for(conf: Path, pause_s: float) -> None:
    steps = [
        lambda: conf.write_bytes(b""),
        lambda: conf.write_bytes(OTHER[:3]),
        lambda: conf.write_bytes(OTHER[:6]),
        lambda: conf.write_bytes(OTHER),
    ]
    assert (await while_writing(conf, steps, pause_s)).data == {"a": 2}


async def test_a_broken_file_that_is_replaced_is_waited_for(conf: Path, tmp_path: Path) -> None:
    def replace() -> None:
        (tmp_path / "new").write_bytes(OTHER)
        (tmp_path / "new").replace(conf)

    assert (await while_writing(conf, [lambda: conf.write_bytes(BROKEN), replace], 0.1)).data == {"a": 2}


@pytest.mark.parametrize("content", [b"", b"\n", BROKEN, b'{"a": "\xc3'])
async def test_a_quiet_broken_file_is_refused_after_it_settled(conf: Path, content: bytes) -> None:
    conf.write_bytes(content)
    error, took = await refused(conf)
    assert isinstance(error, ConfigInvalid)
    assert 0.2 <= took < 0.9


async def test_a_file_broken_long_ago_is_refused_at_once(conf: Path) -> None:
    conf.write_bytes(BROKEN)
    changed = conf.stat().st_ctime
    _, took = await refused(conf, wall=lambda: changed + 60)
    assert took < 0.15


async def test_an_old_modification_time_alone_does_not_make_a_file_old(conf: Path) -> None:
    conf.write_bytes(BROKEN)
    os.utime(conf, (1, 1))
    _, took = await refused(conf)
    assert took >= 0.2


@pytest.mark.parametrize("jump_s", [-3600.0, -1.0, 1.0])
async def test_a_clock_that_is_off_changes_nothing(conf: Path, jump_s: float) -> None:
    conf.write_bytes(BROKEN)
    changed = conf.stat().st_ctime
    _, took = await refused(conf, wall=lambda: changed + jump_s)
    assert 0.2 <= took < 0.9
    conf.write_bytes(GOOD)
    assert (await take(conf, wall=lambda: changed + jump_s)).data == {"a": 1}


async def test_a_file_that_never_rests_is_given_up(conf: Path) -> None:
    count = 0

    async def restless(path: Path) -> Reading:
        nonlocal count
        count += 1
        return Reading((count,), None, BROKEN)

    error, took = await refused(conf, read=restless, deadline_s=0.3)
    assert isinstance(error, ConfigUnreadable)
    assert "still being written" in str(error)
    assert len(error.problems) == 2
    assert 0.3 <= took < 0.8


async def test_a_file_that_parses_is_taken_at_the_deadline_and_a_torn_one_never(conf: Path) -> None:
    count = 0

    async def restless(path: Path) -> Reading:
        nonlocal count
        count += 1
        return Reading((count,), 100.0, GOOD)

    async def torn(path: Path) -> Reading:
        return Reading((), 100.0, GOOD, torn=True)

    assert (await take(conf, read=restless, wall=lambda: 100.0, deadline_s=0.2)).data == {"a": 1}
    error, _ = await refused(conf, read=torn, deadline_s=0.2)
    assert len(error.problems) == 1


async def test_a_good_file_written_this_moment_is_looked_at_twice(conf: Path) -> None:
    contents = iter([GOOD, OTHER, OTHER])
    looks: list[bytes] = []

    async def read(path: Path) -> Reading:
        looks.append(next(contents))
        return Reading((len(looks) > 1,), 100.0, looks[-1])

    assert (await take(conf, read=read, wall=lambda: 100.0)).data == {"a": 2}
    assert looks == [GOOD, OTHER, OTHER]


async def test_an_absent_file_is_an_error_at_once_or_waited_for(conf: Path) -> None:
    conf.unlink()
    error, took = await refused(conf)
    assert isinstance(error, ConfigUnreadable)
    assert "does not exist" in str(error)
    assert took < 0.15
    _, took = await refused(conf, absent_s=0.3)
    assert 0.3 <= took < 0.8
    steps: list[Callable[[], object]] = [
        lambda: None,
        lambda: conf.write_bytes(BROKEN),
        lambda: conf.write_bytes(OTHER),
    ]
    assert (await while_writing(conf, steps, 0.15, absent_s=0.3)).data == {"a": 2}


async def test_a_file_deleted_and_recreated_broken_still_gets_its_time(conf: Path) -> None:
    conf.unlink()
    steps: list[Callable[[], object]] = [
        lambda: None,
        lambda: conf.write_bytes(BROKEN),
        conf.unlink,
        lambda: conf.write_bytes(OTHER),
    ]
    assert (await while_writing(conf, steps, 0.12, absent_s=0.3, deadline_s=0.3)).data == {"a": 2}


async def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(ConfigUnreadable, match="not a regular file"):
            await take(path, settle_s=0.0)
    with pytest.raises(ConfigUnreadable, match="symbolic links"):
        await take(tmp_path / "loop", settle_s=0.0)
    (tmp_path / "file").write_bytes(GOOD)
    with pytest.raises(ConfigUnreadable, match="does not exist"):
        await take(tmp_path / "file" / "below")


async def test_a_file_over_the_limit_is_refused(conf: Path) -> None:
    conf.write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(ConfigUnreadable, match="larger than"):
        await take(conf, settle_s=0.0)


async def test_a_symbolic_link_is_followed(conf: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(conf)
    assert (await take(tmp_path / "link")).name == "link"


def as_nobody(step: Callable[[], Reading]) -> Reading:
    """Take a step in a thread of its own with another effective user (Linux: users are per thread)."""
    import ctypes

    result: list[Reading] = []

    def run() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if os.geteuid() == 0:
            assert libc.syscall(_SETFSUID, 65534) == 0
        result.append(step())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return result[0]


_SETFSUID = {"x86_64": 122, "aarch64": 151}[os.uname().machine]


async def test_a_file_one_may_not_read_says_who_and_how(short_path: Path) -> None:
    conf = short_path / "ov.conf"
    conf.write_bytes(GOOD)
    conf.chmod(0o200)
    short_path.chmod(0o755)
    reading = as_nobody(lambda: read_file(conf))
    assert reading.problem is not None
    owner = f"(mode 0200, owner uid {os.getuid()})"
    assert reading.problem.message == f"permission denied: uid {os.geteuid()} may not read {conf} {owner}"
    short_path.chmod(0o600)
    reading = as_nobody(lambda: read_file(conf))
    assert reading.problem is not None
    assert "by a folder above" in reading.problem.message


async def test_a_file_nobody_may_read_yet_is_waited_for(conf: Path) -> None:
    denied = Reading((1,), 100.0, problem=Problem("", "permission denied"))
    looks = iter([denied, denied, Reading((1,), 100.0, GOOD)])

    async def read(path: Path) -> Reading:
        return next(looks)

    assert (await take(conf, read=read, wall=lambda: 100.5)).data == {"a": 1}


async def test_a_hanging_file_system_does_not_hold_the_loop(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def hang(path: Path) -> Reading:
        release.wait(10)
        return Reading(())

    monkeypatch.setattr(module, "read_file", hang)
    try:
        error, took = await refused(conf, deadline_s=0.2)
    finally:
        release.set()
    assert "took longer" in str(error)
    assert took < 0.8


async def test_a_load_can_be_cancelled(conf: Path) -> None:
    conf.write_bytes(BROKEN)
    with anyio.move_on_after(0.05) as scope:
        await take(conf)
    assert scope.cancelled_caught


async def test_a_change_during_the_read_is_seen(conf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not read_file(conf).torn
    real = os.fstat
    calls = 0

    def changing(descriptor: int) -> os.stat_result:
        nonlocal calls
        calls += 1
        if calls == 2:
            conf.write_bytes(b'{"a": 12345}')
        return real(descriptor)

    monkeypatch.setattr(module.os, "fstat", changing)
    assert read_file(conf).torn


async def test_a_replacement_during_the_read_is_seen(
    conf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fstat
    calls = 0

    def replacing(descriptor: int) -> os.stat_result:
        nonlocal calls
        calls += 1
        if calls == 2:
            (tmp_path / "new").write_bytes(OTHER)
            (tmp_path / "new").replace(conf)
        return real(descriptor)

    monkeypatch.setattr(module.os, "fstat", replacing)
    assert read_file(conf).torn
