"""A service whose jobs each make one call to a loopback server, under a limit over all nodes."""

from __future__ import annotations

import asyncio
from typing import Annotated

from pydantic import Field

from hotreload import Job, Live, LiveSettings, Service


class Settings(LiveSettings):
    """Where the calls go, and how many may be under way over all nodes."""

    port: int = 0
    calls: Annotated[int, Live, Field(ge=0, le=10_000)] = 16
    starts: Annotated[int, Live, Field(ge=0)] = 1_000_000


service = Service("fleet-limits", settings=Settings)
service.limit("calls", lambda conf: conf.calls, across="fleet")
service.rate("starts", lambda conf: conf.starts, across="fleet")


@service.worker("call", limit=100, shares=["calls", "starts"])
async def call(job: Job[int], conf: Settings) -> None:
    """Hold a connection until the server closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", conf.port)
    writer.write(f"{job.payload}\n".encode())
    await reader.read()
    writer.close()
