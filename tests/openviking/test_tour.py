"""The tour of the example: one command, and every step holds."""

import re
import sys

import anyio
import pytest
from conftest import EXAMPLES
from ov_home import REPOSITORY

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(240)]


async def test_the_tour_goes_through() -> None:
    command = [sys.executable, str(EXAMPLES / "tour.py"), "--documents", "60"]
    result = await anyio.run_process(command, check=False, cwd=REPOSITORY)
    told = result.stdout.decode()
    assert result.returncode == 0, told + result.stderr.decode()
    peaks = re.findall(r"max_concurrent +(\d+): generation \d+; calls at a time at the endpoint: (\d+), cut: 0", told)
    assert [limit for limit, _ in peaks] == ["4", "12", "2", "6"]
    assert [limit for limit, peak in peaks if limit != peak] == []
    assert "exit code 0; calls cut: 6" in told
    assert "lost: 0" in told
    assert "documents without L0 or L1: 0 of 60" in told
