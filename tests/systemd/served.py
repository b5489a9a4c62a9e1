"""A small service for the boxes: its parts take as long, its jobs behave as badly as the settings say."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import anyio
from anyio import get_cancelled_exc_class
from pydantic import Field, SecretStr

from hotreload import Job, Live, LiveSettings, Missing, Secret, Service
from hotreload.host.start import RunOptions
from hotreload.reload.apply import Limits


def _state() -> Path:
    return Path(os.environ["STATE_DIRECTORY"])


class Conf(LiveSettings):
    """`ov.conf` of this service."""

    value: Annotated[int, Live, Field(ge=0)] = 0
    build_s: Annotated[float, Live] = 0.0
    """How long the resource takes to build, at the start and at a reload."""
    jobs: int = 0
    steps: int = 20
    step_s: Annotated[float, Live] = 0.05
    manner: Annotated[Literal["steps", "hang", "block once", "keep the GIL once"], Live] = "steps"
    key: Annotated[SecretStr | None, Live, Secret] = None


class Served(Service[Conf]):
    """May be told to wait longer for a part than in earnest."""

    def run(self, options: RunOptions) -> int:
        """Run with the limit that the unit sets, if any."""
        told = os.environ.get("PART_LIMIT_S")
        limits = Limits() if told is None else Limits(part_s=float(told), all_s=3 * float(told))
        return super().run(replace(options, limits=limits))


service = Served("served", settings=Conf, version="1")


@service.resource(rebuilt_by=("value", "build_s", "key"))
async def resource(conf: Conf) -> AsyncIterator[int]:
    """Build slowly if told to."""
    await anyio.sleep(conf.build_s)
    if conf.key is not None:
        (_state() / "key").write_text(conf.key.get_secret_value())
    yield conf.value


@service.worker("work", limit=100)
async def work(job: Job[int], conf: Conf, resource: int) -> None:
    """Do a number of steps, each written down; or hang without hearing a cancellation, or hold up everything, once."""
    del resource
    done = _state() / f"job-{job.payload}"
    for step in job.resume(range(conf.steps)):
        if conf.manner == "hang" and step == 2:
            await _hang()
        if conf.manner.endswith("once") and step == 2 and not (_state() / "blocked").exists():
            (_state() / "blocked").touch()
            _block(conf.manner)
        await anyio.sleep(conf.step_s)
        with done.open("a") as file:
            file.write(f"{step}\n")
        await job.checkpoint(step)
    done.rename(_state() / f"done-{job.payload}")


def _block(manner: str) -> None:
    if manner == "block once":
        print("blocks the loop", flush=True)
        threading.Event().wait()
    print("keeps the GIL", flush=True)
    sum(itertools.repeat(1, 10**12))


async def _hang() -> None:
    while True:
        try:
            await anyio.sleep_forever()
        except get_cancelled_exc_class():
            continue


@service.recovers("work")
async def unfinished(conf: Conf) -> AsyncIterator[Missing[int]]:
    """Find the jobs that are not done."""
    for number in range(conf.jobs):
        if not (_state() / f"done-{number}").exists():
            yield Missing(str(number), "not done", number)
