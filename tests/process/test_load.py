"""Real files: "being written" is told from "complete" and from "broken", and nothing but a regular file is read."""
# ruff: noqa: ASYNC240

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from hotreload.config.document import MAX_BYTES, Document
from hotreload.errors import ConfigError, ConfigInvalid, ConfigUnreadable, Problem
from hotreload.reload.daemon_thread import DaemonThread
from hotreload.reload.load import Inputs, Reader
from hotreload.reload.mounts import Mount, mount_of
from hotreload.reload.reading import Reading, read_file
from tests.process.running import wait_until

pytestmark = pytest.mark.anyio

GOOD, OTHER, BROKEN = b'{"a": 1}', b'{"a": 2}', b'{"a": '
OLD, NEW, MIXED = b'{"a": 11111, "b": 11111}', b'{"a": 22222, "b": 22222}', b'{"a": 22222, "b": 11111}'
NOW = 1000.0
PATIENT = {"rest_s": 2.0, "deadline_s": 20.0}
"""For writers that pause for less than a file must rest, on a machine that may be late."""


@pytest.fixture
def conf(short_path: Path) -> Path:
    path = short_path / "ov.conf"
    path.write_bytes(GOOD)
    short_path.chmod(0o755)
    return path


def reader(**options: Any) -> Reader:
    return Reader(**{"rest_s": 0.2, "deadline_s": 1.0, **options})


async def take(path: Path, *, absent_s: float = 0.0, **options: Any) -> Document:
    return (await reader(**options).settled([path], absent_s=absent_s)).document


async def refused(path: Path, **options: Any) -> tuple[ConfigError, float]:
    began = anyio.current_time()
    with pytest.raises(ConfigError) as caught:
        await take(path, **options)
    return caught.value, anyio.current_time() - began


async def while_writing(steps: list[Callable[[], object]], pause_s: float, taking: Awaitable[Any]) -> Any:
    """Wait while another task takes these steps, the first before the wait begins."""

    async def write() -> None:
        for step in steps[1:]:
            await anyio.sleep(pause_s)
            step()

    steps[0]()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        return await taking


def read_foreign(path: Path) -> Reading:
    """Read as a user whose file it is not: no lease is granted."""
    return as_nobody(lambda: read_file(path))


def as_nobody(step: Callable[[], Any]) -> Any:
    """Take a step in a thread of its own with the capabilities and user of `nobody` (Linux: they are per thread)."""
    result: list[Any] = []

    def run() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if os.geteuid() == 0:
            assert libc.syscall(_SETRESUID, 65534, 65534, 65534) == 0
        result.append(step())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return result[0]


_SETRESUID = {"x86_64": 117, "aarch64": 147}[os.uname().machine]


async def test_a_good_file_is_read(conf: Path) -> None:
    document = await take(conf)
    assert document.data == {"a": 1}
    assert document.raw == GOOD
    assert document.path == conf
    given = await reader().settled([conf], given=OTHER)
    assert given.document.data == {"a": 2}


async def test_the_owner_is_told_whether_a_process_has_it_open_for_writing(conf: Path) -> None:
    assert read_file(conf).writer is False
    with conf.open("rb"):
        assert read_file(conf).writer is False
    with conf.open("r+b"):
        assert read_file(conf).writer is True
    assert read_file(conf).writer is False
    foreign = read_foreign(conf)
    assert (foreign.raw, foreign.writer) == (GOOD, None)


async def test_a_mixture_that_parses_is_not_taken_while_its_writer_pauses(conf: Path) -> None:
    conf.write_bytes(OLD)
    with conf.open("r+b") as file:
        steps: list[Callable[[], object]] = [
            lambda: (file.write(NEW[:12]), file.flush()),
            lambda: (file.write(NEW[12:]), file.close()),
        ]
        document = await while_writing(steps, 0.5, take(conf))
    assert document.raw == NEW


async def test_what_stays_open_is_refused_at_the_deadline_and_is_news_once_it_is_closed(conf: Path) -> None:
    one = reader(deadline_s=0.2)
    with conf.open("r+b"):
        inputs = await one.settled([conf])
    with pytest.raises(ConfigUnreadable, match="still being written after"):
        _ = inputs.document
    assert inputs.versions[conf] != (await one.settled([conf])).versions[conf]


async def test_a_writer_who_begins_during_the_read_waits_and_its_signal_kills_nobody(conf: Path) -> None:
    big = b'{"a": "' + b"x" * (MAX_BYTES - 10) + b'"}'
    conf.write_bytes(big)
    script = f"import sys\nwhile True:\n open({str(conf)!r}, 'r+b').close()\n print(1, flush=True)"
    writer = await anyio.open_process([sys.executable, "-c", script])
    assert writer.stdout is not None
    try:
        await writer.stdout.receive()
        for _ in range(200):
            assert read_file(conf).raw == big
    finally:
        writer.kill()
        await writer.wait()
        await writer.aclose()
    assert signal.getsignal(signal.SIGURG) is signal.SIG_DFL


async def test_where_no_lease_tells_a_file_changed_in_place_must_rest(conf: Path) -> None:
    conf.write_bytes(OLD)
    one = reader(read=read_foreign, rest_s=1.0, deadline_s=20.0)
    await one.settled([conf])

    def half() -> None:
        with conf.open("r+b") as file:
            file.write(NEW[:12])

    inputs = await while_writing([half, lambda: conf.write_bytes(NEW)], 0.1, one.settled([conf]))
    assert inputs.document.raw == NEW
    began = anyio.current_time()
    await one.settled([conf])
    assert anyio.current_time() - began < 1.0, "it has rested"


async def test_where_no_lease_tells_a_file_renamed_into_place_is_complete(conf: Path) -> None:
    began = conf.stat().st_ctime
    one = reader(read=read_foreign, rest_s=30.0, deadline_s=60.0, wall=lambda: began + 60)
    await one.settled([conf])
    began -= 60  # from now on it is just changed
    new = conf.with_name("new")
    new.write_bytes(OTHER)
    new.replace(conf)
    with anyio.fail_after(5):
        inputs = await one.settled([conf])
    assert inputs.document.raw == OTHER


async def test_a_renamed_file_that_is_then_changed_in_place_must_rest() -> None:
    """The new inode alone is not enough: its content changed after its folder did."""
    path = Path("/conf")
    looks = iter(
        [
            Reading((1, 1), NOW - 3600, OLD),
            *[Reading((1, 2), NOW, MIXED, entered_last=False)] * 3,
            *[Reading((1, 2, "later"), NOW, NEW, entered_last=False)] * 100,
        ]
    )
    one = reader(read=lambda _path: next(looks), wall=lambda: NOW)
    await one.settled([path])
    assert (await one.settled([path])).document.raw == NEW


async def test_what_the_watch_saw_before_counts_for_the_rest() -> None:
    path = Path("/conf")
    seen = [Reading((1, 1), NOW - 3600, OLD)]
    one = reader(read=lambda _path: seen[-1], wall=lambda: NOW, rest_s=2.0, deadline_s=20.0)
    one.read([path])
    seen.append(Reading((1, 1, "later"), NOW, NEW))
    one.read([path])
    await anyio.sleep(2.0)
    began = anyio.current_time()
    assert (await one.settled([path])).document.raw == NEW
    assert anyio.current_time() - began < 2.0


@pytest.mark.parametrize("pause_s", [0.0, 0.05, 0.12])
async def test_a_writer_that_truncates_closes_and_pauses_is_waited_for(conf: Path, pause_s: float) -> None:
    steps = [
        lambda: conf.write_bytes(b""),
        lambda: conf.write_bytes(OTHER[:3]),
        lambda: conf.write_bytes(OTHER[:6]),
        lambda: conf.write_bytes(OTHER),
    ]
    assert (await while_writing(steps, pause_s, take(conf, **PATIENT))).data == {"a": 2}


async def test_a_broken_file_that_is_replaced_is_waited_for(conf: Path) -> None:
    def replace() -> None:
        conf.with_name("new").write_bytes(OTHER)
        conf.with_name("new").replace(conf)

    steps = [lambda: conf.write_bytes(BROKEN), replace]
    assert (await while_writing(steps, 0.1, take(conf, **PATIENT))).data == {"a": 2}


@pytest.mark.parametrize("content", [b"", b"\n", BROKEN, b'{"a": "\xc3'])
async def test_a_quiet_broken_file_is_refused_after_it_rested(conf: Path, content: bytes) -> None:
    conf.write_bytes(content)
    error, took = await refused(conf)
    assert isinstance(error, ConfigInvalid)
    assert took >= 0.2


async def test_a_file_broken_long_ago_is_refused_at_once(conf: Path) -> None:
    conf.write_bytes(BROKEN)
    changed = conf.stat().st_ctime
    _, took = await refused(conf, rest_s=30.0, deadline_s=60.0, wall=lambda: changed + 60)
    assert took < 30.0, "no rest is waited for"


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
    assert took >= 0.2
    conf.write_bytes(GOOD)
    assert (await take(conf, wall=lambda: changed + jump_s)).data == {"a": 1}


@pytest.mark.parametrize("content", [GOOD, BROKEN])
async def test_a_file_that_never_rests_is_refused(content: bytes) -> None:
    count = 0

    def restless(_path: Path) -> Reading:
        nonlocal count
        count += 1
        return Reading((count,), NOW, content)

    error, _ = await refused(Path("/conf"), read=restless, deadline_s=0.3, wall=lambda: NOW)
    assert isinstance(error, ConfigUnreadable)
    assert "still being written" in str(error)
    assert len(error.problems) == 1 + (content == BROKEN)
    torn = Reading((), NOW, GOOD, torn=True, writer=False)
    error, _ = await refused(Path("/conf"), read=lambda _path: torn, deadline_s=0.2)
    assert len(error.problems) == 1


async def test_an_absent_file_is_an_error_at_once_or_waited_for(conf: Path) -> None:
    conf.unlink()
    error, _ = await refused(conf, rest_s=30.0, deadline_s=60.0)
    assert isinstance(error, ConfigUnreadable)
    assert "does not exist" in str(error)
    _, took = await refused(conf, absent_s=0.3)
    assert took >= 0.3
    steps: list[Callable[[], object]] = [
        lambda: None,
        lambda: conf.write_bytes(BROKEN),
        lambda: conf.write_bytes(OTHER),
    ]
    assert (await while_writing(steps, 0.15, take(conf, absent_s=0.3))).data == {"a": 2}


async def test_a_file_deleted_and_recreated_broken_still_gets_its_time(conf: Path) -> None:
    conf.unlink()
    steps: list[Callable[[], object]] = [
        lambda: None,
        lambda: conf.write_bytes(BROKEN),
        conf.unlink,
        lambda: conf.write_bytes(OTHER),
    ]
    assert (await while_writing(steps, 0.12, take(conf, absent_s=0.3))).data == {"a": 2}


async def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(ConfigUnreadable, match="not a regular file"):
            await take(path, rest_s=0.0)
    with pytest.raises(ConfigUnreadable, match="symbolic links"):
        await take(tmp_path / "loop", rest_s=0.0)
    (tmp_path / "file").write_bytes(GOOD)
    with pytest.raises(ConfigUnreadable, match="does not exist"):
        await take(tmp_path / "file" / "below")


async def test_a_file_over_the_limit_is_refused(conf: Path) -> None:
    conf.write_bytes(b" " * (MAX_BYTES + 1))
    with pytest.raises(ConfigUnreadable, match="larger than"):
        await take(conf, rest_s=0.0)


async def test_a_symbolic_link_is_followed(conf: Path) -> None:
    link = conf.with_name("link")
    link.symlink_to(conf)
    assert (await take(link)).name == "link"


async def test_a_file_one_may_not_read_says_who_and_how(conf: Path) -> None:
    conf.chmod(0o200)
    conf.parent.chmod(0o755)
    owner = f"(mode 0200, owner uid {os.getuid()})"
    problem = as_nobody(lambda: (read_file(conf).problem, os.geteuid()))
    assert problem[0].message == f"permission denied: uid {problem[1]} may not read {conf} {owner}"
    conf.parent.chmod(0o600)
    assert "by a folder above" in as_nobody(lambda: read_file(conf).problem).message


async def test_a_file_that_may_not_be_read_yet_is_waited_for() -> None:
    denied = Reading((1,), NOW, problem=Problem("", "permission denied"))
    looks = iter([denied, denied, Reading((1,), NOW, GOOD, writer=False)])
    document = await take(Path("/conf"), read=lambda _path: next(looks), wall=lambda: NOW + 0.5)
    assert document.data == {"a": 1}


async def test_a_load_can_be_cancelled(conf: Path) -> None:
    conf.write_bytes(BROKEN)
    with anyio.move_on_after(0.05) as scope:
        await take(conf)
    assert scope.cancelled_caught


async def test_a_change_and_a_replacement_during_the_read_are_seen(conf: Path) -> None:
    """A file that is rewritten and replaced all the time is read whole, or the reading says that it is torn."""
    whole = {b'{"a": "' + letter * 500_000 + b'"}' for letter in (b"x", b"y")}
    script = (
        "import os, sys\npath = sys.argv[1]\nwhile True:\n for letter in 'xy':\n"
        "  text = '{\"a\": \"' + letter * 500_000 + '\"}'\n"
        "  open(path, 'r+').write(text)\n  open(path + '.new', 'w').write(text)\n"
        "  os.replace(path + '.new', path)\n  print(1, flush=True)"
    )
    conf.write_bytes(sorted(whole)[0])
    writer = await anyio.open_process([sys.executable, "-c", script, str(conf)])
    assert writer.stdout is not None
    torn = taken = 0
    try:
        await writer.stdout.receive()
        for _ in range(300):
            reading = read_file(conf)
            torn += reading.torn
            if reading.writer is False and not reading.torn and reading.raw:
                taken += 1
                assert reading.raw in whole
    finally:
        writer.kill()
        await writer.wait()
        await writer.aclose()
    assert taken


async def test_what_is_complete_goes_on_though_a_file_beside_it_never_is(conf: Path) -> None:
    beside = conf.with_name("vlm.api_key")
    beside.write_bytes(b"secret")
    seen: list[tuple[Document, dict[Path, bytes | str]]] = []

    def then(document: Document, inputs: Inputs) -> None:
        seen.append((document, inputs.beside))

    with beside.open("r+b"):
        inputs = await reader(deadline_s=0.3).settled([conf, beside], then=then)
    assert seen == [(inputs.document, {beside: "still being written"})]
    assert inputs.document.data == {"a": 1}


def named(name: str) -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == name]


async def test_a_thread_serves_the_next_call_and_ends_without_one() -> None:
    thread = DaemonThread("idles", idle_s=0.2)
    first = await thread.run(threading.get_ident, 5)
    assert await thread.run(threading.get_ident, 5) == first
    (left,) = named("idles")
    left.join(10)
    assert not left.is_alive()
    assert await thread.run(lambda: 7, 5) == 7


async def test_of_threads_that_worked_at_once_one_waits_for_the_next_call() -> None:
    thread, both = DaemonThread("at once", most=2), threading.Barrier(2)
    async with anyio.create_task_group() as tasks:
        for _ in range(2):
            tasks.start_soon(thread.run, both.wait, 10)
    await wait_until(lambda: len(named("at once")) == 1, 10, "one thread is left")
    assert await thread.run(lambda: 7, 5) == 7
    thread.close()
    await wait_until(lambda: not named("at once"), 10, "no thread is left")


async def test_a_call_that_hangs_keeps_the_turn_and_nothing_waits_for_it() -> None:
    thread, release = DaemonThread("hangs"), threading.Event()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await thread.run(release.wait, 0.05)
    assert len(named("hangs")) == 1
    with anyio.move_on_after(0.05) as left:
        await thread.run(lambda: None, 5)
    assert left.cancelled_caught
    release.set()
    assert await thread.run(lambda: 7, 5) == 7
    with pytest.raises(ZeroDivisionError):
        await thread.run(lambda: 1 // 0, 5)


async def test_a_call_that_hangs_keeps_neither_the_loop_nor_the_process_from_ending() -> None:
    script = (
        "import anyio, threading\nfrom hotreload.reload.daemon_thread import DaemonThread\n"
        "async def main():\n with anyio.move_on_after(0.05):\n"
        "  await DaemonThread('hangs').run(threading.Event().wait, 60)\n print('over', flush=True)\n"
        "anyio.run(main)\n"
    )
    with anyio.fail_after(20):
        done = await anyio.run_process([sys.executable, "-c", script])
    assert done.stdout == b"over\n"


async def test_a_file_system_that_does_not_answer_is_a_refusal(conf: Path) -> None:
    release = threading.Event()

    def hang(_path: Path) -> Reading:
        release.wait(10)
        return Reading(())

    error, _ = await refused(conf, read=hang, deadline_s=0.2)
    release.set()
    assert "took longer" in str(error)


def test_the_mount_of_a_file_is_known() -> None:
    found: dict[str, Mount] = {}
    for path in ("/proc", "/dev/shm"):
        descriptor = os.open(path, os.O_PATH)
        found[path] = mount_of(descriptor)
        os.close(descriptor)
    assert found["/proc"] == Mount("/proc", "proc")
    assert not found["/proc"].local
    assert found["/dev/shm"].local
    assert mount_of(descriptor) == Mount("", "")
