"""The store's files harmed under load, at random instants; HOTRELOAD_DESTROYED says how many rounds."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.counts import counted, patience_s

ROOT = Path(__file__).parents[2]
ROUNDS = counted("DESTROYED", 10)
TIMEOUT_S = patience_s(100, ROUNDS, 10)


@pytest.mark.timeout(TIMEOUT_S)
def test_what_was_acknowledged_outlives_any_harm_to_the_files(tmp_path: Path, figures: Callable[[str], None]) -> None:
    seed = random.randrange(1 << 30)
    command = [sys.executable, "-m", "tests.process.store_destroyed", str(tmp_path), str(ROUNDS), str(seed)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    figures(done.stdout.strip())
