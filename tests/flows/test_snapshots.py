"""Jobs of a real pool read whole snapshots, and values that belong to them, while reloads go on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import pytest
from pydantic import TypeAdapter

from hotreload import Job, Live, LiveSettings
from hotreload.config.document import parse
from hotreload.config.secrets import Redactor
from hotreload.config.settings import SettingsModel
from hotreload.config.store import SnapshotStore
from hotreload.lifecycle import Lifecycle, Phase
from hotreload.queue.job import NewJob
from hotreload.queue.sqlite import SqliteQueue
from hotreload.reload.attempt import Flow
from hotreload.reload.coordinator import ReloadCoordinator
from hotreload.reload.report import Outcome, Trigger, TriggerKind
from hotreload.reload.validate import Source, build_candidate, first_snapshot
from hotreload.workers.active import JobEnd
from hotreload.workers.execution import Execution
from hotreload.workers.job import Surroundings
from hotreload.workers.kind import Kind
from hotreload.workers.limits import Limit
from hotreload.workers.live import Follow
from hotreload.workers.pool import Pool
from hotreload.workers.resources import Resource
from hotreload.workers.runners import runner
from tests.counts import counted, patience_s

RELOADS = counted("SNAPSHOTS", 200)
READS = counted("READS", 100_000)
READS_A_JOB = 50
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(patience_s(120, READS, 100_000))]


class Twins(LiveSettings):
    """Three fields that are always the same number."""

    one: Annotated[int, Live] = 0
    two: Annotated[int, Live] = 0
    three: Annotated[int, Live] = 0


class Client:
    """A shared value built from one snapshot."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.ended = False


class Readers:
    """Jobs that read: each one snapshot and one client, from its start to its end."""

    def __init__(self, snapshots: SnapshotStore[Any]) -> None:
        self._snapshots = snapshots
        self.reads = 0
        self.seen: set[int] = set()
        self.clients: list[Client] = []

    async def client(self, conf: Twins) -> AsyncGenerator[Client]:
        client = Client(conf.one)
        self.clients.append(client)
        yield client
        client.ended = True

    async def work(self, job: Job[int], conf: Twins, client: Client) -> None:
        for _ in range(READS_A_JOB):
            fields = set[int]()
            for name in ("one", "two", "three"):
                fields.add(getattr(conf, name))
                await anyio.lowlevel.checkpoint()
            assert fields == {client.number}, "a mixture"
            assert not client.ended, "ended under a job"
            self.reads += 1
        self.seen.add(client.number)
        newest = job.refresh()
        assert newest.one == newest.two == newest.three >= conf.one
        assert self._snapshots.current.generation == newest.one + 1


async def test_no_job_ever_sees_a_mixture(tmp_path: Path, figures: Callable[[str], None]) -> None:
    path = tmp_path / "ov.conf"

    def save(number: int) -> None:
        path.write_text(json.dumps({"one": number, "two": number, "three": number}))

    save(0)
    source = Source(path=path, model=SettingsModel(Twins, environ={}))
    redactor = Redactor(b"k" * 32)
    snapshots = SnapshotStore(first_snapshot(build_candidate(parse(path, path.read_bytes()), source), redactor))
    lifecycle = Lifecycle()
    lifecycle.move(Phase.RUNNING)
    store = SqliteQueue.open(tmp_path / "q.db")
    readers = Readers(snapshots)
    resource = Resource("client", readers.client, ("",))
    around = Surroundings(
        queue=store,
        kind=Kind("reads", TypeAdapter(int)),
        newest=lambda: snapshots.current,
        draining=lambda: lifecycle.draining,
        window=lambda: None,
    )
    limit = Limit(20)
    execution = Execution(runner(readers.work), around, [resource])
    pool = Pool(name="reads", queue=store, execution=execution, limit=limit, window=around.window)
    outcomes: list[str] = []
    ended = anyio.Semaphore(0)

    def tell(end: JobEnd) -> None:
        outcomes.append(end.outcome)
        ended.release()

    pool.on_ended(tell)
    wake = asyncio.get_running_loop().call_soon_threadsafe
    store.on_ready(lambda _queue: wake(pool.wake) and None)
    resize = Follow("workers.reads", limit, lambda conf: 5 + conf.one % 40)
    coordinator = ReloadCoordinator(
        Flow(source, snapshots, [resize, resource], redactor),
        lifecycle,
        began=lambda _: None,
        heard=lambda _report, _document: None,
    )
    jobs = 0
    async with anyio.create_task_group() as tasks:
        await resource.start(snapshots.current.settings)
        tasks.start_soon(coordinator.run, name="reloads")
        tasks.start_soon(pool.run, name="pool")
        for number in range(1, RELOADS + 1):
            wanted = (
                READS * number // RELOADS // READS_A_JOB + 1
            )  # as many jobs are there as this reload has its share of
            await store.enqueue([NewJob("reads", job) for job in range(jobs, wanted)])
            jobs = max(jobs, wanted)
            save(number)
            report = await coordinator.submit(Trigger(TriggerKind.SIGNAL, "SIGHUP", 0)).wait()
            assert (report.outcome, report.generation) == (Outcome.APPLIED, number + 1)
        with anyio.fail_after(60):
            for _ in range(jobs):
                await ended.acquire()
        await anyio.wait_all_tasks_blocked()
        alive = [client.number for client in readers.clients if not client.ended]
        tasks.cancel_scope.cancel()
    store.close()
    assert set(outcomes) == {"done"}
    assert readers.reads >= READS
    assert alive == [RELOADS]
    assert len(readers.seen) > RELOADS // 2
    figures(f"{readers.reads:,} reads by {jobs:,} jobs under {RELOADS} reloads, {len(readers.seen)} generations seen")
