"""What a user types is checked by mypy and basedpyright: right code is clean, each wrong line is found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "tests" / "typed" / "handles.py"


def found(checker: str) -> set[int]:
    """Return the lines of the sample in which a checker finds an error."""
    if checker == "mypy":
        command = ["-m", "mypy", "--strict", "--output", "json", "--no-incremental", str(SAMPLE)]
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
        errors = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        return {error["line"] for error in errors if error["file"].endswith("handles.py")}
    command = ["-m", "basedpyright", "--outputjson", "--level", "error", str(SAMPLE)]
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    told = json.loads(done.stdout)["generalDiagnostics"]
    return {each["range"]["start"]["line"] + 1 for each in told if each["file"].endswith("handles.py")}


@pytest.mark.parametrize("checker", ["mypy", "basedpyright"])
def test_right_handles_are_clean_and_wrong_ones_are_found(checker: str) -> None:
    lines = SAMPLE.read_text().splitlines()
    assert found(checker) == {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}
