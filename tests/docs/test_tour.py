"""What the README and the page of `summaries` have a reader type works as typed."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import Process

from tests.docs.typed import commands, section, tree, type_in
from tests.process.running import ROOT, Spoken, started, wait_until

pytestmark = pytest.mark.anyio
README = (ROOT / "README.md").read_text()
SEE = commands(section(README, "## See it run"))
QUICKSTART = commands(section(README, "## A service in 40 lines"))
TOUR = section((ROOT / "examples/summaries/README.md").read_text(), "## A tour")
SOCKET = {**os.environ, "HOTRELOAD_SOCKET": ".run/hotreload.sock"}


@asynccontextmanager
async def made(folder: Path) -> AsyncIterator[tuple[Process, Spoken, str]]:
    """Type `make run`; yields the process, what it says and its address. Its port is a free one."""
    make = await anyio.open_process(
        SEE[0].split(),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, "MAKEFLAGS": "HTTP=127.0.0.1:0"},
    )
    assert make.stdout is not None
    spoken = Spoken()
    async with anyio.create_task_group() as hearing:
        hearing.start_soon(spoken.read, make.stdout)
        try:
            url = (await spoken.line("listening on http://")).rpartition(" ")[2].strip()
            await wait_until(lambda: summarised(folder), 30, "a first abstract")
            yield make, spoken, url
            if make.returncode is None:
                await ctrl_c(make)
        finally:
            if make.returncode is None:
                os.killpg(make.pid, signal.SIGKILL)
                with anyio.CancelScope(shield=True):
                    await make.wait()


async def ctrl_c(make: Process) -> None:
    """Press Ctrl-C and wait for the end, inside the drain's deadline of 10 s."""
    os.killpg(make.pid, signal.SIGINT)
    with anyio.fail_after(12):
        await make.wait()


def summarised(folder: Path) -> int:
    return sum(1 for _ in (folder / ".run/workspace").rglob(".abstract.md"))


async def test_see_it_run_as_typed(short_path: Path) -> None:
    folder = tree(short_path)
    run, status, grow, spoil, reload, mend, count, *checks = SEE
    assert run == "make run"
    targets = [check.removeprefix("make ") for check in checks]  # too long for a test; some of them run this one
    assert targets[:3] == ["test", "test-openviking", "test-systemd"]
    assert set(targets) <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    async with made(folder) as (make, spoken, _):
        async with started(*status.split(), cwd=folder) as (_, watched):
            await watched.line("=4/4 ")
            assert (await type_in(folder, grow))[0] == 0
            await watched.line("=16/16 ")
        assert (await type_in(folder, spoil))[0] == 0
        code, said = await type_in(folder, reload)
        first = said.splitlines()[0]
        assert code == 1
        assert re.search(r"rejected, .*: ov\.conf:\d+:\d+: vlm\.max_concurrent: .*\(got -3\)", first), said
        assert (await type_in(folder, mend))[0] == 0
        code, said = await type_in(folder, count)
        before = int(said)
        assert (code, before > 0) == (0, True)
        conf = folder / ".run/ov.conf"
        assert (stat.S_IMODE(conf.stat().st_mode), stat.S_IMODE(conf.parent.stat().st_mode)) == (0o600, 0o700)
        key = json.loads(conf.read_text())["hotreload"]["root_key"]
        assert len(key) >= 32
        await ctrl_c(make)
        await spoken.line("drained (SIGINT)")
        await spoken.line("hotreload status --watch --socket .run/hotreload.sock")
    (folder / "examples/summaries/ov.conf").touch()
    async with made(folder):
        await wait_until(lambda: summarised(folder) > before, 30, "it goes on")
    assert json.loads(conf.read_text())["hotreload"]["root_key"] == key


async def test_the_tour_of_summaries_as_typed(short_path: Path) -> None:
    folder = tree(short_path)
    watch = commands(TOUR)[0]
    verbs = (r"\.venv/bin/hotreload check", "curl", r"\.venv/bin/hotreload reindex")
    check, ask, again = (re.findall(rf"`({verb} [^`]*)`", TOUR)[0] for verb in verbs)
    async with made(folder) as (_, _, url):
        async with started("env", "HOTRELOAD_SOCKET=.run/hotreload.sock", *watch.split(), cwd=folder) as (_, watched):
            await watched.line("running generation=1 workers.semantic=4/4")
        code, said = await type_in(folder, check, SOCKET)
        assert (code, said.split()[0]) == (0, "valid")
        asked = ask.replace("http://127.0.0.1:8750", url)
        assert asked != ask
        code, said = await type_in(folder, asked, SOCKET)
        assert (code, '"outcome":"unchanged"' in said) == (0, True), said
        faster = """sed -i 's/"pace_s": 0.2/"pace_s": 0.0/; s/"max_concurrent": 4/"max_concurrent": 32/' .run/ov.conf"""
        assert (await type_in(folder, faster))[0] == 0
        code, said = await type_in(folder, again, SOCKET)
        assert code == 0, said
        assert summarised(folder) == 400
        broken = "sed -i '$d' .run/ov.conf"
        code, said = await type_in(folder, f"{broken}; {check}", SOCKET)
        assert (code, said.startswith("hotreload: rejected: ov.conf:")) == (1, True), said


async def test_the_quickstart_as_typed(short_path: Path) -> None:
    folder = tree(short_path)
    path = {**os.environ, "PATH": f"{folder / '.venv/bin'}:{os.environ['PATH']}", "XDG_RUNTIME_DIR": str(folder)}
    code, said = await type_in(folder, "set -e\n" + "\n".join(QUICKSTART), path)
    assert code == 0, said
    words = len((folder / "texts/readme.txt").read_text().split())
    assert said.splitlines()[-1] == str(words)


@pytest.mark.parametrize(
    ("page", "number", "file"),
    [
        ("README.md", 0, "examples/quickstart/service.py"),
        ("examples/fastapi/README.md", 0, "examples/fastapi/app.py"),
    ],
)
def test_the_code_shown_is_the_file(page: str, number: int, file: str) -> None:
    shown = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)[number]
    lines = {code(line) for line in (ROOT / file).read_text().splitlines()}
    assert {code(line).removesuffix(" ...") for line in shown.splitlines()} - {"..."} <= lines


def code(line: str) -> str:
    """Return a line without comment and indentation."""
    return line.partition("  #")[0].strip()
