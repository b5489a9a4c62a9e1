"""Handles, limits and settings as a user types them. A line with `# wrong` must be an error to each type checker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from pydantic import BaseModel

from hotreload import Backoff, Enqueued, Job, Live, LiveSettings, Service, SyncJob


class OvConf(LiveSettings):
    """The settings."""

    calls: Annotated[int, Live] = 4
    timeout_s: Annotated[float, Live] = 30.0
    name: str = "texts"


class Document(BaseModel):
    """A payload."""

    path: str


class Client:
    """A resource."""


service = Service("typed", settings=OvConf)
service.limit("calls", lambda conf: conf.calls)
service.rate("starts", lambda conf: conf.calls)
service.limit("typos", lambda conf: conf.cals)  # wrong
service.limit("texts", lambda conf: conf.name)  # wrong


@service.resource(rebuilt_by=("calls",))
async def client(conf: OvConf) -> AsyncIterator[Client]:
    """Build a client."""
    yield Client()


@service.worker(
    "semantic",
    limit=lambda conf: conf.calls,
    timeout_s=lambda conf: conf.timeout_s,
    backoff=Backoff(first_s=2),
    shares=("calls", "starts"),
)
async def summarise(job: Job[Document, OvConf], conf: OvConf, client: Client) -> int:
    """Do a job in a coroutine."""
    path: str = job.payload.path
    timeout_s: float = job.refresh().timeout_s
    return len(path) + int(timeout_s)


@service.worker("count", limit=2, timeout_s=lambda conf: conf.name)  # wrong
def count(job: SyncJob[Document], conf: OvConf) -> str:
    """Do a job in a thread."""
    return job.payload.path


@service.worker("alone", limit=1)  # wrong
async def alone(job: Job[Document]) -> None:
    """Take no settings."""


@service.worker("swapped", limit=1)  # wrong
async def swapped(conf: OvConf, job: Job[Document]) -> None:
    """Take the settings first."""


@service.worker("plain", limit=1)  # wrong
def plain(job: Job[Document], conf: OvConf) -> None:
    """Be no coroutine, with the job of one."""


async def use() -> int:
    """Add jobs and wait for one."""
    job: Enqueued = await summarise.enqueue(Document(path="a.md"), key="a.md", priority=1)
    await summarise.enqueue_many([Document(path="b.md")], key=lambda document: document.path)
    await count.enqueue(Document(path="a.md"))
    await summarise.enqueue({"path": "a.md"})  # wrong
    await summarise.enqueue(Document(path="a.md"), prio=1)  # wrong
    words: str = await count.result(job)
    number: int = service.snapshot().calls
    print(service.snapshot().cals)  # wrong
    letters: str = await summarise.result(job)  # wrong
    return number + len(words) + len(letters) + await summarise.result(job.id)
