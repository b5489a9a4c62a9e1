"""A service that breaks by a system call's error once it is ready."""

from __future__ import annotations

from typing import Any

import anyio
from anyio.abc import TaskGroup

from hotreload import LiveSettings, Service
from hotreload.host.start import Started
from hotreload.host.work import Ended
from hotreload.lifecycle import Phase


class Crashing(Service):
    """Its work raises two errors at once, one of them an OSError."""

    def _work(self, started: Started) -> Any:
        work = super()._work(started)
        start = work.start

        async def start_and_crash(tasks: TaskGroup, ended: Ended) -> None:
            await start(tasks, ended)
            ready = anyio.Event()
            started.lifecycle.listen(lambda phase: ready.set() if phase is Phase.RUNNING else None)
            tasks.start_soon(_crash, ready)

        work.start = start_and_crash
        return work


async def _crash(ready: anyio.Event) -> None:
    await ready.wait()
    raise ExceptionGroup("work", [OSError(5, "Input/output error", "/data"), ZeroDivisionError("and a defect")])


service = Crashing("crashing", settings=LiveSettings)
