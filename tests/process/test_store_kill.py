"""kill -9 at any instant and before every statement, power lost below SQLite: nothing acknowledged is ever lost.

HOTRELOAD_KILLS and HOTRELOAD_LOSSES say the counts.
"""

from __future__ import annotations

import asyncio
import random
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import apsw
import pytest

from hotreload.errors import StoreOwned, StoreUnavailable
from hotreload.queue.sqlite import SqliteQueue
from tests.counts import counted, patience_s
from tests.process.running import ROOT, UNMEASURED

from .power import Disk
from .store_life import LEAST, Clock, check, disturb, finish, live

Figures = Callable[[str], None]
IN_A_ROW = 3
KILLS = counted("KILLS", 25)
LOSSES = counted("LOSSES", 40)
TIMEOUT_S = max(patience_s(400, KILLS, 25), patience_s(400, LOSSES, 40))


def lives(way: str, folder: Path, count: int) -> str:
    """Run lives in a process without threads, because those fork; return what it says."""
    seed = random.randrange(1 << 30)
    command = [sys.executable, "-m", "tests.process.store_life", way, str(folder), str(count), str(seed)]
    done = subprocess.run(
        command, cwd=ROOT, env=UNMEASURED, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(TIMEOUT_S)
def test_killed_at_random_instants(kept_path: Path, figures: Figures) -> None:
    said = lives("random", kept_path, KILLS)
    assert f"{KILLS} killed" in said
    figures(said.strip())


@pytest.mark.timeout(TIMEOUT_S)
def test_killed_before_every_statement(kept_path: Path, figures: Figures) -> None:
    said = lives("statements", kept_path, 0)
    fresh, killed, whole = map(int, re.findall(r"\d+", said))
    assert fresh > 20
    assert killed >= whole >= LEAST
    figures(said.strip())


@pytest.mark.timeout(TIMEOUT_S)
def test_power_lost_at_random_writes(kept_path: Path, figures: Figures) -> None:
    """Three times in a row each: while at work, put back and folded in, then while that is recovered or goes on."""
    begun = acknowledged = 0
    for number in range(LOSSES):
        history = _lose_power(kept_path / str(number), seed=random.randrange(1 << 30))
        begun += bool(history)
        acknowledged += len(history)
    assert begun > LOSSES // 2
    figures(f"{LOSSES * IN_A_ROW} losses, {acknowledged} acknowledged")


def _lose_power(folder: Path, seed: int) -> list[str]:
    """Lose power a few times in a row; return what had been acknowledged."""
    chance, history = random.Random(seed), list[str]()
    for number in range(IN_A_ROW):
        here, after = folder / str(number), folder / str(number + 1)
        here.mkdir(parents=True, exist_ok=True)
        after.mkdir()
        disk = Disk(chance.randrange(*((20, 600) if number == 0 else (3, 300))))
        _live_on(here / "queue.db", disk, history)
        disk.write_remains(after, chance)
        check(after / "queue.db", history)
    if (after / "queue.db").exists() and _has_effects(after / "queue.db"):
        finish(after / "queue.db")
    return history


def _live_on(path: Path, disk: Disk, history: list[str]) -> None:
    """Own the store until the power is gone."""

    async def lives_on(queue: SqliteQueue) -> None:
        await asyncio.gather(live(queue, history.append, rounds=10_000), disturb(queue, clock))

    clock = Clock()
    try:
        queue = SqliteQueue.open(path, opens=disk.connect, monotonic=clock)
    except StoreUnavailable:
        return
    try:
        with pytest.raises(StoreUnavailable):
            asyncio.run(lives_on(queue))
    finally:
        queue.close()


def test_a_second_process_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    script = (
        "import sys; from hotreload.queue.sqlite import SqliteQueue; "
        "queue = SqliteQueue.open(sys.argv[1]); print('owns', flush=True); sys.stdin.read()"
    )
    path = tmp_path / "queue.db"
    owner = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"owns\n"
        with pytest.raises(StoreOwned, match=f"pid {owner.pid} since 20"):
            SqliteQueue.open(path)
        owner.kill()
    assert SqliteQueue.open(path).close()


def test_a_wal_cut_anywhere_keeps_whole_commits(kept_path: Path) -> None:
    """The file as it is after a crash, its WAL cut at random places: a prefix of the commits, nothing else."""
    path = kept_path / "queue.db"
    history: list[str] = []

    async def fill() -> bytes:
        queue = SqliteQueue.open(path)
        await live(queue, history.append, rounds=5)
        wal = path.with_name("queue.db-wal").read_bytes()
        queue.close()
        return wal

    wal = anyio.run(fill)
    whole = path.read_bytes()
    chance = random.Random(7)
    for number in range(max(20, LOSSES // 2)):
        folder = kept_path / str(number)
        folder.mkdir()
        (folder / "queue.db").write_bytes(whole)
        (folder / "queue.db-wal").write_bytes(wal[: chance.randrange(len(wal))])
        connection = apsw.Connection(str(folder / "queue.db"))
        assert connection.execute("PRAGMA integrity_check").get == "ok"
        connection.close()
        SqliteQueue.open(folder / "queue.db").close()
        if _has_effects(folder / "queue.db"):
            finish(folder / "queue.db")


def _has_effects(path: Path) -> bool:
    connection = apsw.Connection(str(path))
    try:
        return connection.table_exists("main", "effects")
    finally:
        connection.close()
