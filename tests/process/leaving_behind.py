"""Two releases of one service: the second has no worker for the queue `old`."""

from __future__ import annotations

import os

from hotreload import Job, LiveSettings, Service

service = Service("leaving", settings=LiveSettings)


@service.worker("new", limit=1, version=3)
async def new(job: Job[str], conf: LiveSettings) -> str:
    """Return the payload."""
    return job.payload


if os.environ.get("RELEASE") == "1":

    @service.worker("old", limit=0)
    async def old(job: Job[str], conf: LiveSettings) -> str:
        """Never run: its limit is 0."""
        return job.payload
