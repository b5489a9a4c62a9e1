"""The two roles of `examples/postgres/roles.sql`: the owner migrates, the other runs a service and no more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

from hotreload.errors import StoreUnavailable
from hotreload.queue.contract import DrainMark
from hotreload.queue.fleet import Ask
from hotreload.queue.job import Done, Failed, JobState, NewJob
from hotreload.queue.postgres import PostgresQueue
from hotreload.queue.postgres.schema import steps
from tests.contracts.postgres import Server
from tests.process.running import HOTRELOAD, ROOT, hotreload, started, wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server(durable=True)  # `store check` says what is unsound
    with psycopg.connect(made.dsn, autocommit=True) as connection:
        connection.execute((ROOT / "examples/postgres/roles.sql").read_bytes())
    yield made
    made.remove()


def address(server: Server, role: str) -> str:
    return server.dsn.replace("tests@", f"{role}@")


def configured(folder: Path, name: str, store: str, **own: Any) -> Path:
    conf = folder / name
    conf.write_text(json.dumps({"hotreload": {"store": store, "watch": False, **own}}))
    return conf


async def test_a_service_runs_as_the_role_that_can_create_nothing_once_the_owner_has_migrated(
    server: Server, short_path: Path
) -> None:
    owner = configured(short_path, "owner.conf", address(server, "hotreload_owner"))
    conf = configured(short_path, "ov.conf", address(server, "hotreload_run"))
    run = ("run", "tests.process.sample:service", "--config", str(conf), "--socket", str(short_path / "s"))
    refused = await hotreload(*run)
    assert refused.returncode == 1
    assert "the role may not migrate it (permission denied for schema hotreload)" in refused.stderr.decode()
    migrated = await hotreload("store", "migrate", "--config", str(owner), "--json")
    assert (migrated.returncode, json.loads(migrated.stdout)["after"]) == (0, steps()[-1].version)
    checked = await hotreload("store", "check", "--config", str(conf), "--json")
    assert (checked.returncode, json.loads(checked.stdout)["role"]) == (0, "hotreload_run")
    for end, code in (("kill", -9), ("terminate", 0)):
        async with started(*HOTRELOAD, *run) as (process, _):
            await wait_until((short_path / "s").exists, 20, "ready")
            added = await hotreload("jobs", "add", "work", "1", "--socket", str(short_path / "s"))
            assert added.returncode == 0, added.stderr
            await wait_until(lambda: set(states(server)) == {"done"}, 20, "its job is done")
            getattr(process, end)()
            assert await process.wait() == code
        (short_path / "s").unlink(missing_ok=True)
    assert states(server) == ["done", "done"]


def states(server: Server) -> list[str]:
    with psycopg.connect(server.dsn) as connection:
        return [state for (state,) in connection.execute("SELECT state FROM hotreload.hotreload_jobs").fetchall()]


async def test_each_verb_works_as_the_role_that_only_runs_and_a_missing_privilege_is_named(
    server: Server, short_path: Path
) -> None:
    owner, run = address(server, "hotreload_owner"), address(server, "hotreload_run")
    PostgresQueue.open(owner).close()
    queue = PostgresQueue.open(run, "one", keep_done_s=0, monotonic=count(0, 60).__next__)
    await queue.enqueue([NewJob("a", number, dedupe_key=str(number), max_attempts=1) for number in range(6)])
    rows = await queue.claim("a", 4)
    await queue.checkpoint(rows[0], 1, step=("s", 1))
    await queue.settle(rows[0], Done(1))
    assert await queue.settle(rows[1], Failed("no")) is JobState.DEAD
    assert await queue.retry([rows[1].id]) == [rows[1].id]
    await queue.cancel([rows[2].id, rows[1].id])
    await queue.pause("a")
    await queue.resume("a")
    await queue.put_document("kind", "id", 1, keep=1)
    await queue.put_document("kind", "other", 1, keep=1)
    await wait_until(lambda: not queue.engine.ledger.standings()["a"].done, 20, "old results are removed")
    await queue.fleet.share([Ask("limits.l", 1, 0, 1), Ask("rates.r", 1, 0, 1, 60)])
    queue.mark_draining(5, DrainMark("d"))
    queue.flush(["a"], 5, ended=[(rows[3], Done())])
    assert queue.close()
    with pytest.raises(psycopg.errors.InsufficientPrivilege), psycopg.connect(run, autocommit=True) as connection:
        connection.execute("CREATE TABLE mine ()")
    for forbidden in (
        "TRUNCATE hotreload_jobs CASCADE",
        "DROP TABLE hotreload_steps",
        "ALTER TABLE hotreload_jobs ADD x int",
    ):
        with psycopg.connect(run) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(forbidden)
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("REVOKE DELETE ON hotreload_steps FROM hotreload_run")
        connection.execute("REVOKE USAGE ON SEQUENCE hotreload_job_ids FROM hotreload_run")
    conf = configured(short_path, "ov.conf", run)
    checked = await hotreload("store", "check", "--config", str(conf), "--json")
    assert checked.returncode == 1
    assert {each["right"] for each in json.loads(checked.stdout)["findings"]} == {
        "GRANT DELETE ON hotreload_steps TO hotreload_run",
        "GRANT USAGE ON SEQUENCE hotreload_job_ids TO hotreload_run",
    }
    with psycopg.connect(owner, autocommit=True) as connection:
        connection.execute("REVOKE ALL ON hotreload_nodes FROM hotreload_run")
    with pytest.raises(StoreUnavailable, match="permission denied for table hotreload_nodes"):
        PostgresQueue.open(run)
