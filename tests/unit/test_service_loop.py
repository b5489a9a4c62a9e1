"""The event loop of a process that runs jobs outlives what jobs leave behind in it, and nothing else."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, logging, os, signal, sys
from hotreload.workers.isolation import ServiceLoop, contain_exits

logging.basicConfig(format="%(message)s", stream=sys.stdout)
RAISED = {"TimeoutError": TimeoutError("too late"), "SystemExit": SystemExit(3), "EBADF": OSError(9, "gone")}

async def main(contained):
    loop = asyncio.get_running_loop()
    heard = asyncio.Event()
    if contained:
        contain_exits(loop)

    def late(*_):
        loop.call_soon_threadsafe(heard.set)
        raise RAISED[sys.argv[1]]

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    await heard.wait()
    print("went on")

asyncio.Runner(loop_factory=ServiceLoop).run(main(sys.argv[2] == "jobs run"))
"""


def told(raised: str, when: str) -> tuple[int, list[str]]:
    """Return the exit code and the lines of a process in whose idle loop a signal handler raises."""
    program = [sys.executable, "-c", PROGRAM, raised, when]
    done = subprocess.run(program, check=False, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize("raised", ["TimeoutError", "SystemExit"])
def test_what_a_signal_handler_raises_ends_no_loop_that_runs_jobs(raised: str) -> None:
    line = f"loop.error_ignored error={raised}: raised by a callback or signal handler that a job left behind"
    assert told(raised, "jobs run") == (0, [line, "went on"])


@pytest.mark.parametrize(
    ("raised", "when", "code"), [("TimeoutError", "start", 1), ("SystemExit", "start", 3), ("EBADF", "jobs run", 1)]
)
def test_an_error_at_the_start_and_one_of_the_system_end_it(raised: str, when: str, code: int) -> None:
    ended, lines = told(raised, when)
    assert ended == code
    assert "went on" not in lines
