"""`make run` as a user types it; the environment is the one of these tests, the port a free one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import anyio
import httpx
import pytest

from tests.process.running import ROOT, Spoken, wait_until

pytestmark = pytest.mark.anyio


def _tree(folder: Path) -> Path:
    """Copy what `make run` needs, with a command that runs under this interpreter."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    command = folder / "bin" / "hotreload"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m hotreload "$@"\n')
    command.chmod(0o755)
    (folder / "bin" / "python").symlink_to(sys.executable)
    return folder


async def test_make_run_serves_writes_and_drains_on_ctrl_c(short_path: Path) -> None:
    folder = _tree(short_path)
    made = ["--assume-old=.venv/.runs", "--assume-old=.venv/.made", "BIN=bin", "HTTP=127.0.0.1:0"]
    make = await anyio.open_process(
        ["make", "run", *made], cwd=folder, stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True
    )
    assert make.stdout is not None
    spoken = Spoken()
    async with anyio.create_task_group() as hearing:
        hearing.start_soon(spoken.read, make.stdout)
        try:
            url = "http://" + (await spoken.line("listening on http://")).rpartition("http://")[2].strip()
            async with httpx.AsyncClient(base_url=url) as http:
                await wait_until(lambda: _ready(http), 20, "ready")
                await wait_until(lambda: list((folder / ".run/workspace").rglob(".abstract.md")), 30, "an abstract")
            os.killpg(make.pid, signal.SIGINT)
            with anyio.fail_after(12):
                await make.wait()
        finally:
            if make.returncode is None:
                os.killpg(make.pid, signal.SIGKILL)
                await make.wait()
    conf = folder / ".run/ov.conf"
    assert stat.S_IMODE(conf.stat().st_mode) == 0o600
    assert stat.S_IMODE(conf.parent.stat().st_mode) == 0o700
    assert len(json.loads(conf.read_text())["hotreload"]["root_key"]) >= 32
    assert any("hotreload status --watch --socket .run/hotreload.sock" in line for line in spoken.lines)
    assert any("drained (SIGINT)" in line for line in spoken.lines), "\n".join(spoken.lines)


async def _ready(http: httpx.AsyncClient) -> bool:
    return (await http.get("/readyz")).status_code == 200


async def test_the_key_of_an_existing_configuration_stays(short_path: Path) -> None:
    folder = _tree(short_path)
    command = ["make", "--assume-old=.venv/.runs", "--assume-old=.venv/.made", "BIN=bin", ".run/ov.conf"]
    await anyio.run_process(command, cwd=folder)
    first = (folder / ".run/ov.conf").read_text()
    (folder / "examples/summaries/ov.conf").touch()
    await anyio.run_process(command, cwd=folder)
    assert (folder / ".run/ov.conf").read_text() == first
