"""Another program lays hands on the store's files while they are open: nothing acknowledged is lost, or it is told."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import anyio
import apsw
import pytest

from hotreload.errors import StoreOwned, StoreUnavailable
from hotreload.queue.job import NewJob
from hotreload.queue.sqlite import SqliteQueue

pytestmark = pytest.mark.anyio
PAYLOAD: Final = {"text": "x" * 300}
NOTICED_S: Final = 1.0
LOOK: Final = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0)
try:
    print(connection.execute("SELECT count(*) FROM hotreload_jobs").fetchone()[0])
except sqlite3.OperationalError as error:
    print(error)
connection.close()
"""


def _overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(os.urandom(path.stat().st_size))


def _replace(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copy(path, copy)
    copy.replace(path)


def _restore_in_place(path: Path) -> None:
    shutil.copyfile(path.with_name("older"), path)


def _wal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


DESTROYED: Final[dict[str, Callable[[Path], object]]] = {
    # what the store brings back meanwhile may keep the folder from being removed, as it does for `rm -rf`
    "the folder is removed": lambda path: shutil.rmtree(path.parent, ignore_errors=True),
    "the database is removed": lambda path: path.unlink(),
    "the WAL is removed": lambda path: _wal(path).unlink(),
    "the database is replaced": _replace,
    "the WAL is replaced": lambda path: _replace(_wal(path)),
    "the database is emptied": lambda path: os.truncate(path, 0),
    "the database is cut short": lambda path: os.truncate(path, 3 * 4096),
    "the WAL is emptied": lambda path: os.truncate(_wal(path), 0),
    "the WAL is cut short": lambda path: os.truncate(_wal(path), 2 * 4120),
    "the database is overwritten": _overwrite,
    "the WAL is overwritten": lambda path: _overwrite(_wal(path)),
    "an older copy is restored": _restore_in_place,
}


async def filled(path: Path) -> tuple[SqliteQueue, list[str]]:
    """Open a store of which a part is in the file, another part in the WAL; with an older copy beside it."""
    queue = SqliteQueue.open(path)
    ids = [*(await queue.enqueue([NewJob("a", PAYLOAD)] * 300)).ids]
    queue.close()
    shutil.copy(path, path.with_name("older"))
    queue = SqliteQueue.open(path)
    for _ in range(3):
        ids += (await queue.enqueue([NewJob("a", PAYLOAD)] * 100)).ids
    return queue, ids


def kept(path: Path) -> set[str]:
    """Return the ids that the next start finds."""
    queue = SqliteQueue.open(path)
    found = {job.id for job in anyio.run(lambda: queue.jobs(limit=10_000))}
    assert queue.close()
    return found


@pytest.mark.parametrize("idle", [False, True], ids=["at work", "idle"])
@pytest.mark.parametrize("what", DESTROYED)
async def test_what_was_acknowledged_is_brought_back(tmp_path: Path, what: str, idle: bool) -> None:
    path = tmp_path / "state" / "q.db"
    queue, ids = await filled(path)
    DESTROYED[what](path)
    if idle:
        with anyio.fail_after(NOTICED_S):
            while not (queue.incident or queue.trouble):  # noqa: ASYNC110 - the writer looks by itself
                await anyio.sleep(0.01)
    for _ in range(3):
        ids += (await queue.enqueue([NewJob("a", PAYLOAD)])).ids
    with pytest.raises(StoreOwned):
        SqliteQueue.open(path)
    if not idle:
        with anyio.fail_after(NOTICED_S):
            while not queue.incident:  # noqa: ASYNC110 - the writer looks by itself
                await anyio.sleep(0.01)
    assert queue.trouble is None
    assert queue.lost == 0
    assert queue.incident is not None
    assert str(path) in queue.incident
    assert queue.close()
    assert set(ids) <= await anyio.to_thread.run_sync(kept, path)


async def test_a_lock_that_is_removed_is_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "state" / "q.db"
    lock = path.with_name("q.db.lock")
    queue, _ = await filled(path)
    lock.unlink()
    with pytest.raises((StoreOwned, StoreUnavailable)):
        SqliteQueue.open(path)
    with anyio.fail_after(NOTICED_S):
        while not lock.exists() or not lock.read_text():  # noqa: ASYNC110 - the writer looks by itself
            await anyio.sleep(0.01)
    with pytest.raises(StoreOwned):
        SqliteQueue.open(path)
    assert (queue.trouble, queue.incident) == (None, None)
    assert queue.close()


async def test_a_database_put_in_its_place_is_kept_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "q.db"
    queue, _ = await filled(path)
    path.with_name("older").replace(path)
    await queue.enqueue([NewJob("a", 1)])
    assert len(await anyio.to_thread.run_sync(kept, path.with_name("q.db.replaced"))) == 300
    assert queue.close()


async def test_what_cannot_be_brought_back_is_told_and_nothing_more_is_acknowledged(tmp_path: Path) -> None:
    """A store that is larger than what is kept in memory is emptied by another program."""
    path = tmp_path / "state" / "q.db"
    queue = SqliteQueue.open(path)
    for _ in range(5):
        await queue.enqueue([NewJob("a", "x" * 1_000_000)] * 10)
    queue.close()
    told: list[str] = []
    queue = SqliteQueue.open(path)
    queue.on_lost(told.append)
    os.truncate(path, 0)
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await queue.enqueue([NewJob("a", 1)])
    assert queue.trouble is not None
    assert queue.lost == 50
    assert len(told) == 1
    with pytest.raises(StoreUnavailable):
        queue.flush(["a"], 5)
    assert queue.close()


async def test_a_store_taken_over_is_left_to_the_other(tmp_path: Path) -> None:
    path = tmp_path / "state" / "q.db"
    queue, _ = await filled(path)
    told: list[str] = []
    queue.on_lost(told.append)
    busy, taken = threading.Event(), threading.Event()

    def holds(_connection: object) -> None:
        busy.set()
        taken.wait()

    async with anyio.create_task_group() as tasks:

        async def written() -> None:
            with pytest.raises(StoreUnavailable, match="only one process may use a store"):
                await queue.write(holds)

        tasks.start_soon(written)
        await anyio.to_thread.run_sync(busy.wait)
        shutil.rmtree(path.parent)
        other = SqliteQueue.open(path)
        taken.set()
    assert told
    assert queue.lost >= 600
    assert queue.close()
    assert (await other.enqueue([NewJob("a", 1)])).ids == ["1"]
    assert other.close()


def look(path: Path) -> str:
    """Look at a store as an operator does, in another process."""
    return subprocess.run([sys.executable, "-c", LOOK, str(path)], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("mode", ["rw", "ro"])
async def test_another_sqlite_in_the_process_and_outside_is_kept_out(tmp_path: Path, mode: str) -> None:
    """Both read the file and close it: with the locks of SQLite alone the WAL of the store would be removed."""
    path = tmp_path / "state" / "q.db"
    queue, ids = await filled(path)
    connection = sqlite3.connect(f"file:{path}?mode={mode}", uri=True, timeout=0)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        connection.execute("SELECT count(*) FROM hotreload_jobs")
    connection.close()
    shutil.copy(path, tmp_path / "copy.db")
    assert "locked" in await anyio.to_thread.run_sync(look, path)
    ids += (await queue.enqueue([NewJob("a", 1)])).ids
    assert (queue.trouble, queue.incident) == (None, None)
    assert queue.close()
    assert not _wal(path).exists(), "folded in"
    assert (await anyio.to_thread.run_sync(look, path)).strip() == str(len(ids))


def test_a_store_that_another_program_reads_is_refused_for_the_time(tmp_path: Path) -> None:
    path = tmp_path / "state" / "q.db"
    queue, _ = anyio.run(filled, path)
    queue.close()
    reader = subprocess.Popen(
        [sys.executable, "-c", LOOK.replace("connection.close()", "sys.stdout.flush(); sys.stdin.read()"), str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with reader:
        assert reader.stdout is not None
        assert reader.stdout.readline().strip() == b"600"
        with pytest.raises(StoreUnavailable, match="holds a lock"):
            SqliteQueue.open(path)
        reader.kill()
    assert SqliteQueue.open(path).close()


def test_a_file_system_without_wal_is_refused(tmp_path: Path) -> None:
    """SQLite's layer without locks has no shared memory for a WAL, as on a network file system."""
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="no WAL; use a local folder"):
            SqliteQueue.open(tmp_path / "q.db", opens=lambda path: apsw.Connection(path, vfs="unix-none"))


async def test_a_wal_that_begins_again_is_not_taken_for_a_harmed_one(tmp_path: Path) -> None:
    queue = SqliteQueue.open(tmp_path / "q.db")
    for size in (1, 100, 1, 300):  # folded in meanwhile, then begun again with more frames than it had
        await queue.enqueue([NewJob("a", PAYLOAD)] * size)
        with anyio.fail_after(5):
            while queue.engine.upkeep.wal_pages:  # noqa: ASYNC110 - upkeep tells nobody
                await anyio.sleep(0.02)
    assert (queue.trouble, queue.incident) == (None, None)
    assert queue.close()


# copies and reads of a running store


async def test_a_copy_of_a_running_store_has_all_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "state" / "q.db"
    queue, ids = await filled(path)
    more: list[str] = []

    async def work() -> None:
        while True:
            more.extend((await queue.enqueue([NewJob("a", PAYLOAD)])).ids)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work)
        for _ in range(3):
            before = [*ids, *more]
            size = await queue.backup(tmp_path / "copy.db")
            assert size == (tmp_path / "copy.db").stat().st_size
            assert (tmp_path / "copy.db").stat().st_mode & 0o077 == 0
            assert set(before) <= await anyio.to_thread.run_sync(kept, tmp_path / "copy.db")
        tasks.cancel_scope.cancel()
    assert sorted(os.listdir(tmp_path)) == ["copy.db", "copy.db.lock", "state"]
    for name in ("q.db", "q.db-wal", "q.db.lock"):
        with pytest.raises(ValueError, match="a file of the store"):
            await queue.backup(path.with_name(name))
    with pytest.raises(FileNotFoundError):
        await queue.backup(tmp_path / "not there" / "copy.db")
    assert queue.trouble is None
    assert queue.close()


async def test_a_copy_replaces_a_copy_and_nothing_else(tmp_path: Path) -> None:
    queue, _ = await filled(tmp_path / "state" / "q.db")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "letter").write_text("Dear reader")
    (tmp_path / "empty").touch()
    (tmp_path / "link").symlink_to(tmp_path / "copy.db")
    for name, why in (("pipe", "not a regular file"), ("folder", "not a regular file"), ("letter", "not a copy")):
        with pytest.raises(ValueError, match=f"{name}: is {why}"):
            await queue.backup(tmp_path / name)
    for name in ("empty", "copy.db", "copy.db", "link"):
        assert await queue.backup(tmp_path / name) > 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "letter").read_text() == "Dear reader"
    assert queue.close()


async def test_rows_of_the_jobs_own_are_read_beside_the_writer(tmp_path: Path) -> None:
    queue = SqliteQueue.open(tmp_path / "q.db")
    await queue.write(lambda connection: connection.execute("CREATE TABLE effects (x)") and None)
    await queue.write(lambda connection: connection.execute("INSERT INTO effects VALUES (1), (2)") and None)
    count = "SELECT count(*) FROM effects"
    assert await queue.read(lambda connection: connection.execute(count).get) == 2
    for sql in ("INSERT INTO effects VALUES (3)", "PRAGMA query_only = OFF", "BEGIN IMMEDIATE", "ATTACH 'x' AS y"):
        with pytest.raises(ValueError, match=r"that reads the store|SAVEPOINT"):
            await queue.read(lambda connection, sql=sql: list(connection.execute(sql)))
    with pytest.raises(apsw.SQLError):
        await queue.read(lambda connection: connection.execute("SELECT * FROM no_table"))
    assert await queue.read(lambda connection: connection.execute(count).get) == 2
    assert queue.close()
