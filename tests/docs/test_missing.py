"""The section about missing work does what it says when it is typed."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import anyio
import pytest

from tests.docs.typed import commands, put_command, section
from tests.process.running import ROOT, started

pytestmark = pytest.mark.anyio
COMMANDS = commands(section((ROOT / "examples/summaries/README.md").read_text(), "## Missing work"))
SETTINGS = {
    "vlm": {"pace_s": 0.0, "max_concurrent": 8},
    "documents": {"limit": 30},
    "hotreload": {"drain_deadline_s": 3},
}


def home(folder: Path) -> Path:
    """Make a folder as `make run` leaves it: the command, and a configuration of fewer documents."""
    (folder / ".run").mkdir(mode=0o700)
    (folder / ".run/ov.conf").write_text(json.dumps(SETTINGS))
    return put_command(folder)


async def test_the_section_works_as_typed(short_path: Path) -> None:
    assert len(COMMANDS) == 7
    command = home(short_path)
    serve = ["run", "examples.summaries.service:service", "--config", ".run/ov.conf"]
    await run(short_path, f"{command} {' '.join(serve)} --until-idle")
    async with started(str(command), *serve, "--socket", ".run/hotreload.sock", cwd=short_path) as (_, spoken):
        await spoken.line("recovery.ended")
        said = await run(short_path, "\n".join(f"echo '$ {number}'; {line}" for number, line in enumerate(COMMANDS)))
    by_command = dict(re.findall(r"^\$ (\d)\n(.*?)(?=^\$ |\Z)", said, re.MULTILINE | re.DOTALL))
    assert "no abstract" in by_command["3"]
    assert "empty" in by_command["3"]
    assert "30 scanned, 2 missing, 0 queued, 0 already queued" in by_command["3"]
    made = [int(found) for found in re.findall(r"(\d+) queued", by_command["4"] + by_command["5"])]
    assert sum(made) == 2
    found = json.loads(by_command["6"])
    assert {key: found[key] for key in ("scanned", "missing", "queued", "already_queued")} == {
        "scanned": 30,
        "missing": [],
        "queued": 0,
        "already_queued": 0,
    }


async def run(folder: Path, script: str) -> str:
    """Type a script into bash, which stops at the first command that fails; return what it printed."""
    done = await anyio.run_process(["bash", "-euc", script], cwd=folder, stderr=subprocess.STDOUT, check=False)
    said = done.stdout.decode()
    assert done.returncode == 0, said
    return said
