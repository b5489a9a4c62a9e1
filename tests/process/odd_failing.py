"""The service of odd jobs, whose work fails, as a defect does, at a line in the named pipe `fail` beside ov.conf."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio

from hotreload import Service
from hotreload.host.parts import Parts
from hotreload.host.start import Started
from tests.process import odd_jobs


class Failing(Service):
    """Its work raises when it is told to."""

    def _parts(self, started: Started) -> Parts:
        parts = super()._parts(started)

        async def start(tasks: Any, ended: Any) -> None:
            await parts.start(tasks, ended)
            tasks.start_soon(_fail, started.source.path.with_name("fail"))

        return replace(parts, start=start)


async def _fail(pipe: Path) -> None:
    """Wait for a line in a named pipe."""
    async with await anyio.open_file(pipe) as told:
        await told.readline()
    raise ZeroDivisionError("a defect")


service = Failing("odd", settings=odd_jobs.Settings)
service.worker("odd", limit=1)(odd_jobs.odd)
service.worker("threads", limit=1)(odd_jobs.in_thread)
