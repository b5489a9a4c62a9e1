"""A process that cannot start says why in one line, with the exit code of the reason; one that breaks tells all."""

from __future__ import annotations

import json
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.process.running import HOTRELOAD, hotreload, started

pytestmark = pytest.mark.anyio
TARGET = "tests.process.sample:service"
LIMIT = "workers.work: a limit is a whole number from 0 to 10,000, not -3"


async def run(folder: Path, *options: str, target: str = TARGET) -> tuple[int, list[str]]:
    """Run a service that is to end by itself; returns its exit code and the lines of stderr."""
    place = ("--config", str(folder / "ov.conf"), "--socket", str(folder / "run/s"))
    with anyio.fail_after(20):
        done = await hotreload("run", target, *place, *options)
    assert done.stdout == b""
    return done.returncode, done.stderr.decode().splitlines()


def write(folder: Path, **settings: Any) -> Path:
    (folder / "ov.conf").write_text(json.dumps({"hotreload": {"drain_deadline_s": 2}, **settings}))
    return folder


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"limit": "four"}, "ov.conf:1:49: limit: must be a whole number"),
        ({"limit": -3}, f"ov.conf:1:1: {LIMIT}"),
        ({"first": {"trouble": "fail"}}, "resources.first cannot be built: RuntimeError: cannot build 0"),
        ({"second": {"trouble": "cancel"}}, "resources.second cannot be built: RuntimeError: was cancelled"),
    ],
)
async def test_a_configuration_that_cannot_be_used_is_exit_78(
    short_path: Path, settings: dict[str, Any], reason: str
) -> None:
    code, lines = await run(write(short_path, **settings))
    assert code == 78
    assert lines[-1].startswith(f"hotreload: cannot start: {reason}"), lines
    assert not [line for line in lines if "Traceback" in line]


async def test_limits_are_asked_by_check_and_by_every_reload(short_path: Path) -> None:
    write(short_path, limit=-3)
    place = ("--config", str(short_path / "ov.conf"), "--json")
    checked = await hotreload("check", TARGET, *place)
    assert (checked.returncode, json.loads(checked.stdout)["errors"][0]["message"]) == (1, LIMIT)
    write(short_path, limit=3, hotreload={"watch": False})
    run_it = (*HOTRELOAD, "run", TARGET, "--config", str(short_path / "ov.conf"), "--socket", str(short_path / "run/s"))
    async with started(*run_it) as (_, spoken):
        await spoken.line("listening on")
        write(short_path, limit=-3)
        for options in (("--dry-run",), ()):
            asked = ("reload", *options, "--json", "--socket", str(short_path / "run/s"))
            done = await hotreload(*asked)
            report = json.loads(done.stdout)
            assert (done.returncode, report["outcome"], report["generation"]) == (1, "rejected", 1)
            assert report["errors"][0]["message"] == LIMIT


async def test_a_resource_that_meets_an_error_of_the_system_is_exit_4(short_path: Path) -> None:
    code, lines = await run(write(short_path, third={"trouble": "refuse"}))
    assert code == 4
    assert lines[-1] == "hotreload: cannot start: resources.third cannot be built: Connection refused"


async def test_a_taken_port_is_exit_4_and_leaves_nothing_behind(short_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, lines = await run(write(short_path), "--http", f"127.0.0.1:{port}")
    assert code == 4
    assert lines[-1].startswith(f"hotreload: cannot start: 127.0.0.1:{port} is in use"), lines
    assert not [line for line in lines if "Traceback" in line]
    assert not list((short_path / "run").glob("s"))


async def test_an_unsafe_folder_of_the_control_socket_is_exit_4(short_path: Path) -> None:
    (short_path / "run").mkdir()
    (short_path / "run").chmod(0o777)
    code, lines = await run(write(short_path))
    assert code == 4
    assert lines[-1].startswith("hotreload: cannot start: "), lines
    assert str(short_path / "run") in lines[-1]


@pytest.mark.parametrize("wrong", ["writable by all", "a link", "a linked store"])
async def test_a_state_folder_that_others_may_change_is_exit_78(short_path: Path, wrong: str) -> None:
    state, elsewhere = short_path / ".hotreload", short_path / "elsewhere"
    elsewhere.mkdir()
    if wrong == "a link":
        state.symlink_to(elsewhere)
    else:
        state.mkdir()
        state.chmod(0o777 if wrong == "writable by all" else 0o700)
    if wrong == "a linked store":
        (state / "hotreload.db").symlink_to(elsewhere / "store")
    code, lines = await run(write(short_path))
    assert code == 78
    assert lines[-1].startswith("hotreload: cannot start: hotreload.state_dir: the state folder: "), lines
    assert list(elsewhere.iterdir()) == []


async def test_a_store_that_others_could_read_is_made_private(short_path: Path) -> None:
    write(short_path)
    assert (await run(short_path, "--until-idle"))[0] == 0
    kept = sorted((short_path / ".hotreload").iterdir())
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in kept}
    (short_path / ".hotreload").chmod(0o755)
    (short_path / ".hotreload" / "notes of the operator").touch()
    (short_path / ".hotreload" / "notes of the operator").chmod(0o644)
    for path in kept:
        path.chmod(0o644)
    assert (await run(short_path, "--until-idle"))[0] == 0
    assert {path: stat.S_IMODE(path.stat().st_mode) for path in kept} == modes
    assert stat.S_IMODE((short_path / ".hotreload" / "notes of the operator").stat().st_mode) == 0o644


async def test_a_store_in_use_is_exit_4(short_path: Path) -> None:
    write(short_path)
    first = (
        *HOTRELOAD,
        "run",
        TARGET,
        "--config",
        str(short_path / "ov.conf"),
        "--socket",
        str(short_path / "first/s"),
    )
    async with started(*first) as (process, spoken):
        await spoken.line("listening on")
        code, lines = await run(short_path)
        assert code == 4
        assert f"is open in pid {process.pid}" in lines[-1]


async def test_what_breaks_once_it_is_ready_is_told_whole(short_path: Path) -> None:
    code, lines = await run(write(short_path), target="tests.process.crashing:service")
    assert code == 1
    text = "\n".join(lines)
    assert "cannot start" not in text
    assert "Input/output error: '/data'" in text
    assert "ZeroDivisionError: and a defect" in text


async def test_a_sentinel_whose_process_is_gone_leaves_without_a_word(short_path: Path) -> None:
    from hotreload.drain import sentinel_process

    gone = await anyio.run_process([sys.executable, "-c", "import os; print(os.getpid())"])
    memory = short_path / "shared"
    memory.write_bytes(bytes(32))
    with memory.open("r+b") as shared, socket.socket() as pipe:
        fds = (pipe.fileno(), shared.fileno())
        command = [
            sys.executable,
            "-I",
            "-S",
            sentinel_process.__file__,
            *map(str, fds),
            gone.stdout.decode().strip(),
            "/x",
        ]
        done = await anyio.to_thread.run_sync(
            lambda: subprocess.run(command, pass_fds=fds, capture_output=True, check=False, timeout=10)
        )
    assert (done.returncode, done.stderr) == (0, b"")
