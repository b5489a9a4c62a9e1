"""A service with a process handler, which a child process must be able to import."""

from __future__ import annotations

from hotreload import LiveSettings, Service, SyncJob

service = Service("spinning", settings=LiveSettings)


@service.worker("spins", limit=1, process=True, timeout_s=3, max_attempts=1)
def spins(job: SyncJob[str], conf: LiveSettings) -> str:
    """Keep the interpreter busy, or return."""
    while job.payload == "slow":
        pass
    return job.payload
