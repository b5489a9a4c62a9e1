"""What should exist and does not: found by a scan, put in the queue once.

A scan is an asynchronous generator of the service that knows what should exist. It yields `Missing` for what is to
be made, `Present` for what is whole, so that progress can be told, and `PassedOver` for what cannot be looked at.
It may take its time, and others may work meanwhile: a find counts as missing only if its key has no unfinished job
and none finished since the scan began, so that nothing that is queued or running is made twice.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar, cast

import anyio
from anyio import to_thread
from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError

from hotreload.errors import SearchRefused
from hotreload.queue.contract import Added, Duplicate
from hotreload.queue.job import JobState, NewJob, escaped
from hotreload.recovery.findings import Findings, Making, Wanted

log = logging.getLogger(__name__)
P = TypeVar("P")
PAGE: Final = 100
"""Finds compared and queued at once."""
STEP: Final = 256
"""Entries after which others get a turn, however busy a scan is."""


@dataclass(frozen=True, slots=True)
class Missing(Generic[P]):
    """One piece of work that should exist: `id` is its identity (the job's dedupe key), `reason` what is missing.

    The usual reasons: `no abstract`, `no overview`, `placeholder`, `empty`, `stale`, `orphaned`. An id with `/` is
    counted in its folder.
    """

    id: str
    reason: str
    payload: P


@dataclass(frozen=True, slots=True)
class Present:
    """So many entries were looked at and are whole; only told to show progress."""

    count: int = 1


@dataclass(frozen=True, slots=True)
class PassedOver:
    """An entry that cannot be looked at (unreadable, damaged, gone meanwhile): it is reported, and left as it is."""

    id: str
    reason: str


Seen = Missing[Any] | Present | PassedOver


@dataclass(frozen=True, slots=True)
class Scan:
    """A registered scan: `entries(settings)` yields what it sees for `queue`; `payload` serialises the missing."""

    queue: str
    entries: Callable[[Any], AsyncIterator[Seen]]
    payload: TypeAdapter[Any]
    version: int = 1


class Store(Protocol):
    """What a search needs of a queue."""

    async def enqueue(self, jobs: Sequence[NewJob], *, unless_done_since_ms: int | None = None) -> Added:
        """As `Store.enqueue` of `hotreload.queue`."""
        ...

    async def retry(self, ids: Sequence[str]) -> list[str]:
        """Make dead jobs ready; return those that were dead."""
        ...

    def now_ms(self) -> int:
        """Return the store's time in Unix ms; from any thread."""
        ...

    def duplicates(self, queue: str, keys: Sequence[str], since_ms: int) -> Mapping[str, Duplicate]:
        """Return the keys that have an active or dead job, or one done since; from any thread."""
        ...

    def pending(self, ranges: Sequence[tuple[int, int]]) -> tuple[int, int, Mapping[str, str]]:
        """Return how many jobs of these ids are unfinished, how many there are, and the dead with why; any thread."""
        ...


class QueueSearch:
    """The scans of one service over its queue. Meets `Search`."""

    def __init__(self, scans: Sequence[Scan], store: Store, settings: Callable[[], Any]) -> None:
        self._scans = scans
        self._store = store
        self._settings = settings

    async def search(self, wanted: Wanted, findings: Findings) -> None:
        """Run every scan to its end, one after the other; one that fails is told in the report, the others go on.

        Cancelled, what was queued stays queued; run again it queues the rest. SearchRefused for an account: these
        scans know none.
        """
        if wanted.account is not None:
            raise SearchRefused(f"this service has no accounts, so none called {wanted.account}")
        errors: list[str] = []
        for scan in self._scans:
            try:
                await _Sweep(scan, self._store, wanted, findings).run(self._settings())
            except Exception as error:
                log.exception("recovery.scan_failed queue=%s", scan.queue)
                errors.append(f"the scan for {scan.queue} ended early: {error!r}")
        findings.error = "; ".join(errors) or None

    async def making(self, findings: Findings) -> Making:
        """Return how far the jobs are that make what was found."""
        left, there, dead = await to_thread.run_sync(self._store.pending, list(findings.jobs))
        asked = sum(last - first + 1 for first, last in findings.jobs)
        return Making(left, max(asked, there) - left - len(dead), dead)


class _Sweep:
    """One scan, from its first entry to its last."""

    def __init__(self, scan: Scan, store: Store, wanted: Wanted, findings: Findings) -> None:
        self._scan = scan
        self._store = store
        self._wanted = wanted
        self._findings = findings
        self._since_ms = store.now_ms()
        self._pace = Pace(wanted.per_s)
        self._page: dict[str, Missing[Any]] = {}

    async def run(self, settings: Any) -> None:
        entries = self._scan.entries(settings)
        async with aclosing(cast("Any", entries)):
            async for seen in entries:
                self._take(seen)
                if len(self._page) >= PAGE:
                    await self._turn_page()
                await self._pace.keep(self._findings.scanned)
        await self._turn_page()

    def _take(self, seen: Seen) -> None:
        findings = self._findings
        if isinstance(seen, Present):
            findings.scanned += seen.count
            return
        findings.scanned += 1
        if not self._wanted.covers(seen.id):
            return
        if isinstance(seen, Missing):
            self._page[seen.id] = seen
        else:
            log.warning("recovery.passed_over queue=%s id=%r reason=%s", self._scan.queue, seen.id, seen.reason)
            findings.pass_over(escaped(seen.id), seen.reason)

    async def _turn_page(self) -> None:
        """Compare the finds with the queue, and with `repair` queue the rest."""
        finds, self._page = self._page.values(), {}
        found = [(find, job) for find in finds if (job := self._job(find)) is not None]
        jobs = {str(job.dedupe_key): job for _, job in found}
        reasons = {str(job.dedupe_key): find.reason for find, job in found}
        if not jobs:
            return
        held = await to_thread.run_sync(self._store.duplicates, self._scan.queue, list(jobs), self._since_ms)
        dead = {key: found.id for key, found in held.items() if found.state is JobState.DEAD}
        free = [job for key, job in jobs.items() if key not in held]
        self._findings.dead += len(dead)
        duplicates = await self._queue(free, list(dead.values())) if self._wanted.repair else set[str]()
        busy = (held.keys() - dead.keys()) | duplicates
        self._findings.already_queued += len(busy)
        self._findings.made_by(found.id for found in held.values() if found.unfinished)
        for key in jobs.keys() - busy:
            log.debug("recovery.missing queue=%s id=%s reason=%s", self._scan.queue, key, reasons[key])
        for key in (key for key in jobs if key not in busy):
            self._findings.miss(key, reasons[key])

    async def _queue(self, free: Sequence[NewJob], dead: Sequence[str]) -> set[str]:
        """Queue what no job does; return the keys that another job took meanwhile."""
        revived = await self._store.retry(dead) if dead and self._wanted.retry else []
        queued = await self._store.enqueue(free, unless_done_since_ms=self._since_ms) if free else Added(())
        self._findings.dead -= len(revived)
        self._findings.queued += len(queued.ids) + len(revived)
        self._findings.made_by(revived)
        self._findings.made_by(queued.ids)
        return set(queued.duplicates)

    def _job(self, find: Missing[Any]) -> NewJob | None:
        """Return the job that makes it; None for a find that no queue can hold, which is passed over."""
        try:
            payload = self._scan.payload.dump_python(find.payload, mode="json")
            return NewJob(queue=self._scan.queue, payload=payload, dedupe_key=find.id, version=self._scan.version)
        except (PydanticSerializationError, ValueError) as error:
            self._findings.pass_over(escaped(find.id), f"cannot be queued: {type(error).__name__}")
            return None


class Pace:
    """Lets a scan go on only so fast: at most `per_s` entries a second (None: as fast as it can)."""

    def __init__(self, per_s: float | None) -> None:
        self._per_s = per_s
        self._began = time.monotonic()
        self._told = 0
        self._first: int | None = None

    async def keep(self, scanned: int) -> None:
        """Return when the scan may go on; others get a turn now and then in any case."""
        if self._first is None:
            self._first = scanned
        if scanned - self._told < STEP and scanned >= self._told:
            return
        self._told = scanned
        ahead_s = (scanned - self._first) / self._per_s - (time.monotonic() - self._began) if self._per_s else 0.0
        await anyio.sleep(max(0.0, ahead_s))
