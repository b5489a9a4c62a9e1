"""The files that count beside the configuration: the secrets in the credentials directory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import anyio
import anyio.to_thread

from hotreload.errors import Problem
from hotreload.reload.load import CONFIRM_S, DEADLINE_S, SETTLE_S, Quiet, Reading, read_file


async def load_beside(
    paths: Sequence[Path],
    *,
    twice: bool = True,
    settle_s: float = SETTLE_S,
    deadline_s: float = DEADLINE_S,
    wall: Callable[[], float] = time.time,
) -> dict[Path, Reading]:
    """Return a look at each of the files beside the configuration, once nobody is writing them any more.

    Their content cannot tell "being written" from "broken": one that is empty, torn or unreadable is looked at for
    `settle_s` before it is taken for what it is; `twice` is that of `load`. Nothing that is wrong with one is raised.
    """
    quiet = {path: Quiet(settle_s, wall) for path in paths}
    ends = anyio.current_time() + deadline_s
    while paths:
        readings = await _look(paths, deadline_s)
        resting = [quiet[path].rests(reading, twice=twice) for path, reading in readings.items()]
        if all(resting) or anyio.current_time() >= ends:
            return readings
        await anyio.sleep(CONFIRM_S)
    return {}


def contents(readings: Mapping[Path, Reading]) -> dict[Path, bytes | str]:
    """Return what stands in the files that exist, or why that cannot be said."""
    found: dict[Path, bytes | str] = {}
    for path, reading in readings.items():
        if reading.problem is not None and not reading.absent:
            found[path] = reading.problem.message
        elif reading.raw is not None:
            found[path] = "still being written" if reading.torn else reading.raw
    return found


async def _look(paths: Sequence[Path], limit_s: float) -> dict[Path, Reading]:
    with anyio.move_on_after(limit_s):
        return await anyio.to_thread.run_sync(lambda: {path: read_file(path) for path in paths}, abandon_on_cancel=True)
    slow = Problem("", f"reading it took longer than {limit_s:g} s")
    return {path: Reading((), problem=slow) for path in paths}
