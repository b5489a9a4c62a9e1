"""A service with handlers in a child process, which must be able to import them, and in a thread."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from hotreload import Job, Live, LiveSettings, Service, SyncJob


class Settings(LiveSettings):
    """What the policy of both kinds follows."""

    attempts: Annotated[int, Live] = 25
    wait_s: Annotated[float, Live] = 0.0


service = Service("spinning", settings=Settings)


@service.worker("spins", limit=1, process=True, timeout_s=8, max_attempts=1)
def spins(job: SyncJob[str], conf: Settings) -> str:
    """Keep the interpreter busy, or return."""
    while job.payload == "slow":
        pass
    return job.payload


@service.worker("echo", limit=2)
async def echo(job: Job[str], conf: Settings) -> str:
    """Return the payload."""
    return job.payload


def fails_once_told(job: SyncJob[Path], conf: Settings) -> None:
    """Wait until this attempt's pipe in the folder of the payload is opened for writing, and fail."""
    with (job.payload / str(job.attempt)).open() as pipe:
        raise ValueError(pipe.read())


in_process = service.worker(
    "process", limit=1, process=True, max_attempts=lambda conf: conf.attempts, backoff=lambda conf: conf.wait_s
)(fails_once_told)
in_thread = service.worker(
    "thread", limit=1, max_attempts=lambda conf: conf.attempts, backoff=lambda conf: conf.wait_s
)(fails_once_told)
