"""A service whose host fails by a defect while one of its jobs, which provokes it, runs."""

from __future__ import annotations

from typing import Any

import anyio

from hotreload import DeadJob, Job, LiveSettings, Service
from hotreload.host.start import Started
from hotreload.service.work import ServiceWork

PROVOKED = anyio.Event()


class Provoked(Service[LiveSettings]):
    """Its work has a task that fails once a job asked for it."""

    def _work(self, started: Started) -> ServiceWork:
        work = super()._work(started)
        start = work.start

        async def start_with_a_defect(tasks: Any, ended: Any) -> None:
            await start(tasks, ended)
            tasks.start_soon(_fails)

        work.start = start_with_a_defect  # type: ignore[method-assign]
        return work


async def _fails() -> None:
    await PROVOKED.wait()
    raise ZeroDivisionError("a defect of the host")


service = Provoked("provoking", settings=LiveSettings)


@service.worker("work", limit=8)
async def work(job: Job[str], conf: LiveSettings) -> str:
    """Provoke the defect, or take part of a second."""
    if job.payload == "provokes":
        PROVOKED.set()
        await anyio.sleep_forever()
    await anyio.sleep(0.05)
    return job.payload


@service.on_dead
async def tell(dead: DeadJob, conf: LiveSettings) -> None:
    """Print the dead."""
    print(f"told of {dead.payload}: {dead.reason}", flush=True)
