"""What only the engine on PostgreSQL has: outages, a COMMIT without an answer, nodes, a schema that is newer."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, Literal

import anyio
import psycopg
import pytest
from psycopg import sql

from hotreload.errors import LeaseLost, NotOffered, StoreLost, StoreUnavailable
from hotreload.queue.contract import DrainMark, Put, Recovered
from hotreload.queue.engines import node_name
from hotreload.queue.fleet import Ask, Grant
from hotreload.queue.job import Done, JobState, NewJob
from hotreload.queue.postgres import PostgresQueue
from hotreload.queue.postgres.connection import DatabaseClock, connect
from hotreload.queue.postgres.schema import Step, applied, migrate, steps

from .cutting import CuttingProxy
from .postgres import Server
from .stores import ENGINES, Postgres, depth, new, one_of

pytestmark = pytest.mark.anyio


def test_a_node_has_one_name_however_its_folder_is_spelled() -> None:
    assert node_name(Path("/srv/a/../b/.hotreload")) == node_name(Path("/srv/b/.hotreload"))
    assert node_name(Path("/srv/b")).endswith(":/srv/b")


@pytest.fixture
def proxy() -> Iterator[CuttingProxy]:
    engine = ENGINES["postgres"]
    assert isinstance(engine, Postgres)
    made = CuttingProxy(engine.server.folder)
    yield made
    made.close()


async def until(said: Any) -> None:
    with anyio.fail_after(20):
        while not said():  # noqa: ASYNC110 - the store has no event for it
            await anyio.sleep(0.01)


@pytest.mark.parametrize("cut", ["the answer", "the commit"])
async def test_a_commit_without_an_answer_is_looked_up(
    dsn: str, proxy: CuttingProxy, cut: Literal["the answer", "the commit"]
) -> None:
    engine = ENGINES["postgres"]
    assert isinstance(engine, Postgres)
    queue = PostgresQueue.open(proxy.dsn(dsn, engine.server.folder))
    proxy.cut = cut
    added = await queue.enqueue([NewJob("a", 1, dedupe_key="k"), *new(2)])
    assert added.duplicates == [], "made once, whatever became of the first COMMIT"
    assert [job.payload for job in await queue.claim("a", 9)] == [1, 2]
    assert queue.trouble is None
    assert queue.close()


async def test_a_connection_that_was_cut_is_opened_again_unnoticed(own_server: Server) -> None:
    queue = PostgresQueue.open(own_server.schema("cut"))
    row = await one_of(queue)
    assert own_server.cut_all() >= 1
    await queue.checkpoint(row, 7)
    assert await queue.settle(row, Done()) is JobState.DONE
    assert [job.state for job in await queue.jobs()] == [JobState.DONE]
    assert own_server.cut_all() >= 2
    assert [job.state for job in await queue.jobs()] == [JobState.DONE]
    assert queue.close()


async def test_an_outage_is_told_and_ends_by_itself(own_server: Server) -> None:
    queue = PostgresQueue.open(own_server.schema("outage"))
    row = await one_of(queue)
    own_server.stop()
    with pytest.raises(StoreUnavailable):
        await queue.settle(row, Done())
    assert queue.trouble is not None
    with pytest.raises(StoreUnavailable):
        await queue.jobs()
    own_server.start()
    await until(lambda: queue.trouble is None)
    assert await queue.settle(row, Done()) is JobState.DONE
    assert queue.close()


async def test_the_last_flush_waits_an_outage_out_and_not_longer_than_it_may(own_server: Server) -> None:
    queue = PostgresQueue.open(own_server.schema("flushed"))
    row = await one_of(queue)
    own_server.stop()
    with pytest.raises((StoreUnavailable, TimeoutError)):
        queue.flush(["a"], 0.3)
    back: list[Any] = []
    thread = threading.Thread(target=lambda: back.append(queue.flush(["a"], 30, ended=[(row, Done())], asked=[row.id])))
    thread.start()
    own_server.start()
    await anyio.to_thread.run_sync(thread.join, 30)
    assert back[0].states == {row.id: JobState.DONE}
    assert queue.close()


async def test_a_database_that_hangs_holds_no_caller_up(own_server: Server) -> None:
    queue = PostgresQueue.open(own_server.schema("hung"))
    await one_of(queue)
    backends = own_server.backends()
    for pid in backends:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError):
            queue.flush(["a"], 0.2)
        assert not queue.close(0.2)
    finally:
        for pid in backends:
            os.kill(pid, signal.SIGCONT)
    assert queue.close(20)


def test_the_databases_time_is_carried_on_until_it_is_told_again() -> None:
    monotonic_s = 7.0
    clock = DatabaseClock(lambda: monotonic_s)
    clock.told(1_000)
    monotonic_s += 1.5
    assert clock() == 2_500
    clock.told(2_000)
    assert clock() == 2_000


async def test_nodes_share_the_jobs_and_each_start_recovers_its_own(dsn: str) -> None:
    first, second = PostgresQueue.open(dsn, "one"), PostgresQueue.open(dsn, "two")
    await first.enqueue(new(*range(4)))
    await until(second.depths)
    mine, other = await first.claim("a", 2), await second.claim("a", 9)
    assert [row.payload for row in mine + other] == [0, 1, 2, 3]
    assert second.engine.inbox.close(5)
    again = PostgresQueue.open(dsn, "two")
    assert again.recovered.crashed == [row.id for row in other]
    with pytest.raises(LeaseLost):
        await first.settle(other[0], Done())
    assert await first.settle(mine[0], Done()) is JobState.DONE
    assert again.close()
    assert first.close()


async def test_a_node_that_falls_silent_is_taken_over_within_its_time(dsn: str) -> None:
    first, second = (PostgresQueue.open(dsn, name, ttl_s=5) for name in ("one", "two"))
    await first.enqueue(new(1, 2))
    row, _ = await first.claim("a", 2)
    await first.checkpoint(row, 7)
    await until(lambda: second.depths() and depth(second) == (0, 0, 2, 0))
    lost: list[str] = []
    first.on_lost(lost.append)
    held, entered = threading.Event(), threading.Event()

    def hold(_connection: Any) -> None:
        entered.set()
        held.wait(30)

    async with anyio.create_task_group() as tasks:

        async def stay_silent() -> None:
            with pytest.raises(StoreUnavailable):
                await first.write(hold)

        tasks.start_soon(stay_silent)
        await anyio.to_thread.run_sync(entered.wait, 5)
        began = time.monotonic()
        await until(lambda: depth(second)[0] == 2)
        assert time.monotonic() - began <= 5
        again = await second.claim("a", 2)
        held.set()
    assert (again[0].id, again[0].cursor, again[0].crashes) == (row.id, 7, 1)
    with pytest.raises(StoreUnavailable):
        await first.settle(row, Done())
    assert await second.settle(again[0], Done()) is JobState.DONE
    await until(lambda: lost)
    assert first.close()
    assert second.close()


async def test_a_node_that_was_taken_over_can_write_nothing(dsn: str) -> None:
    lost: list[str] = []
    first = PostgresQueue.open(dsn)
    first.on_lost(lost.append)
    row = await one_of(first)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("UPDATE hotreload_nodes SET owner = 'another'")
    with pytest.raises(StoreLost, match="took node '' over"):
        await first.settle(row, Done())
    assert len(lost) == 1
    assert (await first.job(row.id)).state is JobState.RUNNING  # pyright: ignore[reportOptionalMemberAccess]
    assert first.close()


async def test_a_node_that_ends_in_order_is_not_called_lost(dsn: str) -> None:
    lost: list[str] = []
    for _ in range(5):
        queue = PostgresQueue.open(dsn, look_s=0.001)
        queue.on_lost(lost.append)
        await one_of(queue)
        assert queue.close()
    assert lost == []


async def test_a_function_that_ends_the_transaction_is_refused_and_fails_no_neighbour(dsn: str) -> None:
    queue = PostgresQueue.open(dsn)
    await queue.write(lambda connection: connection.execute("CREATE TABLE mine (x INTEGER)"))

    def insert(connection: Any) -> None:
        connection.execute("INSERT INTO mine VALUES (1)")

    refused: list[Exception] = []

    async def wrong() -> None:
        try:
            await queue.write(lambda connection: connection.commit())
        except psycopg.Error as error:
            refused.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(queue.write, insert)
        tasks.start_soon(wrong)
        tasks.start_soon(queue.enqueue, new(1))
    assert len(refused) == 1
    assert await queue.read(lambda connection: connection.execute("SELECT x FROM mine").fetchall()) == [(1,)]
    with pytest.raises(ValueError, match="only"):
        await queue.read(insert)
    assert queue.depths()[0].ready == 1
    assert queue.close()


async def test_many_at_once_open_one_empty_database_and_a_newer_one_is_refused(dsn: str) -> None:
    opened: list[PostgresQueue] = []

    def open_node(name: str) -> None:
        opened.append(PostgresQueue.open(dsn, name))

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(anyio.to_thread.run_sync, open_node, str(number))
    assert all(queue.close() for queue in opened)
    with connect(dsn) as connection:
        assert applied(connection) == steps()[-1].version
        later = [*steps(), Step(steps()[-1].version + 1, "later", "CREATE TABLE hotreload_later (x INTEGER)")]
        assert migrate(connection, later) == [later[-1].version]
    with pytest.raises(StoreUnavailable, match="run the newer release"):
        PostgresQueue.open(dsn)


async def test_a_migration_that_fails_leaves_nothing(dsn: str) -> None:
    PostgresQueue.open(dsn).close()
    later = [*steps(), Step(90, "made", "CREATE TABLE half (x INTEGER)"), Step(91, "fails", "CREATE TABLE half ()")]
    with connect(dsn) as connection:
        with pytest.raises(psycopg.errors.DuplicateTable):
            migrate(connection, later)
        assert connection.execute("SELECT to_regclass('half')").fetchone() == (None,)
        assert applied(connection) == steps()[-1].version


async def test_old_results_are_removed(dsn: str) -> None:
    queue = PostgresQueue.open(dsn, keep_done_s=0, monotonic=count(0, 60).__next__)
    await queue.settle(await one_of(queue, dedupe_key="k"), Done(1))
    deadline = time.monotonic() + 20
    while await queue.jobs():
        assert time.monotonic() < deadline
    assert queue.close()


async def test_claims_and_verdicts_read_no_more_of_the_table_than_they_change(dsn: str) -> None:
    queue = PostgresQueue.open(dsn)
    pid = queue.engine.node.backend_pid  # pyright: ignore[reportAttributeAccessIssue]
    ended: list[Any] = []
    for _ in range(30):
        await queue.enqueue(new(*range(10)))
        rows = (await queue.exchange("a", 10, ended)).rows
        await queue.checkpoint(rows[0], 7)
        ended = [(row, Done()) for row in rows]
    await queue.exchange("a", 0, ended)
    assert queue.close()
    asked = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
    read = (
        "SELECT seq_tup_read, (SELECT idx_tup_read FROM pg_stat_user_indexes AS running "
        "WHERE running.relid = jobs.relid AND indexrelname = 'hotreload_jobs_running') "
        "FROM pg_stat_user_tables AS jobs WHERE relname = 'hotreload_jobs' AND schemaname = current_schema()"
    )
    with connect(dsn) as connection:
        await until(lambda: connection.execute(asked, (pid,)).fetchone() == (0,))  # it has told what it read by then
        assert connection.execute(read).fetchone() == (0, 0)


async def test_a_function_that_removes_what_was_prepared_fails_no_later_call(dsn: str) -> None:
    queue = PostgresQueue.open(dsn)
    row = await one_of(queue)
    await queue.write(lambda connection: connection.execute("DEALLOCATE ALL"))
    added = await queue.enqueue(new(2))
    await queue.write(lambda connection: connection.execute("DEALLOCATE ALL"))
    assert await queue.settle(row, Done()) is JobState.DONE
    assert [(job.id, job.state) for job in await queue.jobs()] == [
        (added.ids[0], JobState.READY),
        (row.id, JobState.DONE),
    ]
    assert queue.trouble is None
    assert queue.close()


async def test_a_text_that_the_server_would_cut_is_refused(dsn: str) -> None:
    with connect(dsn) as connection:
        with pytest.raises(psycopg.DataError, match="NUL"):
            connection.ask("SELECT %s::text", ["a\0b"])
        assert connection.ask("SELECT %s::text, %s::text[]", ["ä\n", ['"', "\\", None, ""]]).rows == [
            ("ä\n", ['"', "\\", None, ""])
        ]
    with connect(f"{dsn}&client_encoding=latin1") as connection:
        assert connection.ask("SELECT length(%s::text), %s::text", ["äö", "äö"]).rows == [(2, "äö")]


async def test_a_statement_that_failed_stops_those_behind_it_in_the_trip(dsn: str) -> None:
    with connect(dsn) as connection:
        connection.ask("CREATE TABLE made (x bigint)")
        connection.later("BEGIN")
        connection.later("INSERT INTO made VALUES (%s)", [1])
        connection.later("SELECT 1 / count(*) FROM made WHERE x = %s", [2], refused=StoreLost("not mine"))
        connection.later("COMMIT")
        with pytest.raises(StoreLost, match="not mine"):
            connection.answers()
        connection.rollback()
        assert connection.ask("SELECT count(*) FROM made").rows == [(0,)]
        large = ["x" * 3_000_000, "y"]
        connection.later("SELECT %s::text", large[:1])
        assert connection.ask("SELECT %s::text || %s::text", large).rows == [("".join(large),)], "more than a buffer"


async def test_the_ids_of_two_nodes_differ_and_rise_with_time(dsn: str) -> None:
    one, two = PostgresQueue.open(dsn, "one"), PostgresQueue.open(dsn, "two")
    given = [int(job_id) for queue in (one, two, one, two) for job_id in (await queue.enqueue(new(*range(70)))).ids]
    assert len(set(given)) == 280
    assert given[:70] == sorted(given[:70])
    assert given[:70] + given[140:210] == sorted(given[:70] + given[140:210])
    assert one.close()
    assert two.close()


async def test_an_address_that_is_none_and_a_copy_are_refused_without_the_password(dsn: str) -> None:
    for address, said in (
        ("postgresql://a:geheim@127.0.0.1:1/x", "postgresql 127.0.0.1/x"),
        ("postgresql://geheim@[/", "not a PostgreSQL address"),
    ):
        with pytest.raises(StoreUnavailable, match=said) as refused:
            PostgresQueue.open(address)
        assert "geheim" not in str(refused.value)
    queue = PostgresQueue.open(dsn)
    with pytest.raises(NotOffered, match="pg_dump"):
        await queue.backup("x")
    assert queue.close()


def asks(has: int, wants: int, value: int = 16, keep_s: float = 0.0) -> list[Ask]:
    return [Ask("limits.calls", value, has, wants, keep_s)]


async def test_permits_are_divided_between_nodes_and_come_back_with_an_orderly_end(dsn: str) -> None:
    one, two = PostgresQueue.open(dsn, "one"), PostgresQueue.open(dsn, "two")
    assert await one.fleet.share(asks(0, 40)) == [Grant(16, 16, short=False)]
    assert await two.fleet.share(asks(0, 40)) == [Grant(0, 0, short=True)]
    assert await one.fleet.share(asks(16, 40)) == [Grant(16, 8, short=False)]
    assert await one.fleet.share(asks(8, 40)) == [Grant(8, 8, short=False)]
    assert await two.fleet.share(asks(0, 40)) == [Grant(8, 8, short=False)]
    assert await one.fleet.share(asks(8, 40, value=4)) == [Grant(8, 0, short=True)]
    one.flush(["a"], 5)
    assert await two.fleet.share(asks(8, 40)) == [Grant(16, 16, short=False)]
    assert await one.fleet.share(asks(8, 40)) == [Grant(0, 0, short=False)], "nothing begins after the flush"
    assert one.close()
    assert two.close()


async def test_the_permits_of_a_node_that_is_gone_are_free_at_its_next_start_those_of_a_rate_a_minute_later(
    dsn: str,
) -> None:
    one, two = PostgresQueue.open(dsn, "one"), PostgresQueue.open(dsn, "two")
    limit, rate = Ask("limits.calls", 16, 0, 16), Ask("rates.calls", 16, 0, 16, 60.0)
    assert await one.fleet.share([limit, rate]) == [Grant(16, 16, short=False)] * 2
    ENGINES["postgres"].abandon(one)
    assert await two.fleet.share([limit, rate]) == [Grant(0, 0, short=True)] * 2
    again = PostgresQueue.open(dsn, "one")
    assert await two.fleet.share([limit, rate]) == [Grant(16, 16, short=False), Grant(0, 0, short=False)]
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("UPDATE hotreload_permits SET until = clock_timestamp() WHERE until IS NOT NULL")
    assert await two.fleet.share([limit, rate]) == [Grant(16, 16, short=False)] * 2
    assert await two.fleet.share([Ask(one.name, 16, 0, 0) for one in (limit, rate)]) == [Grant(0, 0, short=False)] * 2
    assert await two.read(lambda connection: connection.execute("SELECT * FROM hotreload_permits").fetchall()) == []
    assert again.close()
    assert two.close()


CHANGES = {
    "insert": "INSERT INTO hotreload_queues (name) VALUES ('mine')",
    "update": "UPDATE hotreload_jobs SET state = 'done'",
    "delete": "DELETE FROM hotreload_jobs",
    "truncate": "TRUNCATE hotreload_steps",
    "with": "WITH gone AS (DELETE FROM hotreload_jobs RETURNING id) INSERT INTO mine SELECT id FROM gone",
    "prepared": "PREPARE {name} AS DELETE FROM hotreload_jobs; EXECUTE {name}",
    "procedure": "DO $$ BEGIN EXECUTE 'delete from ' || 'hotreload' || '_jobs'; END $$",
    "cascade": "DELETE FROM mine",
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_function_of_a_user_cannot_change_the_tables_of_the_store(dsn: str, change: str) -> None:
    queue = PostgresQueue.open(dsn)
    row, numbers = await one_of(queue), count()

    def prepare(connection: Any) -> None:
        connection.execute("CREATE TABLE mine (x bigint PRIMARY KEY)")
        sweep = (
            "CREATE FUNCTION sweep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN DELETE FROM hotreload_jobs; END $$"
        )
        connection.execute(sweep)
        connection.execute("INSERT INTO mine VALUES (1)")
        connection.execute("CREATE TRIGGER sweep AFTER DELETE ON mine FOR EACH STATEMENT EXECUTE FUNCTION sweep()")

    def both(connection: Any) -> None:
        connection.execute("INSERT INTO mine VALUES (2)")
        # a new name each time: what was prepared outlives a rollback, until the driver forgets its own and all others
        connection.execute(CHANGES[change].replace("{name}", f"sweeps_{next(numbers)}"))

    await queue.write(prepare)
    refused: list[str] = []

    async def wrong(call: Any) -> None:
        with pytest.raises(
            ValueError, match=r"(INSERT|UPDATE|DELETE|TRUNCATE) hotreload_\w+: not for a function"
        ) as error:
            await call
        refused.append(str(error.value))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wrong, queue.write(both))
        tasks.start_soon(wrong, queue.checkpoint(row, 7, within=both))
        tasks.start_soon(queue.write, lambda connection: connection.execute("INSERT INTO mine VALUES (3)"))
        tasks.start_soon(queue.enqueue, new(2))
    assert len(refused) == 2
    mine = await queue.read(lambda connection: connection.execute("SELECT x FROM mine ORDER BY x").fetchall())
    assert mine == [(1,), (3,)]
    await queue.checkpoint(row, 8, within=lambda connection: connection.execute("INSERT INTO mine VALUES (4)"))
    assert await queue.settle(row, Done()) is JobState.DONE
    assert depth(queue) == (1, 0, 0, 0)
    assert queue.close()


async def test_every_table_has_the_guard_those_of_a_later_step_too(dsn: str) -> None:
    PostgresQueue.open(dsn).close()
    later = [*steps(), Step(steps()[-1].version + 1, "later", "CREATE TABLE hotreload_later (x INTEGER)")]
    with connect(dsn) as connection:
        migrate(connection, later)
        unguarded = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r' "
            "AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = pg_class.oid AND tgname = 'hotreload_guard')"
        )
        assert unguarded.fetchall() == []


@pytest.mark.parametrize(
    "ends",
    [
        "COMMIT",
        "rollback",
        " END",
        b"ABORT",
        "BEGIN",
        "START TRANSACTION",
        "CREATE TABLE other (x INTEGER);\nCOMMIT;",
        "-- done\n/* now */ COMMIT",
        sql.SQL("COMMIT"),
    ],
    ids=str,
)
async def test_a_text_that_ends_the_transaction_is_refused_and_fails_no_neighbour(dsn: str, ends: Any) -> None:
    queue = PostgresQueue.open(dsn)
    await queue.write(lambda connection: connection.execute("CREATE TABLE mine (x INTEGER)"))

    async def wrong() -> None:
        with pytest.raises(ValueError, match="the transaction is the store's"):
            await queue.write(lambda connection: connection.execute(ends))

    def in_parts(connection: Any) -> None:
        connection.execute("SAVEPOINT part")
        connection.execute("INSERT INTO mine VALUES (1)")
        connection.execute("DO $$ BEGIN NULL; END $$; ROLLBACK TO part; SELECT 'a commit' AS commit")
        connection.execute("INSERT INTO mine VALUES (2)")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(queue.enqueue, new(1))
        tasks.start_soon(wrong)
        tasks.start_soon(queue.write, in_parts)
    assert await queue.read(lambda connection: connection.execute("SELECT x FROM mine").fetchall()) == [(2,)]
    assert depth(queue) == (1, 0, 0, 0)
    assert queue.close()


async def test_many_old_results_are_removed_in_many_transactions(dsn: str) -> None:
    PostgresQueue.open(dsn).close()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            """
            INSERT INTO hotreload_jobs (id, queue, state, priority, run_at_ms, max_attempts, version, enqueued_at_ms,
                ended_at_ms, payload)
            SELECT n, 'a', 'done', 0, 1, 1, 1, 1, n, 'null' FROM generate_series(1, 5000) AS n;
            INSERT INTO hotreload_queues (name, done) VALUES ('a', 5000);
            CREATE TABLE removed (rows bigint);
            CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                INSERT INTO removed SELECT count(*) FROM gone; RETURN NULL; END $$;
            CREATE TRIGGER note AFTER DELETE ON hotreload_jobs REFERENCING OLD TABLE AS gone
                FOR EACH STATEMENT EXECUTE FUNCTION note();
            """
        )
        queue = PostgresQueue.open(dsn, keep_done_s=0, monotonic=count(0, 60).__next__)

        def gone() -> list[Any]:
            return connection.execute("SELECT rows FROM removed WHERE rows > 0").fetchall()

        await until(lambda: sum(rows for (rows,) in gone()) == 5000)
        assert gone() == [(2000,), (2000,), (1000,)]
        assert queue.close()


async def test_a_node_cut_in_its_drain_is_taken_over_as_interrupted_and_its_report_is_made(dsn: str) -> None:
    reports: list[Recovered] = []

    def report(found: Recovered) -> Put:
        reports.append(found)
        return Put("drain", "d", "{}", 9)

    one = PostgresQueue.open(dsn, "one", ttl_s=5)
    two = PostgresQueue.open(dsn, "two", ttl_s=5, report_cut=report)
    row = await one_of(one)
    one.mark_draining(5, DrainMark("d", "signal"))
    await until(lambda: two.depths() and depth(two) == (0, 0, 1, 0))
    ENGINES["postgres"].abandon(one)
    await until(lambda: depth(two) == (1, 0, 0, 0))
    found = await two.job(row.id)
    assert found is not None
    assert (found.interruptions, found.crashes, found.history) == (1, 0, [])
    assert [list(each.interrupted) for each in reports] == [[row.id]]
    assert [document.id for document in two.documents("drain")] == ["d"]
    again = PostgresQueue.open(dsn, "one")
    left = (again.recovered.interrupted, again.recovered.crashed, again.recovered.drain)
    assert left == ([], [], None), "the next start of the node finds nothing more to count"
    assert again.close()
    assert two.close()


@pytest.mark.parametrize(("boot", "stalled"), [("this", 1), ("before", 0)])
async def test_a_take_over_after_a_reboot_says_nothing_about_the_job(dsn: str, boot: str, stalled: int) -> None:
    one, two = PostgresQueue.open(dsn, "one", ttl_s=5), PostgresQueue.open(dsn, "two", ttl_s=5)
    row = await one_of(one)
    await until(lambda: two.depths() and depth(two) == (0, 0, 1, 0))
    ENGINES["postgres"].abandon(one)
    with psycopg.connect(dsn, autocommit=True) as connection:
        if boot == "before":
            changed = (
                "UPDATE hotreload_nodes SET owner = jsonb_set(owner::jsonb, '{boot}', '\"before\"') WHERE name = 'one'"
            )
            connection.execute(changed)
        await until(lambda: depth(two) == (1, 0, 0, 0))
        asked = "SELECT crashes, stalled_crashes FROM hotreload_jobs WHERE id = %s"
        assert connection.execute(asked, (row.id,)).fetchone() == (1, stalled)
    assert two.close()


async def test_a_node_that_ended_in_order_leaves_nothing_to_take_over(dsn: str) -> None:
    one, two = PostgresQueue.open(dsn, "one", ttl_s=5), PostgresQueue.open(dsn, "two", ttl_s=5)
    row = await one_of(one)
    one.mark_draining(5, DrainMark("d", "signal"))
    one.flush(["a"], 5)
    assert one.close()
    await until(lambda: owners(dsn) == {"two": True})
    found = await two.job(row.id)
    assert found is not None
    assert (found.state, found.interruptions, found.crashes) == (JobState.READY, 1, 0)
    assert two.close()


def owners(dsn: str) -> dict[str, bool]:
    with psycopg.connect(dsn) as connection:
        return dict(connection.execute("SELECT name, owner <> '' FROM hotreload_nodes").fetchall())


async def test_a_store_is_migrated_while_nodes_work_on_it(dsn: str) -> None:
    queue = PostgresQueue.open(dsn, "one")
    ended = anyio.Event()
    done: list[str] = []

    async def work() -> None:
        while not ended.is_set():
            await queue.enqueue(new(1, 2))
            for row in await queue.claim("a", 2):
                await queue.checkpoint(row, 1, step=("s", 1))
                await queue.settle(row, Done())
                done.append(row.id)
            await queue.put_document("kind", "id", 1)

    def migrate_often() -> None:
        known = list(steps())
        tables = ("documents", "queues", "steps", "jobs", "nodes")
        with connect(dsn) as connection:
            for number in range(20):
                sql = ";".join(f"ALTER TABLE hotreload_{table} ADD COLUMN more_{number} bigint" for table in tables)
                known.append(Step(known[-1].version + 1, f"more_{number}", sql))
                assert migrate(connection, known) == [known[-1].version]

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(work)
        await anyio.to_thread.run_sync(migrate_often)
        ended.set()
    assert queue.trouble is None
    assert len(done) == len(set(done)) > 0
    assert (await queue.jobs(state=JobState.DONE, limit=1000)) != []
    assert queue.close()
