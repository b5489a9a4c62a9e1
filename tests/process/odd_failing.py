"""The service of odd jobs, whose work fails, as a defect does, at a line in the named pipe `fail` beside ov.conf."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskGroup

from hotreload import Service
from hotreload.host.start import Started
from hotreload.host.work import Ended
from tests.process import odd_jobs


class Failing(Service):
    """Its work raises when it is told to."""

    def _work(self, started: Started) -> Any:
        work = super()._work(started)
        start = work.start

        async def start_and_fail(tasks: TaskGroup, ended: Ended) -> None:
            await start(tasks, ended)
            tasks.start_soon(_fail, started.source.path.with_name("fail"))

        work.start = start_and_fail
        return work


async def _fail(pipe: Path) -> None:
    """Wait for a line in a named pipe."""
    async with await anyio.open_file(pipe) as told:
        await told.readline()
    raise ZeroDivisionError("a defect")


service = Failing("odd", settings=odd_jobs.Settings)
service.worker("odd", limit=1)(odd_jobs.odd)
service.worker("threads", limit=1)(odd_jobs.in_thread)
