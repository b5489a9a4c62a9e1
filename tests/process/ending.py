"""A service with everything that an interpreter ends at its end: hooks, helper processes, a process pool."""

from __future__ import annotations

import asyncio
import atexit
import multiprocessing
import os
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Annotated, Any

from hotreload import Job, Live, LiveSettings, Service, SyncJob

FORKING = multiprocessing.get_context("fork")


class Settings(LiveSettings):
    """Where its hooks say that they ran."""

    told: Path = Path("told")
    limit: Annotated[int, Live] = 4


service = Service("ending", settings=Settings)
kept: list[Any] = []


def wait_for_ever() -> None:
    """Be a helper that ends with its parent."""
    threading.Event().wait()


def hang() -> None:
    """Be a hook that does not end."""
    threading.Event().wait()


def fork(*, exits: bool) -> int:
    """Let a child return from the job as well, or raise SystemExit from it."""
    child = os.fork()
    if exits and not child:
        sys.exit(3)
    return child


@service.worker("work", limit=lambda conf: conf.limit)
async def work(job: Job[str], conf: Settings) -> int:
    """Begin something that outlives the job; return its process id, or the status of a child."""
    match job.payload:
        case "hook":
            atexit.register(conf.told.write_text, "the hook ran")
            return 0
        case "hanging hook":
            atexit.register(hang)
            return 0
        case "daemon":
            helper = FORKING.Process(target=wait_for_ever, daemon=True)
            helper.start()
            return helper.pid or 0
        case "pool":
            kept.append(ProcessPoolExecutor(1, mp_context=FORKING))
            return await asyncio.get_running_loop().run_in_executor(kept[-1], os.getpid)
        case "fork" | "fork and exit":
            return fork(exits=job.payload != "fork")
        case "orphan":
            await (await asyncio.create_subprocess_exec("sh", "-c", "sleep 0.1 &")).wait()
            child = await asyncio.create_subprocess_exec("sh", "-c", "exit 7")
            return await child.wait()
        case _:
            return os.getpid()


@service.worker("threads", limit=1)
def in_a_thread(job: SyncJob[str], conf: Settings) -> int:
    """Fork and return twice."""
    return os.fork()


@service.worker("processes", limit=1, process=True)
def in_a_process(job: SyncJob[str], conf: Settings) -> int:
    """Fork and return twice."""
    return os.fork()
