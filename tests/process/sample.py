"""A small service whose every part can be made to fail, run as a real process by the tests beside it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import anyio
from pydantic import BaseModel, Field, SecretStr

from hotreload import Job, Live, LiveSettings, Service

PARTS = ("first", "second", "third")


class Part(BaseModel):
    """One resource: its value, and what goes wrong when it is built or ended."""

    value: Annotated[int, Live] = 0
    trouble: Annotated[
        Literal["", "fail", "refuse", "hang", "cancel", "kill", "fail at the end", "hang at the end"], Live
    ] = ""


class Sample(LiveSettings):
    """Live, restart and secret fields of every kind."""

    value: Annotated[int, Live, Field(ge=0)] = 0
    twin: Annotated[int, Live] = 0
    first: Part = Part()
    second: Part = Part()
    third: Part = Part()
    limit: Annotated[int, Live] = 2
    """A pool's limit; the pool refuses what is out of its range."""
    hold_s: Annotated[float, Live] = 0.0
    password: Annotated[SecretStr | None, Live] = None
    headers: Annotated[dict[str, str], Live] = Field(default_factory=dict)
    nested: Annotated[dict[str, Any], Live] = Field(default_factory=dict)
    url: Annotated[str, Live] = ""
    keys: Annotated[dict[str, int], Live] = Field(default_factory=dict)
    place: str = "here"


service = Service("sample", settings=Sample, version="1")


async def _build(part: Part) -> AsyncIterator[int]:
    match part.trouble:
        case "fail":
            raise RuntimeError(f"cannot build {part.value}")
        case "refuse":
            raise ConnectionRefusedError(111, "Connection refused")
        case "hang":
            print("building for ever", flush=True)
            try:
                await anyio.sleep_forever()
            finally:
                print("building was cancelled", flush=True)
        case "cancel":
            raise asyncio.CancelledError
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case _:
            pass
    yield part.value
    if part.trouble == "fail at the end":
        raise RuntimeError("cannot end")
    if part.trouble == "hang at the end":
        await anyio.sleep_forever()


@service.resource(rebuilt_by=("first",))
async def first(conf: Sample) -> AsyncIterator[int]:
    """Build the first part."""
    async for value in _build(conf.first):
        yield value


@service.resource(rebuilt_by=("second",))
async def second(conf: Sample) -> AsyncIterator[int]:
    """Build the second part."""
    async for value in _build(conf.second):
        yield value


@service.resource(rebuilt_by=("third",))
async def third(conf: Sample) -> AsyncIterator[int]:
    """Build the third part."""
    async for value in _build(conf.third):
        yield value


@service.worker("work", limit=lambda conf: conf.limit)
async def work(_job: Job[int], conf: Sample, first: int, second: int, third: int) -> None:
    """Hold a place in the pool for as long as the settings say."""
    del first, second, third
    await anyio.sleep(conf.hold_s)
