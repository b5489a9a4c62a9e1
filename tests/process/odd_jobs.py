"""A service whose jobs misbehave in every way, and keep a history of what they were told."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import select
import signal
import time
from contextlib import suppress
from typing import Annotated, Any, Final

import anyio
from pydantic import BaseModel

from hotreload import Job, Live, LiveSettings, Service, SyncJob

STEPS: Final = 4
QUEUES: Final = ("odd", "threads", "processes")


class Settings(LiveSettings):
    """How many run at once, and where the history is."""

    limit: Annotated[int, Live] = 16
    history: str = "history"


class Odd(BaseModel):
    """What a job does: its way, and how long a step of it takes."""

    way: str
    seconds: float = 0.0


service = Service("odd", settings=Settings)


def tell(conf: Settings, *words: object) -> None:
    """Add a line to the history; it stays whatever happens to this process next."""
    descriptor = os.open(conf.history, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{' '.join(map(str, words))}\n".encode())
    os.close(descriptor)


def effect(job_id: str, step: int) -> Any:
    """Return a writer of the step's effect, for the transaction of its checkpoint."""

    def write(connection: Any) -> None:
        connection.execute("CREATE TABLE IF NOT EXISTS effects (job, step)")
        connection.execute("INSERT INTO effects VALUES (?, ?)", (int(job_id), step))

    return write


def without_gil(seconds: float) -> None:
    """Stay in C code that gave the GIL back."""
    select.select([], [], [], seconds)


def busy(seconds: float) -> None:
    """Stay in Python code."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pass


def with_gil(_seconds: float) -> None:
    """Stay in C code that keeps the GIL, for many minutes."""
    sum(itertools.repeat(1, 10**12))


def forks(_seconds: float) -> None:
    """Fork workers, which `multiprocessing` ends with SIGTERM."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.map(abs, range(4))


STRAYS: Final[list[asyncio.Task[None]]] = []
"""Tasks that jobs began beside themselves and left behind."""
BLOCKING: Final = {"without_gil": without_gil, "busy": busy, "with_gil": with_gil, "forks": forks}


def take_signals(conf: Settings, way: str, number: int) -> None:
    """Take a signal away from the service, as libraries do."""
    if way == "handles":
        signal.signal(number, lambda *_heard: tell(conf, "H", number))
        os.kill(os.getpid(), number)
    elif way == "defaults":
        signal.signal(number, signal.SIG_DFL)
    else:
        asyncio.get_running_loop().add_signal_handler(number, lambda: None)


@service.worker("odd", limit=lambda conf: conf.limit)
async def odd(job: Job[Odd], conf: Settings) -> int:
    """Do a job in the event loop."""
    way = job.payload.way
    if way == "kills":
        os.kill(os.getpid(), signal.SIGKILL)
    if way in BLOCKING:
        await anyio.sleep(0.1)
        tell(conf, "S", job.id, way)
        BLOCKING[way](job.payload.seconds)
        return 0
    if way == "fails":
        tell(conf, "S", job.id, way)
        raise ConnectionError("as jobs do")
    if way in ("handles", "defaults", "listens"):
        take_signals(conf, way, int(job.payload.seconds))
        tell(conf, "S", job.id, way)
        return 0
    for step in job.resume(range(1, STEPS + 1)):
        tell(conf, "S", job.id, step)
        if way == "needs":
            job.needs(job.payload.seconds)
        if way == "enqueues":
            await job.enqueue("odd", Odd(way="plain"), key=f"{job.id} {step}")
        await _pause(way, job.payload.seconds)
        await job.checkpoint(step, within=effect(job.id, step))
        tell(conf, "C", job.id, step)
    return job.attempt


async def _pause(way: str, seconds: float) -> None:
    if way == "to_thread":  # a thread of the loop's own executor, which asyncio joins when the loop is closed
        await asyncio.to_thread(without_gil, seconds)
        return
    if way == "stray":
        STRAYS.append(asyncio.create_task(_swallow()))
    if way == "shields":
        with anyio.CancelScope(shield=True):
            await anyio.sleep(seconds)
    if way == "swallows":
        await _swallow()
    if way == "raises":
        try:
            await anyio.sleep(seconds)
        finally:
            raise ConnectionError("closed in the midst of it")
    await anyio.sleep(seconds)


async def _swallow() -> None:
    """Go on whatever comes, as bad code does."""
    while True:
        with suppress(BaseException):
            await anyio.sleep(60)


@service.worker("threads", limit=lambda conf: conf.limit)
def in_thread(job: SyncJob[Odd], conf: Settings) -> int:
    """Do a job in a thread."""
    for step in job.resume(range(1, STEPS + 1)):
        tell(conf, "S", job.id, step)
        BLOCKING.get(job.payload.way, without_gil)(job.payload.seconds)
        job.checkpoint(step, within=effect(job.id, step))
        tell(conf, "C", job.id, step)
    return job.attempt


@service.worker("processes", limit=2, process=True)
def in_process(job: SyncJob[Odd], conf: Settings) -> int:
    """Do a job in a child process; its effects cannot share the store's transaction."""
    for step in job.resume(range(1, STEPS + 1)):
        tell(conf, "S", job.id, step)
        BLOCKING.get(job.payload.way, without_gil)(job.payload.seconds)
        job.checkpoint(step)
        tell(conf, "C", job.id, step)
    return job.attempt
