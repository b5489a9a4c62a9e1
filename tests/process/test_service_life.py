"""Whole services killed, restarted and drained with jobs that resist: see service_life.py for what is checked.

HOTRELOAD_KILLS, _RESTARTS, _DRAINS, _IDLE, _KILLER say the counts; `make campaign` has the large ones.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.counts import counted, patience_s
from tests.process.running import ROOT, UNMEASURED

MEASURED = pytest.mark.deadline


@pytest.mark.timeout(0)
@pytest.mark.parametrize(
    ("way", "usual"),
    [
        ("kills", 12),
        ("killer", 1),
        pytest.param("restarts", 8, marks=MEASURED),
        pytest.param("drains", 17, marks=MEASURED),
        pytest.param("idle", 5, marks=MEASURED),
    ],
)
def test_lives(short_path: Path, figures: Callable[[str], None], way: str, usual: int) -> None:
    count = counted(way.upper(), usual)
    seed = random.randrange(1 << 30)
    command = [sys.executable, "-m", "tests.process.service_life", way, str(short_path), str(count), str(seed)]
    within_s = patience_s(100, count, usual)
    done = subprocess.run(
        command, cwd=ROOT, env=UNMEASURED, capture_output=True, text=True, timeout=within_s, check=False
    )
    assert done.returncode == 0, done.stderr
    figures(done.stdout.strip())
