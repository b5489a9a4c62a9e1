"""A disk that fails under a pool: no job pays for it, it is told once, all goes on when the disk works again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import apsw
import pytest

from hotreload import Job, StoreUnavailable
from hotreload.queue.job import JobState, NewJob
from hotreload.queue.sqlite import SqliteQueue
from tests.process.power import FailingDisk

from .test_pool_jobs import shop

pytestmark = pytest.mark.anyio
STEPS = 30


async def steps(job: Job[Any], _settings: Any) -> None:
    """Go on by checkpoints."""
    for step in job.resume(range(STEPS)):
        await anyio.sleep(0.002)
        await job.checkpoint(step)


def opener(disk: FailingDisk) -> Callable[[Path], SqliteQueue]:
    """Open the store on a disk."""
    return lambda path: SqliteQueue.open(path, opens=disk.connect)


@pytest.mark.parametrize(
    ("where", "kind", "says"),
    [
        ("write_error", apsw.FullError, "the disk is full"),
        ("write_error", apsw.ReadOnlyError, "the file is read-only"),
        ("write_error", apsw.IOError, "reading or writing the disk failed"),
        ("write_error", apsw.CorruptError, "the file is corrupt"),
        ("sync_error", apsw.IOError, "reading or writing the disk failed"),
    ],
)
async def test_a_disk_that_fails_costs_no_job_an_attempt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str, kind: type[apsw.Error], says: str
) -> None:
    disk = FailingDisk()
    with caplog.at_level(logging.WARNING):
        async with shop(tmp_path, steps, limit=4, opens=opener(disk)) as one:
            await one.store.enqueue([NewJob("steps", None, max_attempts=1)] * 6)
            at_work = one.pools["steps"].active.at_work
            await one.until(lambda: sum(bool(entry.job and entry.job.cursor) for entry in at_work()) == 4)
            setattr(disk, where, kind)
            await one.until(lambda: one.store.trouble is not None)
            assert says in str(one.store.trouble)
            await one.until(lambda: not at_work())  # each met the disk at a checkpoint
            with pytest.raises(StoreUnavailable, match=says):
                await one.store.enqueue([NewJob("steps", None)])
            await anyio.sleep(1.5)
            setattr(disk, where, None)
            await one.until(lambda: one.store.trouble is None)
            await one.until(lambda: not any(one.depth(state) for state in ("ready", "scheduled", "running")))
            assert one.depth("dead") == 0
    told = [record.message.split()[0] for record in caplog.records if "store." in record.message]
    assert told == ["store.unavailable", "store.available"]
    store = SqliteQueue.open(tmp_path / "q.db")
    jobs = await store.jobs()
    assert [(job.state, job.attempts) for job in jobs if int(job.id) <= 6] == [(JobState.DONE, 0)] * 6
    assert sum(job.interruptions for job in jobs) >= 4
    assert store.close()


@pytest.mark.parametrize("verb", ["claim", "exchange"])
async def test_what_was_claimed_by_a_commit_that_failed_goes_back(tmp_path: Path, verb: str) -> None:
    """The commit is in the WAL and may be found there, its caller was told that it failed."""
    disk = FailingDisk()
    store = SqliteQueue.open(tmp_path / "q.db", opens=disk.connect)
    await store.enqueue([NewJob("a", number) for number in range(3)])
    disk.sync_error = apsw.IOError
    with pytest.raises(StoreUnavailable):
        await (store.claim("a", 3) if verb == "claim" else store.exchange("a", 3, []))
    disk.sync_error = None
    with anyio.fail_after(10):
        while store.trouble:  # noqa: ASYNC110 - the writer tries by itself
            await anyio.sleep(0.01)
    assert [(depth.ready, depth.running) for depth in store.depths()] == [(3, 0)]
    assert len(await store.claim("a", 3)) == 3
    assert store.close()


async def test_an_idle_store_notices_by_itself_that_the_disk_works_again(tmp_path: Path) -> None:
    disk = FailingDisk()
    store = SqliteQueue.open(tmp_path / "q.db", opens=disk.connect)
    disk.write_error = apsw.FullError
    with pytest.raises(StoreUnavailable):
        await store.enqueue([NewJob("a", 1)])
    await anyio.sleep(1.2)
    assert store.trouble is not None
    disk.write_error = None
    with anyio.fail_after(5):
        while store.trouble:  # noqa: ASYNC110 - the writer tries by itself
            await anyio.sleep(0.01)
    assert store.close()
