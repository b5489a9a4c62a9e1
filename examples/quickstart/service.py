"""Counts the words of every text in a folder: `hotreload run examples.quickstart.service:service --config ov.conf`."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from anyio import sleep
from pydantic import BaseModel, Field

from hotreload import Job, Live, LiveSettings, Missing, Service


class Settings(LiveSettings):
    folder: Path = Path("texts")  # relative to the folder of ov.conf; a change waits for the next start
    max_concurrent: Annotated[int, Live, Field(ge=1, le=100)] = 2  # a change takes effect at once
    pace_s: Annotated[float, Live, Field(ge=0)] = 0.05


class Text(BaseModel):
    path: Path


service = Service("quickstart", settings=Settings)


@service.worker("count", limit=lambda conf: conf.max_concurrent)
async def count(job: Job[Text], conf: Settings) -> None:
    words: int = job.cursor or 0  # the value of the last checkpoint
    for line in job.resume(job.payload.path.read_text().splitlines()):  # goes on after the last checkpoint
        await sleep(conf.pace_s)
        words += len(line.split())
        await job.checkpoint(words)  # on the disk when this returns
    job.payload.path.with_suffix(".count").write_text(f"{words}\n")


@service.recovers("count")
async def uncounted(conf: Settings) -> AsyncIterator[Missing[Text]]:
    for path in sorted(conf.folder.glob("*.txt")):
        if not path.with_suffix(".count").exists():
            yield Missing(id=path.name, reason="no count", payload=Text(path=path))
