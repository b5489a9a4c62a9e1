"""Jobs run one by one in the calling test, on a store in a temporary folder."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import anyio

from hotreload.config.settings import HotreloadSettings, LiveSettings
from hotreload.config.store import Snapshot
from hotreload.queue.contract import Added
from hotreload.queue.job import Done, Failed, Interrupted, JobRow, JobState, NewJob, Snoozed, Verdict, decide, to_json
from hotreload.queue.sqlite import SqliteQueue
from hotreload.service.declaration import Service
from hotreload.service.handle import Worker
from hotreload.service.jobs import ServiceJobs
from hotreload.workers.active import ActiveJob
from hotreload.workers.execution import Execution
from hotreload.workers.job import Surroundings
from hotreload.workers.runners import runner


@dataclass(frozen=True, slots=True)
class AddedJob:
    """A job that a run added: `payload` is a JSON value."""

    queue: str
    payload: Any
    key: str | None = None
    priority: int = 0
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of one run of a job.

    `outcome` is `done`, `failed` (to be tried again after `retry_in_s`), `dead`, `snoozed` or `interrupted`.
    `checkpoints` are the cursors this run kept, in order, and `steps` the results of all steps, as JSON values;
    `enqueued` are the jobs it added.
    """

    queue: str
    outcome: str
    result: Any = None
    reason: str | None = None
    traceback: str | None = None
    retry_in_s: float | None = None
    checkpoints: Sequence[Any] = ()
    steps: Mapping[str, Any] = field(default_factory=dict[str, Any])
    enqueued: Sequence[AddedJob] = ()
    progress: Mapping[str, Any] | None = None
    """What a resumed run goes on from."""


class _Kept:
    """The store of one run: notes checkpoints and new jobs, and tells of the n-th checkpoint."""

    def __init__(self, store: SqliteQueue, kept: Callable[[int], None]) -> None:
        self._store = store
        self._kept = kept
        self._count = 0
        self.progress: dict[str, Any] | None = None
        self.checkpoints: list[Any] = []
        self.steps: dict[str, Any] = {}
        self.enqueued: list[AddedJob] = []

    async def checkpoint(self, row: JobRow, cursor: Any, *, step: tuple[str, Any] | None = None, **more: Any) -> None:
        """Keep progress for good, then count it."""
        await self._store.checkpoint(row, cursor, step=step, **more)
        self.progress = cursor
        if step is None:
            self.checkpoints.append(cursor["cursor"])
        else:
            self.steps[step[0]] = step[1][1]  # stored with the version of the worker
        self._count += 1
        self._kept(self._count)

    async def enqueue(self, jobs: Sequence[NewJob], **options: Any) -> Added:
        """Add jobs for good and note the new ones."""
        added = await self._store.enqueue(jobs, **options)
        self.enqueued += [_noted(job) for job, one in zip(jobs, added.jobs, strict=True) if one.existing is None]
        return added

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def _noted(job: NewJob) -> AddedJob:
    return AddedJob(job.queue, job.payload, job.dedupe_key, job.priority, max(0.0, job.delay_s))


class _Given:
    """A resource as a worker is handed it."""

    def __init__(self, name: str, value: Any) -> None:
        self.parameter = name
        self._value = value

    def current(self) -> _Given:
        """Return what is taken."""
        return self

    def take(self) -> Any:
        """Return the value."""
        return self._value

    def give_back(self) -> None:
        """Nothing is counted."""


class Inline:
    """The jobs of a service in a test; made by `inline`."""

    def __init__(self, service: Service[Any], store: SqliteQueue, settings: Any, resources: Mapping[str, Any]) -> None:
        self._service = service
        self._store = store
        self._snapshot: Snapshot[Any] = Snapshot(settings, HotreloadSettings(), 1, "", {}, {}, {})
        self._resources = resources

    async def enqueue(self, worker: Worker[Any, Any] | str, payload: Any = None, **options: Any) -> str:
        """Add a job and return its id; options as `Service.enqueue`."""
        return (await self._service.enqueue(_queue(worker), payload, **options)).id

    async def run_until_idle(self, *workers: Worker[Any, Any] | str, most: int = 10_000) -> list[Ran]:
        """Run what is ready, one job after the other, until nothing is; what that adds is run as well.

        Of these workers' queues, or of all. Jobs that wait for a time stay. AssertionError after `most` runs.
        """
        queues = [_queue(worker) for worker in workers] or list(self._service.declared.workers)
        runs: list[Ran] = []
        while rows := await self._claim(queues):
            assert len(runs) < most, f"still not idle after {most} jobs"
            runs.append(await self._run(rows[0]))
        return runs

    async def run(
        self,
        worker: Worker[Any, Any] | str,
        payload: Any = None,
        *,
        attempt: int = 1,
        interrupt_after: int | None = None,
        resume: Ran | None = None,
    ) -> Ran:
        """Run one job now; see `run_job`."""
        queue = _queue(worker)
        await self.enqueue(queue, payload, priority=-(2**31))
        [row] = await self._claim([queue])
        row = replace(row, attempts=attempt - 1)
        if resume is not None and resume.progress is not None:
            version = self._service.declared.workers[queue].kind.version
            steps = {name: to_json([version, result]) for name, result in resume.steps.items()}
            row = replace(row, cursor_json=to_json(resume.progress), steps=steps)
        return await self._run(row, interrupt_after, dict(resume.steps) if resume else {})

    async def _claim(self, queues: Sequence[str]) -> list[JobRow]:
        for queue in queues:
            if rows := await self._store.claim(queue, 1):
                return rows
        return []

    async def _run(self, row: JobRow, interrupt_after: int | None = None, steps: dict[str, Any] | None = None) -> Ran:
        entry = ActiveJob(row, time.monotonic(), 0.0)

        def kept(count: int) -> None:
            if count == interrupt_after:
                entry.interrupt()

        store = _Kept(self._store, kept)
        store.steps.update(steps or {})
        execution = self._execution(row.queue, store)
        with self._service.using(ServiceJobs(cast("SqliteQueue", store), self._service.declared.kinds, ())):
            verdict = await _in_its_own_task(entry, execution)
        await execution.close()
        await self._store.settle(row, verdict)
        return _ran(row, verdict, store)

    def _execution(self, queue: str, store: _Kept) -> Execution:
        declared = self._service.declared
        worker = declared.workers[queue]
        around = Surroundings(
            queue=cast("SqliteQueue", store),
            kind=worker.kind,
            newest=lambda: self._snapshot,
            kinds=declared.kinds,
        )
        named = [resource.parameter for resource in worker.handed(declared.resources)]
        given: Any = [_Given(name, self._resources[name]) for name in named]
        policy = worker.policy.at(self._snapshot.settings)
        return Execution(runner(worker.handler, process=worker.process), around, given, policy=policy)


async def _in_its_own_task(entry: ActiveJob, execution: Execution) -> Verdict:
    """Run a job as a pool does, in a task and scope of its own; cancelled, so is the job."""

    async def run() -> Verdict:
        timer = execution.limit_time(entry, ActiveJob.interrupt)
        try:
            with anyio.CancelScope() as entry.scope:
                return await execution.run(entry)
        finally:
            if timer is not None:
                timer.cancel()
        raise AssertionError("a job's run raises nothing")

    entry.task = asyncio.get_running_loop().create_task(run())
    try:
        return await asyncio.shield(entry.task)
    except asyncio.CancelledError:
        entry.interrupt()
        with anyio.CancelScope(shield=True):
            await asyncio.wait([entry.task])
        raise


def _ran(row: JobRow, verdict: Verdict, store: _Kept) -> Ran:
    made = Ran(
        row.queue,
        type(verdict).__name__.lower(),
        checkpoints=store.checkpoints,
        steps=store.steps,
        enqueued=store.enqueued,
        progress=store.progress,
    )
    match verdict:
        case Done(result=result):
            return replace(made, result=result)
        case Failed():
            dead = decide(row, verdict, 0).state is JobState.DEAD
            told = replace(made, reason=verdict.error, traceback=verdict.traceback)
            return replace(told, outcome="dead") if dead else replace(told, retry_in_s=verdict.delay_s)
        case Interrupted(delay_s=delay_s) | Snoozed(delay_s=delay_s):
            return replace(made, retry_in_s=delay_s)


@asynccontextmanager
async def inline(
    service: Service[Any], *, settings: LiveSettings | None = None, resources: Mapping[str, Any] | None = None
) -> AsyncGenerator[Inline]:
    """Run jobs of a service in a test, on a store of their own that is gone afterwards.

    `settings` are those of the jobs (None: the model's defaults and what the environment says). `resources` stand for
    those the service would build, by name; what is not given is built and ended by the service's own factories.
    DeclarationError where what was declared does not fit together.
    """
    service.check_declared()
    used = service.settings() if settings is None else settings
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="hotreload-"))
        store = SqliteQueue.open(Path(folder) / "jobs.db")
        stack.callback(store.close)
        values = dict(resources or {})
        for name, factory in service.declared.factories.items():
            if name not in values:
                values[name] = await stack.enter_async_context(asynccontextmanager(factory)(used))
        jobs = Inline(service, store, used, values)
        stack.enter_context(service.using(ServiceJobs(store, service.declared.kinds, ())))
        yield jobs


async def run_job(
    service: Service[Any],
    worker: Worker[Any, Any] | str,
    payload: Any = None,
    *,
    settings: LiveSettings | None = None,
    resources: Mapping[str, Any] | None = None,
    attempt: int = 1,
    interrupt_after: int | None = None,
    resume: Ran | None = None,
) -> Ran:
    """Run one job of a worker (its handle or its queue's name) and return what became of it.

    `attempt` is the try it counts as (from 1); `interrupt_after` interrupts it, as a drain does, once it has kept that
    many checkpoints and steps; `resume` is an earlier run whose progress it goes on from. The worker's `timeout_s`
    holds; code that does not stop then is waited for. Settings and resources as `inline`. ValueError where the payload
    does not fit the worker.
    """
    async with inline(service, settings=settings, resources=resources) as jobs:
        return await jobs.run(worker, payload, attempt=attempt, interrupt_after=interrupt_after, resume=resume)


def _queue(worker: Worker[Any, Any] | str) -> str:
    return worker if isinstance(worker, str) else worker.queue
