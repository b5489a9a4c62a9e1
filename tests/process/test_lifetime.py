"""A host is entered once and left once: whatever ends it, nothing is left behind, and the next one works."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process import lifetimes

ROOT = Path(__file__).parents[2]
RAISED = {
    "cancel_the_task": "CancelledError()",
    "cancel_serve": "CancelledError()",
    "fail_beside": "ExceptionGroup('unhandled errors in a TaskGroup', [LookupError('a sibling')])",
    "fail_inside": "LookupError('in the block')",
    "part_fails": "no worker serves that queue",
    "resource_fails": "refused",
}
NEVER_BUILT = {"part_fails": [], "resource_fails": [], "cancel_the_start": ["client"]}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """Return what became of each way, all in one process."""
    folder = tmp_path_factory.mktemp("lives")
    command = [
        "sh",
        "-c",
        'ulimit -n 4096; exec "$@"',
        "sh",
        sys.executable,
        "-X",
        "dev",
        "-m",
        "tests.process.lifetimes",
    ]
    done = subprocess.run([*command, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "was never" not in done.stderr
    assert "Task was destroyed" not in done.stderr
    return {one["way"]: one for one in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("way", [way.__name__ for way in lifetimes.WAYS])
def test_nothing_is_left_behind(told: dict[str, dict[str, object]], way: str) -> None:
    found = told[way]
    assert RAISED.get(way, "") in str(found["raised"])
    assert bool(found["raised"]) == (way in RAISED)
    assert found["left"] == {}
    assert found["closed"] == NEVER_BUILT.get(way, ["client", "slow"])
