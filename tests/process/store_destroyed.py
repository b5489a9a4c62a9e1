"""A store under load whose files another program copies, opens, removes, replaces, cuts, overwrites or restores.

    python -m tests.process.store_destroyed FOLDER ROUNDS SEED

Each round a process owns the store and writes down what was acknowledged while the store said that it was sound; at
random instants its files are laid hands on, then it ends by SIGTERM or SIGKILL. All that was acknowledged is there at
the next start. A SIGKILL comes after a write that began after the last harm is acknowledged: until one is, nothing can
have been noticed.
"""

from __future__ import annotations

import asyncio
import os
import random
import select
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from hotreload.errors import StoreUnavailable
from hotreload.queue.job import Done, JobState, NewJob
from hotreload.queue.sqlite import SqliteQueue

from .store_life import Lost

PROVED_S: Final = 60.0
ROUNDS_A_STORE: Final = 5
PAYLOAD: Final = {"text": "x" * 200}
LOOK: Final = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0)
try:
    connection.execute("SELECT count(*) FROM hotreload_jobs").fetchone()
except sqlite3.DatabaseError:
    pass
connection.close()
"""


# --- the owner --------------------------------------------------------------------------------------------------------


async def own(queue: SqliteQueue, told: int, orders: int) -> None:
    """Add jobs and work on them until SIGTERM, do what is ordered inside of the process."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    threading.Thread(target=_obey, args=(queue, told, orders), daemon=True).start()
    tasks = [asyncio.create_task(call(queue, told)) for call in (_add, _add, _add, _work, _tell_health)]
    await ended.wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _add(queue: SqliteQueue, told: int) -> None:
    while True:
        await _acknowledged(queue, told, "E", lambda: _added(queue))
        await asyncio.sleep(0.001)


async def _added(queue: SqliteQueue) -> list[str]:
    return list((await queue.enqueue([NewJob("a", PAYLOAD)] * 3)).ids)


async def _work(queue: SqliteQueue, told: int) -> None:
    while True:
        await _acknowledged(queue, told, "A", lambda: _worked(queue))
        await asyncio.sleep(0.002)


async def _worked(queue: SqliteQueue) -> list[str]:
    rows = await queue.claim("a", 2)
    for row in rows:
        await queue.checkpoint(row, {"at": 1}, step=("one", PAYLOAD))
        await queue.settle(row, Done())
    return [row.id for row in rows]


async def _acknowledged(queue: SqliteQueue, told: int, kind: str, call: Callable[[], object]) -> None:
    healthy = queue.trouble is None
    try:
        ids = await call()  # pyright: ignore[reportGeneralTypeIssues]
    except StoreUnavailable:
        await asyncio.sleep(0.02)
        return
    if healthy and queue.trouble is None and ids:
        os.write(told, f"{kind} {' '.join(ids)}\n".encode())


async def _tell_health(queue: SqliteQueue, told: int) -> None:
    before: str | None = None
    while True:
        now = queue.trouble or queue.incident
        if now != before:
            os.write(told, f"H {now}\n".encode())
            before = now
        await asyncio.sleep(0.01)


def _obey(queue: SqliteQueue, told: int, orders: int) -> None:
    path = queue.engine.path
    while order := os.read(orders, 1):
        with suppress(OSError, sqlite3.Error):
            if order == b"p":
                _prove(queue)
                os.write(told, b"P\n")
            elif order == b"c":
                shutil.copy(path, path.parent.parent / "inside.copy")
            else:
                with sqlite3.connect(
                    f"file:{path}?mode={'ro' if order == b'r' else 'rw'}", uri=True, timeout=0
                ) as other:
                    other.execute("SELECT count(*) FROM hotreload_jobs").fetchone()
                other.close()


def _prove(queue: SqliteQueue) -> None:
    while True:
        with suppress(StoreUnavailable, TimeoutError):
            return queue.put_document_sync("proof", "p", None)


def _owner(path: Path, told: int, orders: int) -> None:
    queue = SqliteQueue.open(path)
    os.write(told, b"O\n")
    asyncio.run(own(queue, told, orders))
    if not queue.close(10):
        raise Lost("the store did not close")


# --- what is done to it -----------------------------------------------------------------------------------------------


def _wal(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _cut(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size + 1))


def _overwrite(path: Path, chance: random.Random) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(chance.randrange(size))
        file.write(os.urandom(chance.randrange(1, 20_000)))


def _replace(path: Path, older: Path) -> None:
    copy = path.with_name("copy")
    shutil.copy(older, copy)
    copy.replace(path)


Harm = Callable[[Path, random.Random], object]
HARMS: Final[dict[str, Harm]] = {
    "the folder removed": lambda path, _: shutil.rmtree(path.parent),
    "the database removed": lambda path, _: path.unlink(),
    "the WAL removed": lambda path, _: _wal(path).unlink(),
    "the lock removed": lambda path, _: path.with_name(f"{path.name}.lock").unlink(),
    "the database replaced by its copy": lambda path, _: _replace(path, path),
    "the WAL replaced by its copy": lambda path, _: _replace(_wal(path), _wal(path)),
    "an older copy moved into place": lambda path, _: _replace(path, path.parent.parent / "older"),
    "an older copy restored in place": lambda path, _: shutil.copyfile(path.parent.parent / "older", path),
    "the database cut": _cut,
    "the WAL cut": lambda path, chance: _cut(_wal(path), chance),
    "the database overwritten": _overwrite,
    "an older WAL restored in place": lambda path, _: shutil.copyfile(path.parent.parent / "older-wal", _wal(path)),
}
ORDERS: Final = {"copied inside": b"c", "opened inside": b"w", "read inside": b"r"}
LOOKED: Final = "opened outside"


def _harm(what: str, path: Path, chance: random.Random, orders: int) -> None:
    if what in ORDERS:
        os.write(orders, ORDERS[what])
    elif what == LOOKED:
        subprocess.run([sys.executable, "-c", LOOK, str(path)], check=True, capture_output=True)
    else:
        with suppress(FileNotFoundError, ValueError):  # an earlier harm was not put right yet
            HARMS[what](path, chance)


# --- the rounds -------------------------------------------------------------------------------------------------------


def one_round(path: Path, history: list[list[str]], chance: random.Random) -> list[str]:
    """Own the store once, harm it, end it; return what was done."""
    hears, tells = os.pipe()
    takes, orders = os.pipe()
    child = os.fork()
    if not child:
        try:
            _owner(path, tells, takes)
            os._exit(0)
        except BaseException as error:  # noqa: BLE001 - a child tells, then ends
            os.write(2, f"{error!r}\n".encode())
            os._exit(3)
    os.close(tells)
    os.close(takes)
    assert os.read(hears, 2) == b"O\n"
    done: list[str] = []
    text = bytearray()
    _listen(hears, text, chance.uniform(0.02, 0.2))
    shutil.copy(_wal(path), path.parent.parent / "older-wal")
    for _ in range(chance.randrange(1, 4)):
        _listen(hears, text, chance.uniform(0.02, 0.7))
        what = chance.choice([*HARMS, *ORDERS, LOOKED])
        _harm(what, path, chance, orders)
        done.append(what)
    kills = chance.random() < 0.5
    if kills:
        os.write(orders, b"p")
        _listen(hears, text, PROVED_S, until=b"P\n")
    else:
        _listen(hears, text, chance.uniform(0.0, 0.1))
    os.kill(child, signal.SIGKILL if kills else signal.SIGTERM)
    _listen(hears, text, None)
    _, status = os.waitpid(child, 0)
    os.close(hears)
    os.close(orders)
    if not kills and os.waitstatus_to_exitcode(status) != 0:
        raise Lost(f"the owner ended with {os.waitstatus_to_exitcode(status)} after {done}")
    history.extend(line.split() for line in text.decode().splitlines() if line)
    return [*done, "SIGKILL" if kills else "SIGTERM"]


def _listen(hears: int, text: bytearray, seconds: float | None, until: bytes | None = None) -> None:
    ends = None if seconds is None else time.monotonic() + seconds
    while ends is None or time.monotonic() < ends:
        if until is not None and until in text:
            return
        ready, _, _ = select.select([hears], [], [], None if ends is None else max(0.0, ends - time.monotonic()))
        if ready:
            if not (said := os.read(hears, 1 << 16)):
                return
            text.extend(said)


def check(path: Path, history: list[list[str]]) -> None:
    """Open what was left; Lost where something acknowledged is not in it."""
    queue = SqliteQueue.open(path)
    try:
        every = "SELECT id, state FROM hotreload_jobs"
        there = dict(queue.engine.reader.read(lambda connection: connection.execute(every).fetchall()))
    finally:
        assert queue.close()
    added = {int(job_id) for kind, *ids in history if kind == "E" for job_id in ids}
    ended = {int(job_id) for kind, *ids in history if kind == "A" for job_id in ids}
    if missing := added - there.keys():
        raise Lost(f"{len(missing)} of {len(added)} acknowledged jobs are gone")
    if undone := {job_id for job_id in ended if there.get(job_id) != JobState.DONE}:
        raise Lost(f"{len(undone)} of {len(ended)} jobs acknowledged as done are not")


def main(folder: Path, rounds: int, seed: int) -> str:
    """Do the rounds; Lost with the seed and what was done where one violates the promise."""
    chance, acknowledged, seen = random.Random(seed), 0, Counter[str]()
    for number in range(rounds):
        home = folder / str(number // ROUNDS_A_STORE)
        path = home / "state" / "queue.db"
        if number % ROUNDS_A_STORE == 0:
            history = list[list[str]]()
            SqliteQueue.open(path).close()
        shutil.copy(path, home / "older")
        done = one_round(path, history, chance)  # pyright: ignore[reportPossiblyUnboundVariable]
        seen.update(done)
        try:
            check(path, history)  # pyright: ignore[reportPossiblyUnboundVariable]
        except (Lost, StoreUnavailable) as lost:
            raise Lost(f"round {number}, after {done}: {lost}") from lost
        acknowledged = max(acknowledged, sum(len(line) - 1 for line in history if line[0] == "E"))
    return f"{rounds} rounds, 0 violations; {', '.join(f'{count} {what}' for what, count in seen.most_common())}"


if __name__ == "__main__":
    place, count_of, seeded = sys.argv[1:]
    try:
        print(main(Path(place), int(count_of), int(seeded)))
    except Lost as broken:
        sys.exit(f"seed {seeded}: {broken}")
