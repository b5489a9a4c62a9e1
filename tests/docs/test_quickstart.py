"""The quickstart is as short as it says, and works as typed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anyio
import pytest

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]
SERVICE = ROOT / "examples/quickstart/service.py"


def test_it_has_at_most_40_lines() -> None:
    assert len(SERVICE.read_text().splitlines()) <= 40


async def test_it_counts_every_text_once_and_leaves(short_path: Path) -> None:
    texts = short_path / "texts"
    texts.mkdir()
    for number in range(1, 6):
        (texts / f"{number}.txt").write_text("two words\n" * number)
    (short_path / "ov.conf").write_text(json.dumps({"max_concurrent": 3, "pace_s": 0.0}))
    for _ in range(2):  # the second start finds nothing to do
        done = await anyio.run_process(
            [
                *(sys.executable, "-m", "hotreload", "run", "examples.quickstart.service:service"),
                *("--config", str(short_path / "ov.conf"), "--socket", str(short_path / "run/s"), "--until-idle"),
            ],
            cwd=ROOT,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
    counts = {path.stem: path.read_text() for path in texts.glob("*.count")}
    assert counts == {str(number): f"{2 * number}\n" for number in range(1, 6)}
