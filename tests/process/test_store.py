"""The verbs `store …` over both engines: what they show, what a check finds, a migration by the owner of the tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import psycopg
import pytest

from hotreload.cli.exits import Exit
from hotreload.queue.fleet import Ask
from hotreload.queue.job import Done, NewJob
from hotreload.queue.postgres import PostgresQueue
from hotreload.queue.sqlite import SqliteQueue
from hotreload.queue.sqlite.schema import steps
from tests.contracts.postgres import Server
from tests.contracts.stores import ENGINES
from tests.process.running import hotreload
from tests.process.serving import put, serving

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A PostgreSQL that keeps what it was told, which a check asks about."""
    made = Server(durable=True)
    yield made
    made.remove()


def configured(folder: Path, address: str | None = None) -> Path:
    """Write an ov.conf, and return it."""
    conf = folder / "ov.conf"
    conf.write_text(json.dumps({"hotreload": {"store": address} if address else {}}))
    return conf


async def asked(verb: str, conf: Path) -> tuple[int, Any, str]:
    """Return the exit code of a verb, its document and what it said on standard error."""
    done = await hotreload("store", verb, "--config", str(conf), "--json")
    return done.returncode, json.loads(done.stdout), done.stderr.decode()


async def fill(queue: Any) -> None:
    """Leave a job in each of three states, and close."""
    await queue.enqueue([NewJob("a", 1), NewJob("a", 2), NewJob("b", 3, run_at_ms=1 << 50)])
    [row] = await queue.claim("a", 1)
    await queue.settle(row, Done())
    assert queue.close()


def errors(document: Any) -> list[str]:
    return [each["what"] for each in document["findings"] if each["severity"] == "error"]


async def test_a_file_is_shown_and_checked_and_stays_as_its_owner_left_it(tmp_path: Path) -> None:
    conf, file = configured(tmp_path), tmp_path / ".hotreload/hotreload.db"
    code, document, _ = await asked("show", conf)
    assert (code, "has not run" in document["error"]) == (Exit.REFUSED_BY_CONTENT, True)
    await fill(SqliteQueue.open(file))
    before = {path.name: path.read_bytes() for path in file.parent.iterdir()}
    code, document, _ = await asked("show", conf)
    assert (code, document["engine"], document["place"]) == (Exit.DONE, "sqlite", str(file))
    assert document["schema"] == document["needs"] == steps()[-1].version
    counted = {queue["name"]: (queue["ready"], queue["scheduled"], queue["done"]) for queue in document["queues"]}
    assert counted == {"a": (1, 0, 1), "b": (0, 1, 0)}
    assert "findings" not in document
    code, document, _ = await asked("check", conf)
    assert (code, document["sound"], errors(document)) == (Exit.DONE, True, [])
    assert {path.name: path.read_bytes() for path in file.parent.iterdir()} == before, "the last owner's name too"
    shown = await hotreload("store", "check", "--config", str(conf))
    assert "sound" in shown.stdout.decode()


async def test_a_check_of_a_file_names_what_is_missing_miscounted_and_damaged(tmp_path: Path) -> None:
    conf, file = configured(tmp_path), tmp_path / ".hotreload/hotreload.db"
    await fill(SqliteQueue.open(file))
    with closing(apsw.Connection(str(file))) as connection:
        connection.execute("UPDATE hotreload_queues SET ready = 7 WHERE name = 'a'")
    code, document, _ = await asked("check", conf)
    assert (code, errors(document)) == (Exit.REFUSED_BY_CONTENT, ["queue 'a' has 1 ready jobs, its counter says 7"])
    with closing(apsw.Connection(str(file))) as connection:
        connection.execute("DROP INDEX hotreload_jobs_ready; DROP TRIGGER hotreload_steps_done")
    code, document, _ = await asked("check", conf)
    missing = ["the index hotreload_jobs_ready is missing", "the trigger hotreload_steps_done is missing"]
    assert (code, errors(document)) == (Exit.REFUSED_BY_CONTENT, missing)
    with closing(apsw.Connection(str(file))) as connection:
        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        page = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'hotreload_jobs_key_ended'").get
        size = connection.execute("PRAGMA page_size").get
    with file.open("r+b") as written:
        written.seek((page - 1) * size)
        written.write(b"\xff" * 64)
    code, document, _ = await asked("check", conf)
    assert code == Exit.REFUSED_BY_CONTENT
    assert "quick_check" in errors(document)[0]
    file.write_bytes(b"not a database" * 100)
    code, document, _ = await asked("check", conf)
    assert (code, "not an SQLite database" in document["error"]) == (Exit.REFUSED_BY_CONTENT, True)


async def test_a_file_of_an_older_release_is_migrated_and_one_of_a_newer_left(tmp_path: Path) -> None:
    conf, file = configured(tmp_path), tmp_path / ".hotreload/hotreload.db"
    file.parent.mkdir(mode=0o700)
    with closing(apsw.Connection(str(file))) as connection:
        connection.execute((Path(__file__).parents[1] / "contracts/store_0_1.sql").read_text())
    file.chmod(0o600)
    newest = steps()[-1].version
    code, document, _ = await asked("check", conf)
    assert (code, errors(document)) == (
        Exit.REFUSED_BY_CONTENT,
        [f"the store has schema {document['schema']}, this release needs {newest}"],
    )
    code, document, _ = await asked("migrate", conf)
    assert (code, document["after"], document["applied"][-1]) == (Exit.DONE, newest, newest)
    code, document, _ = await asked("migrate", conf)
    assert (code, document["applied"]) == (Exit.DONE, [])
    assert (await asked("check", conf))[0] == Exit.DONE
    with closing(apsw.Connection(str(file))) as connection:
        connection.execute("INSERT INTO hotreload_schema VALUES (99, 'later', 0)")
    code, document, _ = await asked("check", conf)
    assert (code, errors(document)) == (
        Exit.REFUSED_BY_CONTENT,
        [f"the store has schema 99, this release knows {newest}"],
    )
    code, document, _ = await asked("migrate", conf)
    assert (code, "run the newer release" in document["error"]) == (Exit.REFUSED_BY_CONTENT, True)


async def test_a_file_that_a_service_has_open_is_left_alone_and_its_owner_named(short_path: Path) -> None:
    put(short_path / "ov.conf")
    async with serving(short_path) as service:
        for verb in ("show", "check", "migrate"):
            code, document, _ = await asked(verb, short_path / "ov.conf")
            assert (code, f"pid {service.process.pid}" in document["error"]) == (Exit.REFUSED_BY_STATE, True)


async def test_a_configuration_that_cannot_be_used_is_exit_78(tmp_path: Path) -> None:
    code, document, said = await asked("show", tmp_path / "none.conf")
    assert (code, "No such file" in document["error"]) == (Exit.CONFIG, True)
    assert len(said.splitlines()) == 1
    (tmp_path / "ov.conf").write_text('{"hotreload": {"poll_s": -1}}')
    code, document, _ = await asked("check", tmp_path / "ov.conf")
    assert (code, "hotreload.poll_s" in document["error"]) == (Exit.CONFIG, True)


async def test_a_database_is_shown_with_its_nodes_while_it_is_used(server: Server, tmp_path: Path) -> None:
    address = server.schema("shown").replace("tests@", "tests:secret@")
    conf = configured(tmp_path, address)
    code, document, _ = await asked("check", conf)
    assert (code, errors(document)) == (Exit.REFUSED_BY_CONTENT, ["the store has no tables yet"])
    code, document, _ = await asked("migrate", conf)
    assert (code, document["before"]) == (Exit.DONE, 0)
    queue = PostgresQueue.open(address, "one")
    await queue.enqueue([NewJob("a", 1), NewJob("a", 2)])
    await queue.claim("a", 1)
    await queue.fleet.share([Ask("limits.calls", 16, 0, 4)])
    code, document, said = await asked("check", conf)
    held = {"name": "limits.calls", "node": "one", "permits": 4, "wants": 4, "value": 16, "ended": False}
    assert document["limits"] == [held]
    shown = (await hotreload("store", "show", "--config", str(conf))).stdout.decode()
    assert re.search(r"limits.calls +one +4 +4 +16", shown)
    assert (code, document["engine"], document["role"], errors(document)) == (Exit.DONE, "postgresql", "tests", [])
    assert "secret" not in json.dumps(document) + said
    assert "schema shown" in document["place"]
    assert [(node["name"], node["running"]) for node in document["nodes"]] == [("one", 1)]
    assert [(queue["name"], queue["ready"], queue["running"]) for queue in document["queues"]] == [("a", 1, 1)]
    assert document["size_bytes"] > 0
    ENGINES["postgres"].abandon(queue)
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("UPDATE hotreload_nodes SET seen_at = seen_at - interval '1 hour'")
    _, document, _ = await asked("check", conf)
    assert [each["severity"] for each in document["findings"]] == ["note"]
    assert "1 jobs run under it" in document["findings"][0]["what"]
    shown = (await hotreload("store", "show", "--config", str(conf))).stdout.decode()
    assert "s ago" in shown


async def test_a_check_of_a_database_names_what_is_missing_and_miscounted(server: Server, tmp_path: Path) -> None:
    address = server.schema("broken")
    conf = configured(tmp_path, address)
    await fill(PostgresQueue.open(address))
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("UPDATE hotreload_queues SET ready = 7 WHERE name = 'a'")
        code, document, _ = await asked("check", conf)
        assert (code, errors(document)) == (Exit.REFUSED_BY_CONTENT, ["queue 'a' has 1 ready jobs, its counter says 7"])
        connection.execute("DROP INDEX hotreload_jobs_ready; ALTER SEQUENCE hotreload_job_ids RENAME TO mine")
        code, document, _ = await asked("check", conf)
        missing = ["the sequence hotreload_job_ids is missing", "the index hotreload_jobs_ready is missing"]
        assert (code, errors(document)) == (Exit.REFUSED_BY_CONTENT, missing)
        connection.execute("INSERT INTO hotreload_schema VALUES (99, 'later')")
    code, document, _ = await asked("check", conf)
    assert (code, "this release knows" in errors(document)[0]) == (Exit.REFUSED_BY_CONTENT, True)
    code, document, _ = await asked("migrate", conf)
    assert (code, "run the newer release" in document["error"]) == (Exit.REFUSED_BY_CONTENT, True)


async def test_a_database_that_is_down_or_refuses_the_role_is_one_line_without_the_password(
    server: Server, tmp_path: Path
) -> None:
    for address, why, exits in (
        ("postgresql://a:secret@127.0.0.1:1/x", "Connection refused", Exit.REFUSED_BY_CONTENT),
        (server.dsn.replace("tests@", "stranger:secret@"), 'role "stranger" does not exist', Exit.REFUSED_BY_CONTENT),
        ("nonsense", "hotreload.store: must be postgresql://", Exit.CONFIG),
    ):
        for verb in ("show", "check", "migrate"):
            code, document, said = await asked(verb, configured(tmp_path, address))
            assert code == exits
            assert why in document["error"]
            assert "secret" not in said
            assert len(said.splitlines()) == 1
