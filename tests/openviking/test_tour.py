"""The tour of the example: one command, and every step holds."""

import re
import sys
from collections.abc import Callable

import anyio
import pytest
from conftest import EXAMPLES, load_example
from ov_forked import UNMEASURED
from ov_home import REPOSITORY

pytestmark = pytest.mark.timeout(240)


@pytest.mark.anyio
async def test_the_tour_goes_through() -> None:
    command = [sys.executable, str(EXAMPLES / "tour.py"), "--documents", "60"]
    result = await anyio.run_process(command, check=False, cwd=REPOSITORY, env=UNMEASURED)
    told = result.stdout.decode()
    assert result.returncode == 0, told + result.stderr.decode()
    peaks = re.findall(r"max_concurrent +(\d+): generation \d+; calls at a time at the endpoint: (\d+), cut: 0", told)
    assert [limit for limit, _ in peaks] == ["4", "12", "2", "6"]
    assert [limit for limit, peak in peaks if limit != peak] == []
    assert "exit code 0; calls cut: 6" in told
    assert "lost: 0" in told
    whole = re.search(r"documents without L0 or L1: 0 of (\d+)", told)
    assert whole, told
    assert int(whole[1]) >= 72


def test_a_claim_that_does_not_hold_ends_it_with_1() -> None:
    held: Callable[[bool, str], None] = load_example("tour").held
    held(True, "two and two are four")
    with pytest.raises(SystemExit) as ended:
        held(False, "two and two are five")
    assert ended.value.code == "does not hold: two and two are five"  # a text: it goes to stderr, the exit code is 1
