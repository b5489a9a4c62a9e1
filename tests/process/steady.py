"""A service whose jobs go on by checkpoints, some of them in threads and in child processes."""

from __future__ import annotations

import select
from typing import Annotated, Any, Final

import anyio

from hotreload import Job, Live, LiveSettings, Service, SyncJob

STEPS: Final = 40
PAUSE_S: Final = 0.05


class Settings(LiveSettings):
    """How many run at once."""

    limit: Annotated[int, Live] = 4


service = Service("steady", settings=Settings)


@service.worker("loop", limit=lambda conf: conf.limit)
async def loop(job: Job[Any], _conf: Settings) -> None:
    """Go on in the event loop."""
    for step in job.resume(range(STEPS)):
        await anyio.sleep(PAUSE_S)
        await job.checkpoint(step)


def _go_on(job: SyncJob[Any]) -> None:
    for step in job.resume(range(STEPS)):
        select.select([], [], [], PAUSE_S)
        job.checkpoint(step)


@service.worker("thread", limit=lambda conf: conf.limit)
def thread(job: SyncJob[Any], _conf: Settings) -> None:
    """Go on in a thread."""
    _go_on(job)


@service.worker("process", limit=2, process=True)
def process(job: SyncJob[Any], _conf: Settings) -> None:
    """Go on in a child process."""
    _go_on(job)
