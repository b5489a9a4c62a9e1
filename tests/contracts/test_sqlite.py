"""What the engine on SQLite promises beyond the contract: rows of the job's own, the file, the disk, the schema."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import apsw
import pytest

from hotreload.errors import LeaseLost, StoreUnavailable
from hotreload.queue.job import Done, Failed, JobState
from hotreload.queue.sqlite import SqliteQueue
from hotreload.queue.sqlite.connection import connect
from hotreload.queue.sqlite.schema import Step, applied, migrate, steps
from hotreload.queue.sqlite.writer import QUIET_S

from .stores import ENGINES, NOW_MS, HandClock, Store, claimed, depth, new, one_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = Store(ENGINES["sqlite"], tmp_path / "state" / "queue.db", HandClock())
    yield found
    if found.opened is not None:
        assert found.opened.close()
        assert found.engine.sound(found.path)


@pytest.fixture
def queue(store: Store) -> SqliteQueue:
    return store.open()


# rows of the job's own


async def test_a_function_that_reads_cannot_close_the_connection(queue: SqliteQueue) -> None:
    with pytest.raises(ValueError, match="stays open after the function"):
        await queue.read(lambda connection: connection.close())
    assert await queue.read(lambda connection: connection.execute("SELECT 1").get) == 1


async def test_own_rows_and_progress_are_durable_together_or_not_at_all(store: Store) -> None:
    queue = store.open()
    await queue.write(lambda connection: connection.execute("CREATE TABLE effects (x UNIQUE)") and None)
    row = await one_of(queue)

    def effect(connection: apsw.Connection) -> None:
        connection.execute("INSERT INTO effects VALUES (1)")

    await queue.checkpoint(row, 1, within=effect)
    with pytest.raises(apsw.ConstraintError):
        await queue.checkpoint(row, 2, within=effect)
    queue = store.crash()
    assert (await claimed(queue))[0].cursor == 1
    assert await queue.write(lambda connection: connection.execute("SELECT count(*) FROM effects").get) == 1


@pytest.mark.parametrize(
    "sql",
    [
        "COMMIT",
        " rollback",
        "END TRANSACTION",
        "BEGIN",
        "/* x */ COMMIT",
        "-- x\n ROLLBACK",
        "; COMMIT",
        "SELECT 1; /**/ END",
        "/* x */ RELEASE hotreload_caller",
        "ROLLBACK TO hotreload_caller",
        "ATTACH ':memory:' AS more",
        "DETACH main",
        "PRAGMA synchronous = OFF",
        "PRAGMA writable_schema = 1",
        "PRAGMA wal_checkpoint(TRUNCATE)",
        "UPDATE hotreload_jobs SET state = 'done'",
        "update HotReload_Jobs set state = 'done'",
        "DELETE FROM main.hotreload_jobs",
        "INSERT INTO hotreload_facts VALUES ('last_id', 0)",
        "DROP TABLE hotreload_steps",
        "ALTER TABLE hotreload_jobs ADD COLUMN more TEXT",
        "CREATE TABLE hotreload_more (x)",
        "CREATE INDEX mine ON hotreload_jobs (version)",
        "CREATE TRIGGER mine AFTER UPDATE ON hotreload_jobs BEGIN SELECT 1; END",
        "CREATE TABLE e(x); CREATE TRIGGER t INSERT ON e BEGIN DELETE FROM hotreload_jobs; END; INSERT INTO e SELECT 1",
        "WITH one AS (SELECT 1) DELETE FROM hotreload_jobs",
    ],
)
@pytest.mark.parametrize("neighbours", [0, 3])
async def test_a_function_cannot_reach_beyond_its_own_rows(queue: SqliteQueue, sql: str, neighbours: int) -> None:
    async def refused() -> None:
        with pytest.raises(ValueError, match=r"SAVEPOINT|not for a function"):
            await queue.write(lambda connection: list(connection.execute(sql)) and None)

    async with anyio.create_task_group() as group:
        for number in range(neighbours):
            group.start_soon(queue.enqueue, new(number))
            if number == 1:
                group.start_soon(refused)
    await refused()
    assert [depth.ready for depth in queue.depths()] == [neighbours] * bool(neighbours)
    await queue.write(lambda connection: connection.execute("SAVEPOINT s; ROLLBACK TO s; RELEASE s") and None)
    await queue.write(lambda connection: list(connection.execute("SELECT * FROM hotreload_jobs")) and None)
    assert len((await queue.enqueue(new(1))).ids) == 1


async def test_a_failing_function_fails_no_neighbour_and_runs_once(queue: SqliteQueue) -> None:
    ran: list[int] = []

    async def fail(number: int) -> None:
        def function(connection: apsw.Connection) -> None:
            ran.append(number)
            connection.execute(f"CREATE TABLE t{number} (x)")
            raise RuntimeError("no")

        with pytest.raises(RuntimeError):
            await queue.write(function)

    async with anyio.create_task_group() as group:
        for number in range(5):
            group.start_soon(fail, number)
            group.start_soon(queue.enqueue, new(number))
    assert sorted(ran) == [0, 1, 2, 3, 4]
    assert depth(queue) == (5, 0, 0, 0)
    assert not await queue.write(lambda connection: connection.table_exists("main", "t3"))


# the file


def test_the_file_is_for_its_owner_only(store: Store) -> None:
    store.open()
    for file in store.path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file


async def test_dead_jobs_are_found_without_a_look_at_the_others(queue: SqliteQueue) -> None:
    for number in range(3):
        await queue.settle(await one_of(queue, number), Failed("no", for_good=True))
    await queue.enqueue(new(*range(1_000)) * 10)
    steps = 0

    def count() -> bool:
        nonlocal steps
        steps += 1
        return False

    for asked in ({}, {"queue": "a"}, {"before": "3"}):
        await queue.jobs(state=JobState.DEAD)  # opens, prepares
        queue.engine.reader.read(lambda connection: connection.set_progress_handler(count, 10))
        steps = 0
        found = await queue.jobs(state=JobState.DEAD, **asked)
        assert [job.id for job in found] == (["3", "2", "1"] if "before" not in asked else ["2", "1"])
        assert steps < 100, "it looked at all"


async def test_results_go_after_their_time_and_the_wal_is_folded_when_nobody_waits(store: Store) -> None:
    queue = store.open(keep_done_s=10)
    await queue.settle(await one_of(queue), Done())
    store.clock.now_ms += 10_000
    await queue.enqueue(new(2))
    with anyio.fail_after(10 * QUIET_S):
        while await queue.job("1") is not None or queue.engine.upkeep.wal_pages:  # noqa: ASYNC110 - upkeep tells nobody
            await anyio.sleep(0.02)
    queue.close()
    assert (await store.open().enqueue(new(3))).ids == ["3"]


# errors of the disk


def broken(error: Callable[[], apsw.Error] | None) -> Callable[[str], apsw.Connection]:
    """Connect to a store whose commits fail as long as `error` returns something to raise."""

    def opens(path: str) -> apsw.Connection:
        connection = connect(path)
        connection.set_commit_hook(lambda: _raise(error))
        return connection

    return opens


def _raise(error: Callable[[], apsw.Error | None] | None) -> bool:
    found = error and error()
    if found:
        raise found
    return False


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (apsw.FullError, "disk is full"),
        (apsw.IOError, "disk failed"),
        (apsw.ReadOnlyError, "read-only"),
        (apsw.CorruptError, "corrupt"),
    ],
)
async def test_a_disk_that_refuses_fails_all_that_wait_and_is_tried_again(
    store: Store, kind: type[apsw.Error], says: str
) -> None:
    failing = False
    queue = store.open(opens=broken(lambda: kind("as told") if failing else None))
    row = await one_of(queue, 0)
    failing = True
    failed: list[str] = []

    async def enqueue() -> None:
        with pytest.raises(StoreUnavailable, match=says) as refused:
            await queue.enqueue(new(1))
        failed.append(str(refused.value))

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(enqueue)
    with pytest.raises(StoreUnavailable):
        queue.requeue_running(["a"], 5)
    assert len(failed) == 5
    assert depth(queue) == (0, 0, 1, 0)
    failing = False
    assert await queue.settle(row, Done()) is JobState.DONE
    assert len((await queue.enqueue(new(1))).ids) == 1
    assert depth(queue) == (1, 0, 0, 0)


async def test_a_full_file_refuses_and_recovers(store: Store) -> None:
    made: list[apsw.Connection] = []

    def opens(path: str) -> apsw.Connection:
        made.append(connect(path))
        return made[-1]

    queue = store.open(opens=opens)
    row = await one_of(queue)
    pages = made[0].execute("PRAGMA page_count").get
    made[0].execute(f"PRAGMA max_page_count = {pages}").fetchall()
    with pytest.raises(StoreUnavailable, match="full"):
        await queue.enqueue(new("x" * 100_000))
    await queue.checkpoint(row, 1)
    made[0].execute("PRAGMA max_page_count = 1000000").fetchall()
    assert len((await queue.enqueue(new("x" * 100_000))).ids) == 1


async def test_a_read_only_file_is_refused_with_the_cause(store: Store) -> None:
    queue = store.open()
    await queue.enqueue(new(1))
    queue.close()
    with pytest.raises(StoreUnavailable, match="read-only"):
        store.open(opens=lambda path: apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY))
    assert len(await claimed(store.open())) == 1


async def test_an_error_no_future_can_carry_is_told_all_the_same(queue: SqliteQueue) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await queue.write(lambda _: next(iter(())))
    assert len((await queue.enqueue(new(1))).ids) == 1


@pytest.mark.parametrize("content", [b"not a database, surely" * 400, b"SQLite format 3\x00" + b"\xff" * 8000])
def test_a_file_that_is_no_store_is_refused_and_left(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "queue.db"
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=r"queue\.db"):
            SqliteQueue.open(path)
    assert path.read_bytes() == content


async def test_a_store_cut_short_is_refused(store: Store) -> None:
    queue = store.open()
    await queue.enqueue(new(*("x" * 5000 for _ in range(50))))
    queue.close()
    store.opened = None
    connection = apsw.Connection(str(store.path))
    assert connection.execute("SELECT count(*) FROM hotreload_jobs").get == 50  # now it knows of its WAL
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    connection.close()
    whole = store.path.read_bytes()
    store.path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreUnavailable, match="corrupt"):
        store.open()
    store.path.write_bytes(whole)
    assert len(await claimed(store.open(), 50)) == 50


def test_an_empty_file_is_a_new_store(store: Store) -> None:
    store.path.parent.mkdir()
    store.path.touch()
    assert store.open().depths() == []


def test_a_store_without_a_free_descriptor_says_so(tmp_path: Path) -> None:
    def refuses(_path: str) -> apsw.Connection:
        raise OSError(errno.EMFILE, "Too many open files")

    with pytest.raises(StoreUnavailable, match="Too many open files"):
        SqliteQueue.open(tmp_path / "q.db", opens=refuses)
    assert SqliteQueue.open(tmp_path / "q.db").close()


def test_a_store_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreUnavailable):
        SqliteQueue.open(tmp_path / "file" / "queue.db")
    (tmp_path / "queue.db").mkdir()
    with pytest.raises(StoreUnavailable):
        SqliteQueue.open(tmp_path / "queue.db")


# schema


def _shape(connection: apsw.Connection) -> list[Any]:
    return connection.execute("SELECT type, name, sql FROM sqlite_schema ORDER BY name").fetchall()


def test_a_step_cut_half_way_leaves_the_version_before() -> None:
    connection = apsw.Connection("")
    whole = steps()
    bad = Step(whole[-1].version + 1, "cut", "CREATE TABLE half (x); SELECT no_such_function()")
    with pytest.raises(apsw.SQLError):
        migrate(connection, NOW_MS, [*whole, bad])
    assert applied(connection) == whole[-1].version
    assert not connection.table_exists("main", "half")
    good = replace(bad, sql="CREATE TABLE half (x)")
    assert migrate(connection, NOW_MS, [*whole, good]) == [good.version]
    assert migrate(connection, NOW_MS, [*whole, good]) == []


def test_a_migrated_store_is_shaped_as_a_fresh_one() -> None:
    fresh, migrated = apsw.Connection(""), apsw.Connection("")
    migrate(fresh, NOW_MS)
    for number in range(1, len(steps()) + 1):
        migrate(migrated, NOW_MS, steps()[:number])
    assert _shape(fresh) == _shape(migrated)
    assert [step.version for step in steps()] == list(range(1, len(steps()) + 1))


async def test_a_store_of_the_first_release_goes_on_where_it_was_killed(store: Store) -> None:
    store.path.parent.mkdir()
    connection = apsw.Connection(str(store.path))
    connection.execute(Path(__file__).with_name("store_0_1.sql").read_text("utf-8")).fetchall()
    large = "x" * 100_000
    connection.execute("UPDATE hotreload_jobs SET payload = ? WHERE id IN (2, 4)", (json.dumps(large),))
    progress = json.dumps({"version": 1, "cursor": large, "positions": {}})
    connection.execute("UPDATE hotreload_jobs SET cursor = ? WHERE id = 4", (progress,))
    connection.close()
    store.clock.now_ms = 1_700_000_000_000
    queue = store.open()
    assert queue.recovered.crashed == queue.recovered.checkpointed == ["3"]
    assert depth(queue) == (3, 1, 0, 1)
    [row, next_row, _] = await claimed(queue)
    assert row.cursor == {"version": 1, "cursor": {"at": 7}, "positions": {"items": 3}}
    assert row.steps == {"first": '[1,{"size":12}]', "second": "[1,null]"}
    assert (next_row.payload, next_row.cursor) == (large, json.loads(progress))
    dead = await queue.job("2")
    assert dead is not None
    assert (dead.payload, dead.reason, dead.traceback) == (large, "ValueError: no", "Traceback ...")
    assert (await queue.enqueue(new(1, dedupe_key="k2"))).ids == ["8"]
    assert (await queue.enqueue(new(1, dedupe_key="k4"))).duplicates == ["k4"]
    assert [document.id for document in queue.documents("reload")] == ["r1"]
    assert [one.paused for one in queue.depths()] == [False, True]


@pytest.mark.parametrize("size", [5_000, 700_000])
async def test_long_texts_are_written_once(queue: SqliteQueue, store: Store, size: int) -> None:
    """Each move of a job writes its row again; its payload and cursor are not part of it, and go with the job."""

    async def apart(table: str) -> int:
        return await queue.read(lambda connection: connection.execute(f"SELECT count(*) FROM hotreload_{table}").get)

    long = "x" * size
    await queue.enqueue(new(*[long] * 10))
    rows = await claimed(queue)
    for row in rows:
        await queue.checkpoint(row, long)
    wal = store.path.with_name("queue.db-wal")
    before = wal.stat().st_size
    for _ in range(5):
        queue.requeue_running(["a"], 5)
        rows = await claimed(queue)
        assert [(row.payload, row.cursor) for row in rows] == [(long, long)] * 10
        await queue.checkpoint(rows[0], long, step=("s", 1))
    assert wal.stat().st_size - before < 10 * 25 * 4_096  # five pages for each move
    assert (await apart("payloads"), await apart("cursors")) == (10, 10)
    await queue.checkpoint(rows[0], 1)
    shown = await queue.job(rows[1].id)
    assert shown is not None
    assert (shown.payload, shown.cursor) == (long, long)
    assert (await apart("payloads"), await apart("cursors")) == (10, 9)
    await queue.cancel([row.id for row in rows])
    await queue.discard([row.id for row in rows])
    assert (await apart("payloads"), await apart("cursors")) == (0, 0)


async def test_a_long_cursor_that_is_fenced_changes_nothing(queue: SqliteQueue) -> None:
    await queue.enqueue(new(1, 2))
    first, second = await claimed(queue)
    queue.requeue_running(["a"], 5)
    [again, _] = await claimed(queue)
    late = [queue.checkpoint(row, "x" * 5_000) for row in (first, second)]
    found = await asyncio.gather(queue.checkpoint(again, "y" * 5_000), *late, return_exceptions=True)
    assert [type(one) for one in found] == [type(None), LeaseLost, LeaseLost]
    queue.requeue_running(["a"], 5)
    assert [row.cursor for row in await claimed(queue)] == ["y" * 5_000, None]


async def test_the_cost_of_a_step_does_not_depend_on_how_many_there_are(queue: SqliteQueue) -> None:
    row = await one_of(queue)
    written: list[int] = []
    for start in range(0, 10_000, 50):
        if start % 1_000 in (0, 100):
            written.append(await queue.write(lambda c: c.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE)[0]))
        steps_of = [(f"step {number}", "x" * 1_000) for number in range(start, start + 50)]
        await asyncio.gather(*(queue.checkpoint(row, None, step=step) for step in steps_of))
    # pages, of the first 100 steps of each 1,000
    first, *others = [end - start for start, end in zip(written[::2], written[1::2], strict=True)]
    assert max(others) <= 1.5 * first
    queue.requeue_running(["a"], 5)
    [again] = await claimed(queue)
    assert len(again.steps) == 10_000


async def test_a_newer_store_is_refused_and_left(store: Store) -> None:
    queue = store.open()
    await queue.enqueue(new(1))
    queue.close()
    connection = apsw.Connection(str(store.path))
    connection.execute("INSERT INTO hotreload_schema VALUES (99, 'later', 0)")
    connection.close()
    with pytest.raises(StoreUnavailable, match="schema 99"):
        store.open()


def test_the_lock_says_who_holds_it(store: Store) -> None:
    queue = store.open()
    said = json.loads(store.path.with_name("queue.db.lock").read_text())
    assert said["pid"] == os.getpid()
    queue.close()
    store.open()
