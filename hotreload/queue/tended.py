"""The part of the store that people and the host use: pages, retries, pauses, documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from anyio import to_thread

from hotreload.queue import holding
from hotreload.queue.alone import Alone
from hotreload.queue.documents import Put
from hotreload.queue.holding import Holding
from hotreload.queue.job import JobState
from hotreload.queue.people import Document, JobView, Reader
from hotreload.queue.rows import to_json
from hotreload.queue.tending import Pause, Tending
from hotreload.queue.writer import Writer


class Tended:
    """What `SqliteQueue` has beyond the verbs of `Queue`; reads go beside the writer, writes through it."""

    _writer: Writer
    _reader: Reader
    _tending: Tending
    _alone: Alone

    async def jobs(
        self, *, queue: str | None = None, state: JobState | None = None, limit: int = 50, before: str | None = None
    ) -> Sequence[JobView]:
        """Return a page of jobs, newest first; the next page is the one before the last id of this."""
        return await to_thread.run_sync(self._reader.page, queue, state, limit, before)

    async def job(self, job_id: str) -> JobView | None:
        """Return one job with payload, cursor, result and traceback; None where there is none."""
        return await to_thread.run_sync(self._reader.job, job_id)

    async def retry(self, ids: Sequence[str]) -> list[str]:
        """Make dead jobs ready with all their attempts, from their last checkpoint; return those that were dead."""
        return await self._writer.run(self._tending.retry, tuple(ids))

    async def discard(self, ids: Sequence[str]) -> list[str]:
        """Remove jobs that do not run; return those removed."""
        return await self._writer.run(self._tending.discard, tuple(ids))

    async def pause(self, queue: str) -> None:
        """Claim nothing more from `queue`, over restarts too, until `resume`; what runs goes on."""
        await self._writer.run(self._tending.pause, Pause(queue, paused=True))
        self._alone.withdraw(queue)

    async def resume(self, queue: str) -> None:
        """End a pause; the listeners of `on_ready` are called."""
        await self._writer.run(self._tending.pause, Pause(queue, paused=False))

    async def put_document(self, kind: str, document_id: str, body: Any, *, keep: int = 50) -> None:
        """Keep a JSON value under a kind and an id (replacing an older one), and the newest `keep` of its kind."""
        await self._writer.run(self._tending.put, Put(kind, document_id, to_json(body), keep))

    def put_document_sync(
        self, kind: str, document_id: str, body: Any, *, keep: int = 50, timeout_s: float = 1.0
    ) -> None:
        """As `put_document`, from any thread and before all that waits; TimeoutError after `timeout_s`."""
        put = Put(kind, document_id, to_json(body), keep)
        self._writer.run_sync(self._tending.put, put, timeout_s=timeout_s, urgent=True)

    async def documents(self, kind: str, *, newest: int = 50) -> Sequence[Document]:
        """Return up to `newest` documents of a kind, the one put last first."""
        return await to_thread.run_sync(self.documents_sync, kind, newest)

    def documents_sync(self, kind: str, newest: int = 50) -> Sequence[Document]:
        """As `documents`, from any thread."""
        return self._reader.documents(kind, newest)

    def holding(self, queue: str, keys: Sequence[str], since_ms: int) -> Mapping[str, Holding]:
        """Return the keys that have an unfinished or dead job, or one done at `since_ms` or later; from any thread."""
        return self._reader.read(lambda connection: holding.holding(connection, queue, keys, since_ms))

    def making(self, ranges: Sequence[tuple[int, int]]) -> tuple[int, int, Mapping[str, str]]:
        """Return of the jobs in these ranges of ids: how many are unfinished, how many there are, the dead and why.

        From any thread.
        """
        return self._reader.read(lambda connection: holding.making(connection, ranges))

    def queues_of(self, ids: Sequence[str]) -> Mapping[str, int]:
        """Return how many of these jobs each queue has; from any thread."""
        return self._reader.read(lambda connection: holding.queues_of(connection, ids)) if ids else {}
