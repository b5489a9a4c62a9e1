"""The service: one job a document, a checkpoint after each call, and a scan for what has no summary yet.

hotreload run examples.summaries.service:service --config .run/ov.conf
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from itertools import chain, islice
from typing import Any

import httpx
from anyio import to_thread

from examples.summaries import extract, workspace
from examples.summaries.documents import Document, find, locate, read
from examples.summaries.model import Chat, Extractive, Model
from examples.summaries.settings import OvConf
from hotreload import Job, Missing, PassedOver, Present, Service

PAGE = 200

service = Service("summaries", settings=OvConf, version="1.0")


@service.worker("semantic", limit=lambda conf: conf.vlm.max_concurrent)
async def summarise(job: Job[Document, OvConf], conf: OvConf, client: Model) -> None:
    """Write L0 and L1 of one document: a call for each section, one to merge."""
    document = job.payload
    try:
        text = await to_thread.run_sync(read, document)
    except FileNotFoundError:
        await to_thread.run_sync(_forget, document, conf)
        return
    vlm = conf.vlm
    sections = client.sections(text)
    state = f"{text.digest} {len(sections)}"  # a source that changed meanwhile, or was cut otherwise, begins again
    kept: dict[str, Any] = job.cursor or {}
    notes: list[str] = kept["notes"] if kept.get("state") == state else []
    for section in job.resume(sections, loop=state):
        notes.append(await client.note(document.id, section, vlm))
        await job.checkpoint({"state": state, "notes": notes})
        vlm = job.refresh().vlm  # a new pace or model counts from the next call on
    overview = await job.step(f"merge {state}", lambda: client.merge(document.id, notes, vlm))
    await to_thread.run_sync(
        lambda: workspace.write(
            conf.storage.workspace,
            document.id,
            abstract=extract.abstract(overview),
            overview=overview,
            mtime_ns=text.mtime_ns,
        )
    )


def _forget(document: Document, conf: OvConf) -> None:
    """Remove the summaries of a document that is gone; keep them where its whole folder is, as on a missing disk."""
    if locate(conf.documents, document.id) is not None:
        workspace.remove(conf.storage.workspace, document.id)


@service.resource(rebuilt_by=("vlm.api_base", "vlm.api_key"))
async def client(conf: OvConf) -> AsyncIterator[Model]:
    """The client of the model. Jobs that run keep theirs when the key or the endpoint changes."""
    if conf.vlm.api_base is None:
        yield Extractive()
        return
    key = conf.vlm.api_key
    headers = {"Authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    connections = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx.AsyncClient(base_url=conf.vlm.api_base, headers=headers, limits=connections) as http:
        yield Chat(http)


Seen = Missing[Document] | Present | PassedOver


@service.recovers("semantic")
async def without_summary(conf: OvConf) -> AsyncIterator[Seen]:
    """Find the documents whose L0 or L1 is missing, no text, or older than its source; and summaries of nothing."""
    damaged: list[PassedOver] = []
    entries = chain(_documents(conf, damaged), _orphans(conf))
    while page := await to_thread.run_sync(lambda: list(islice(entries, PAGE))):
        for seen in (*page, *damaged):
            yield seen
        damaged.clear()


def _documents(conf: OvConf, damaged: list[PassedOver]) -> Iterator[Seen]:
    for document in find(conf.documents, lambda path, reason: damaged.append(PassedOver(path, reason))):
        try:
            reason = workspace.missing(conf.storage.workspace, document)
        except OSError as error:
            yield PassedOver(document.id, error.strerror or "cannot be read")
            continue
        yield Missing(document.id, reason, document) if reason else Present()


def _orphans(conf: OvConf) -> Iterator[Seen]:
    for document in workspace.orphans(conf.storage.workspace, conf.documents):
        yield Missing(document.id, "orphaned", document)
