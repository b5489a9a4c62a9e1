"""A service of strangers' jobs: one worker for each way a handler runs."""

from __future__ import annotations

from typing import Any

from hotreload import Job, LiveSettings, Service, SyncJob
from tests import strangers

service = Service("strangers", settings=LiveSettings)


@service.worker("loop", limit=8, max_attempts=1)
async def in_loop(job: Job[str], conf: LiveSettings) -> Any:
    """Do a way in the event loop."""
    return await strangers.do(job)


@service.worker("threads", limit=4, max_attempts=1)
def in_thread(job: SyncJob[str], conf: LiveSettings) -> Any:
    """Do a way in a thread."""
    return strangers.do_in_thread(job)


@service.worker("processes", limit=2, process=True, max_attempts=1)
def in_process(job: SyncJob[str], conf: LiveSettings) -> Any:
    """Do a way in a child process."""
    return strangers.do_in_thread(job)
