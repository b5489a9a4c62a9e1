"""A service that breaks by a system call's error once it is ready."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio

from hotreload import LiveSettings, Service
from hotreload.host.parts import Parts
from hotreload.host.start import Started
from hotreload.lifecycle import Phase


class Crashing(Service):
    """Its work raises two errors at once, one of them an OSError."""

    def _parts(self, started: Started) -> Parts:
        parts = super()._parts(started)

        async def start(tasks: Any, ended: Any) -> None:
            await parts.start(tasks, ended)
            ready = anyio.Event()
            started.lifecycle.listen(lambda phase: ready.set() if phase is Phase.RUNNING else None)
            tasks.start_soon(_crash, ready)

        return replace(parts, start=start)


async def _crash(ready: anyio.Event) -> None:
    await ready.wait()
    raise ExceptionGroup("work", [OSError(5, "Input/output error", "/data"), ZeroDivisionError("and a defect")])


service = Crashing("crashing", settings=LiveSettings)
