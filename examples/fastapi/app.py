"""Durable jobs in a web application: `uvicorn examples.fastapi.app:app`, and the same under any other ASGI server.

`OV_CONF` names the configuration file, `ov.conf` here without it.
"""

import os
from pathlib import Path
from typing import Annotated

from anyio import sleep
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from hotreload import Job, Live, LiveSettings, QueueDraining, Service


class Settings(LiveSettings):
    greeting: Annotated[str, Live] = "Hello"  # a saved file takes effect with the next request
    max_concurrent: Annotated[int, Live, Field(ge=1, le=100)] = 8
    pace_s: Annotated[float, Live, Field(ge=0)] = 1.0


class Letter(BaseModel):
    to: str
    lines: int = 5


service = Service("letters", settings=Settings)


@service.worker("letters", limit=lambda conf: conf.max_concurrent)
async def write(job: Job[Letter], conf: Settings) -> int:
    for line in job.resume(range(1, job.payload.lines + 1)):  # goes on after the last checkpoint
        await sleep(conf.pace_s)
        await job.checkpoint(line)
    return job.payload.lines


app = FastAPI(lifespan=service.lifespan(Path(os.environ.get("OV_CONF", "ov.conf"))))
running: list[int] = []
app.mount("/ops", service.admin_app())  # /ops/readyz; /ops/admin/… under the root key


@app.get("/")
async def greet(name: str = "world") -> dict[str, str]:
    return {"greeting": f"{service.snapshot().greeting}, {name}"}


@app.post("/letters", status_code=202)
async def order(letter: Letter) -> dict[str, str]:
    return {"id": (await write.enqueue(letter)).id}  # on the disk when this returns


@app.exception_handler(QueueDraining)
async def draining(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, status_code=503)


@app.get("/slow")
async def slow(seconds: float = 1.0) -> dict[str, str]:
    """Answer late: a request that runs when the server is told to stop may still add a job."""
    running.append(1)
    try:
        await sleep(seconds)
        return {"id": (await write.enqueue(Letter(to="the last one", lines=1))).id}
    finally:
        running.pop()


@app.get("/slow/running")
async def slow_running() -> int:
    return len(running)
