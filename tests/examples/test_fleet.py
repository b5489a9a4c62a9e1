"""The guide of several nodes does what it says when it is typed: a reload of all, a node that is killed, a roll."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

import anyio
import pytest

from tests.docs.typed import commands, tree, type_in
from tests.process.running import ROOT, Spoken, started, wait_until

pytestmark = pytest.mark.anyio
GUIDE = (ROOT / "examples/fleet/README.md").read_text()


@pytest.mark.timeout(240)
async def test_the_guide_works_as_typed(short_path: Path) -> None:
    clone, folder = short_path / "clone", short_path / "fleet"
    await anyio.Path(clone).mkdir()
    tree(clone)
    await anyio.Path(short_path).chmod(0o755)  # PostgreSQL runs as another user where this is root
    install, start, *lines = (line.replace("/tmp/fleet", str(folder)) for line in commands(GUIDE))
    assert install == ".venv/bin/pip install -e '.[postgres]'"
    assert start == f".venv/bin/python -m examples.fleet {folder}"
    arguments = (sys.executable, *start.split()[1:])
    async with started(*arguments, cwd=clone, environ={"PYTHONPATH": str(ROOT)}, measured=False) as (process, spoken):
        try:
            await spoken.line("node two: pid", 60)
            await follow(clone, spoken, *lines)
        finally:
            process.terminate()
            with anyio.fail_after(60, shield=True):
                assert await process.wait() == 0


async def follow(clone: Path, spoken: Spoken, status: str, edit: str, reload: str, roll: str) -> None:
    """Type what the guide says, and kill a node in between."""

    async def all_run() -> bool:
        code, said = await type_in(clone, f"{status} --json")
        nodes = json.loads(said) if code == 0 else []
        return [(node["alive"], node.get("phase")) for node in nodes] == [(True, "running")] * 2

    await wait_until(all_run, 60, "two nodes run")
    code, said = await type_in(clone, f"{edit} && {reload}")
    assert code == 0, said
    assert "applied on 2 of 2 nodes" in said
    (killed,) = re.findall(r"node two: pid (\d+)", "\n".join(spoken.lines))
    os.kill(int(killed), signal.SIGKILL)
    await spoken.line("node two: ended with -9", 30)
    await wait_until(all_run, 60, "the killed node is back")
    code, said = await type_in(clone, roll)
    assert code == 0, said
    ends = re.findall(r"/(one|two)/\.hotreload: (\w+)", said)
    steps = [("two", "draining"), ("two", "drained"), ("two", "back"), ("one", "draining"), ("one", "drained")]
    assert ends == steps, said
