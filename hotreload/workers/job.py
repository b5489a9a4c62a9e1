"""A job as the code that does it sees it: `Job` in coroutines, `SyncJob` in threads and child processes."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NoReturn, Protocol

from typing_extensions import TypeVar

from hotreload.errors import LeaseLost
from hotreload.lifecycle import Window
from hotreload.queue.job import PAYLOAD_MOST, Enqueued, JobRow, as_stored, storable
from hotreload.queue.store import Store
from hotreload.workers.failures import StopHere
from hotreload.workers.kind import Kind
from hotreload.workers.progress import Places, Progress

P = TypeVar("P")
S = TypeVar("S", default=Any)
T = TypeVar("T")
Within = Callable[[Any], object]
"""Called with the store's connection (apsw) inside the transaction of a checkpoint; SQL only."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the jobs of a pool share. `kinds` has those of all queues of the service, for follow-up work."""

    queue: Store
    kind: Kind
    newest: Callable[[], Any]
    draining: Callable[[], bool] = field(default=lambda: False)
    window: Callable[[], Window | None] = field(default=lambda: None)
    kinds: Mapping[str, Kind] = field(default_factory=dict[str, Kind])
    most_bytes: Callable[[], int] = field(default=lambda: PAYLOAD_MOST)


class AnyJob(Generic[P, S]):
    """What both kinds of job have in common; `P` is the type of the payload, `S` that of the settings."""

    def __init__(self, job_id: str, attempt: int, payload: P, progress: Progress) -> None:
        self._progress = progress
        self._places: Places | None = None
        self.id = job_id
        """The job's id in the queue."""
        self.attempt = attempt
        """1 for the first try; only failures count."""
        self.payload = payload
        """Validated as the handler's annotation says."""

    @property
    def cursor(self) -> Any:
        """The value of the last checkpoint, None before the first."""
        return self._progress.cursor

    @property
    def progress(self) -> Progress:
        """What the last checkpoint kept."""
        return self._progress

    def resume(self, items: Iterable[T], *, loop: str = "items") -> Iterator[T]:
        """Yield the items after the last checkpoint made inside this loop, or none where one was made after its end.

        Items are known by their place: the iterable must yield the same order each time. Two loops one after the
        other need two names (ValueError); one inside another starts over with each item of the outer. Loops of one
        job belong to one task.
        """
        if self._places is None:
            self._places = Places()
        here = self._places.begin(loop)
        start, seen, ended = self._progress.positions.get(here.name, 0), 0, False
        try:
            for index, item in enumerate(items):
                seen = index + 1
                if index >= start:
                    here.item(index)
                    yield item
            ended = True
        finally:
            here.leave(seen if ended else None)

    def _at(self) -> dict[str, int]:
        return self._places.now() if self._places else {}

    def stop(self) -> NoReturn:
        """End the job here: it is requeued at its last checkpoint without using an attempt."""
        raise StopHere


class Job(AnyJob[P, S]):
    """One claimed job in a coroutine: what is to be done, how far it came, and where to keep progress.

    `generation` is that of the settings it was started with.
    """

    def __init__(self, row: JobRow, payload: P, around: Surroundings) -> None:
        super().__init__(row.id, row.attempts + 1, payload, around.kind.open_progress(row))
        self._row = row
        self._around = around
        self.lease_seq = row.lease_seq
        self.most_bytes = around.most_bytes()
        self.generation: int = around.newest().generation
        self.stopping = False
        """Set by the pool: nothing more may be begun."""
        self.over = False
        """Set by the pool: the job was settled although its code still runs, so what it asks for is refused."""
        self.needed_until: float | None = None
        self.thread: int | None = None
        self._turn = asyncio.Lock()

    @property
    def interrupted(self) -> bool:
        """True once the service drains: a long step may end itself here, with `checkpoint` and `stop`."""
        return self.stopping or self._around.draining()

    def needs(self, seconds: float) -> None:
        """Say how long this job needs from here to its end or its next `needs`; a drain decides by it.

        Enough time left: the job is not interrupted before. Not enough: it is interrupted at once and not waited
        for, so call it where a checkpoint was made. In a drain this call itself may end the job, as `stop` does.
        """
        until, window = time.monotonic() + seconds, self._around.window()
        if self.stopping or (window is not None and until > window.cut_at):
            raise StopHere
        self.needed_until = until

    async def checkpoint(self, cursor: Any = None, *, within: Within | None = None) -> None:
        """Keep `cursor` (a JSON value, or of the worker's `cursor` type) and the place in the current `resume` loop.

        Durable on return. `within(connection)` writes rows of the job's own into the same store and transaction:
        both are durable or neither. ValueError where it ends the transaction or changes a table named `hotreload_…`;
        on PostgreSQL it may be called again, what its first call wrote is undone then. Cancelled while it waits, it
        may or may not have been kept. LeaseLost when the job is no longer this claim's; StoreUnavailable when the disk
        refuses: the progress before it stays.
        """
        places = self._at()
        await self.keep(lambda progress: progress.at(cursor, places), within)

    async def step(self, name: str, run: Callable[[], T | Awaitable[T]]) -> T:
        """Run `run` once and keep its result (a JSON value); on resume return what was kept, equal to it.

        A failure keeps nothing: the step runs again at the next attempt.
        """
        name = storable(name)
        if name in self._progress.steps:
            return self._progress.steps[name]
        made = run()
        result: Any = as_stored(await made if inspect.isawaitable(made) else made)
        await self.keep_step(name, result)
        return result

    async def keep_step(self, name: str, result: Any) -> None:
        """Make the result of one step durable; its cost does not depend on how many there are."""
        async with self._turn:
            self._must_be_mine()
            progress = self._progress
            value = progress.to_json(self._around.kind.cursor_json(progress.cursor))
            await self._around.queue.checkpoint(self._row, value, step=(name, [progress.version, result]))
            progress.steps[name] = result

    async def keep(self, change: Callable[[Progress], Progress], within: Within | None = None) -> None:
        """Make the changed progress durable; what `checkpoint` does, one at a time of several at once."""
        async with self._turn:
            self._must_be_mine()
            progress = change(self._progress)
            value = progress.to_json(self._around.kind.cursor_json(progress.cursor))
            await self._around.queue.checkpoint(self._row, value, within=within)
            self._progress = progress

    async def enqueue(
        self, queue: str, payload: Any, *, key: str | None = None, priority: int = 0, delay_s: float = 0.0
    ) -> Enqueued:
        """Add follow-up work, durable on return; `existing` says whether a job has `key` already, and its state.

        Give it a key: a job that is resumed comes by here again. Lower `priority` is claimed first. ValueError where
        no worker serves `queue` or the payload does not fit it.
        """
        self._must_be_mine()
        options: dict[str, Any] = {"key": key, "priority": priority, "delay_s": delay_s}
        return await enqueue(self._around.queue, self._around.kinds, queue, payload, **options)

    async def enqueue_many(
        self,
        queue: str,
        payloads: Iterable[Any],
        *,
        key: Callable[[Any], str] | None = None,
        priority: int = 0,
        delay_s: float = 0.0,
    ) -> list[Enqueued]:
        """Add a job for each payload, all or none, in one transaction; `key(payload)` gives each its key."""
        self._must_be_mine()
        around = self._around
        options: dict[str, Any] = {"key": key, "priority": priority, "delay_s": delay_s}
        return await enqueue_many(around.queue, around.kinds, queue, payloads, **options)

    def _must_be_mine(self) -> None:
        if self.over:
            raise LeaseLost(self.id, self.lease_seq)

    def refresh(self) -> S:
        """Return the newest settings and count this job on their generation; call it at a checkpoint."""
        snapshot = self._around.newest()
        self.generation = snapshot.generation
        return snapshot.settings


class Desk(Protocol):
    """Where a `SyncJob` is answered: by a `Job` behind a thread or a pipe. Every call may raise StopHere."""

    def keep(self, progress: Progress, within: Within | None) -> None:
        """Make progress durable."""
        ...

    def keep_step(self, name: str, result: Any) -> None:
        """Make the result of one step durable."""
        ...

    def ask(self, verb: str, *args: Any, **options: Any) -> Any:
        """Call `verb` of the job (`enqueue`, `needs`, `refresh`, `interrupted`) and return what it answers."""
        ...


class SyncJob(AnyJob[P, S]):
    """One claimed job in a thread or child process; the calls are those of `Job`, without `await`.

    One thread uses it at a time. Once the job is interrupted, `checkpoint`, `step` and `needs` end it here, as
    `stop` does, after they kept what they were given. A thread cannot be cancelled: one that never comes by is
    fenced and left behind.
    """

    def __init__(self, job_id: str, attempt: int, payload: P, progress: Progress, desk: Desk) -> None:
        super().__init__(job_id, attempt, payload, progress)
        self._desk = desk

    @property
    def interrupted(self) -> bool:
        """As `Job.interrupted`."""
        return self._desk.ask("interrupted")

    def needs(self, seconds: float) -> None:
        """As `Job.needs`."""
        self._desk.ask("needs", seconds)

    def checkpoint(self, cursor: Any = None, *, within: Within | None = None) -> None:
        """As `Job.checkpoint`; `within` is for threads only."""
        self._keep(self._progress.at(cursor, self._at()), within)

    def step(self, name: str, run: Callable[[], T]) -> T:
        """As `Job.step`."""
        name = storable(name)
        if name not in self._progress.steps:
            result: Any = as_stored(run())
            self._desk.keep_step(name, result)
            self._progress.steps[name] = result
        return self._progress.steps[name]

    def _keep(self, progress: Progress, within: Within | None = None) -> None:
        self._desk.keep(progress, within)
        self._progress = progress

    def enqueue(
        self, queue: str, payload: Any, *, key: str | None = None, priority: int = 0, delay_s: float = 0.0
    ) -> Enqueued:
        """As `Job.enqueue`."""
        return self._desk.ask("enqueue", queue, payload, key=key, priority=priority, delay_s=delay_s)

    def enqueue_many(
        self,
        queue: str,
        payloads: Iterable[Any],
        *,
        key: Callable[[Any], str] | None = None,
        priority: int = 0,
        delay_s: float = 0.0,
    ) -> list[Enqueued]:
        """As `Job.enqueue_many`; from a process handler `key` is a function of a module."""
        options: dict[str, Any] = {"key": key, "priority": priority, "delay_s": delay_s}
        return self._desk.ask("enqueue_many", queue, list(payloads), **options)

    def refresh(self) -> S:
        """As `Job.refresh`."""
        return self._desk.ask("refresh")


async def enqueue(
    store: Store, kinds: Mapping[str, Kind], queue: str, payload: Any, *, from_json: bool = False, **options: Any
) -> Enqueued:
    """Add one job of a known kind. ValueError where no worker serves `queue` or the payload does not fit."""
    kind = kind_of(kinds, queue)
    [job] = (await store.enqueue([kind.new(payload, from_json=from_json, **options)])).jobs
    return job


async def enqueue_many(
    store: Store,
    kinds: Mapping[str, Kind],
    queue: str,
    payloads: Iterable[Any],
    *,
    key: Callable[[Any], str] | None = None,
    **options: Any,
) -> list[Enqueued]:
    """Add a job of a known kind for each payload, all or none, in one transaction; as `enqueue`."""
    kind = kind_of(kinds, queue)
    jobs = [kind.new(payload, key=None if key is None else key(payload), **options) for payload in payloads]
    return list((await store.enqueue(jobs)).jobs) if jobs else []


def kind_of(kinds: Mapping[str, Kind], queue: str) -> Kind:
    """Return the kind of a queue's jobs; ValueError where no worker serves it."""
    if queue not in kinds:
        raise ValueError(f"no worker serves the queue {queue!r}; there is {', '.join(sorted(kinds)) or 'none'}")
    return kinds[queue]
