"""Whole services killed, restarted and drained with jobs that resist: see service_life.py for what is checked.

HOTRELOAD_TEST_SCALE multiplies the counts; `-s` shows what came of them.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

SCALE = int(os.environ.get("HOTRELOAD_TEST_SCALE", "1"))
ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(100 * SCALE)
@pytest.mark.parametrize(("way", "count"), [("kills", 12), ("restarts", 8), ("drains", 12), ("idle", 5), ("killer", 1)])
def test_lives(short_path: Path, way: str, count: int) -> None:
    seed = random.randrange(1 << 30)
    command = [sys.executable, "-m", "tests.process.service_life", way, str(short_path), str(count * SCALE), str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100 * SCALE, check=False)
    print(f"\n{way}: {done.stdout}", end="")
    assert done.returncode == 0, done.stderr
