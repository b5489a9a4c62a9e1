"""How one process on a PostgreSQL learns what another did: told by LISTEN, else by polling, through a pooler too."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import anyio
import psycopg
import pytest

from hotreload.errors import LeaseLost, StoreOwned
from hotreload.queue.fleet import Round
from hotreload.queue.job import Done, Interrupted, JobRow
from hotreload.queue.postgres import PostgresQueue
from hotreload.queue.postgres.connection import connect
from hotreload.queue.postgres.wakeup import NOTIFY, Announcer, Listener, topics_of

from .pgbouncer import Bouncer
from .postgres import Server
from .stores import ENGINES, new, one_of

pytestmark = pytest.mark.anyio
NEVER_S = 600.0
"""A node that looks so seldom learns only what it is told."""


@pytest.fixture
def pooled_dsn(own_server: Server, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of an empty database through pgbouncer in transaction mode."""
    name = f"pooled_{abs(hash(request.node.name))}"
    with psycopg.connect(own_server.dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    bouncer = Bouncer(own_server)
    yield bouncer.dsn(name)
    bouncer.close()


class Ready:
    """Waits for `on_ready` of a queue."""

    def __init__(self, queue: PostgresQueue) -> None:
        self._told = threading.Event()
        queue.on_ready(lambda _name: self._told.set())

    async def once(self) -> None:
        assert await anyio.to_thread.run_sync(self._told.wait, 20), "nothing was told"
        self._told.clear()


@contextmanager
def two_nodes(dsn: str, **options: Any) -> Iterator[tuple[PostgresQueue, PostgresQueue]]:
    """Open two nodes; the second knows from the start that there is another."""
    one = PostgresQueue.open(dsn, "one", **options)
    two = PostgresQueue.open(dsn, "two", **options)
    try:
        yield two, one
    finally:
        assert two.close()
        assert one.close()


async def listens(*queues: PostgresQueue) -> None:
    with anyio.fail_after(20):
        while any(queue.wake_up != "listening" for queue in queues):  # noqa: ASYNC110 - the store has no event for it
            await anyio.sleep(0.01)


async def test_what_makes_jobs_claimable_on_one_node_wakes_the_others(dsn: str) -> None:
    with two_nodes(dsn, look_s=NEVER_S, ttl_s=NEVER_S) as (one, other):
        await listens(one, other)
        ready = Ready(other)
        added = await one.enqueue(new(1))
        await ready.once()
        (row,) = await one.claim("a", 1)
        await one.settle(row, Interrupted())
        await ready.once()
        await one.claim("a", 1)
        await one.enqueue(new(2, run_at_ms=1 << 50))  # what is told now is told again at once by the last flush
        assert one.flush(["a"], 5).requeued.ids == added.ids
        rows: list[JobRow] = []
        while not rows:  # it may be woken by what was told before the flush, and find nothing yet
            await ready.once()
            rows = list(await other.claim("a", 9))
        assert [row.id for row in rows] == added.ids


async def test_the_end_of_a_pause_on_one_node_wakes_the_others(dsn: str) -> None:
    with two_nodes(dsn, look_s=NEVER_S, ttl_s=NEVER_S) as (one, other):
        await one.enqueue(new(1))
        await one.pause("a")
        await listens(one, other)
        ready = Ready(other)
        await one.resume("a")
        await ready.once()
        assert len(await other.claim("a", 9)) == 1


async def test_what_nodes_are_asked_for_together_is_heard_at_once_by_all(dsn: str) -> None:
    with two_nodes(dsn, look_s=NEVER_S, ttl_s=NEVER_S) as (one, other):
        await listens(one, other)
        heard: SimpleQueue[tuple[str, str]] = SimpleQueue()
        for queue in (one, other):
            queue.fleet.on_round(lambda asked, name=queue.fleet.name: heard.put((name, asked.id)))
        asked = Round("r", "reload", "check", "one", ["one", "two"], 30.0)
        assert await one.fleet.ask(asked) is None
        with anyio.fail_after(20):
            told = {await anyio.to_thread.run_sync(lambda: heard.get(timeout=20)) for _ in range(2)}
        assert told == {("one", "r"), ("two", "r")}


async def test_a_node_listens_again_after_its_connection_was_cut_and_missed_nothing(own_server: Server) -> None:
    with two_nodes(own_server.schema("cut"), look_s=NEVER_S, ttl_s=NEVER_S) as (one, other):
        await listens(one, other)
        ready = Ready(other)
        assert own_server.cut_all() >= 4
        added = await one.enqueue(new(1))
        await ready.once()
        assert [row.id for row in await other.claim("a", 9)] == added.ids
        await listens(one, other)
        await one.enqueue(new(2))
        await ready.once()


async def test_a_topic_reaches_every_subscriber_on_every_node(dsn: str) -> None:
    with two_nodes(dsn) as (one, other):
        await listens(one, other)
        told = {name: threading.Event() for name in ("one", "other", "else")}
        one.subscribe("fleet", told["one"].set)
        other.subscribe("fleet", told["other"].set)
        other.subscribe("else", told["else"].set)
        await one.publish("fleet")
        for name in ("one", "other"):
            assert await anyio.to_thread.run_sync(told[name].wait, 20)
        assert not told["else"].is_set()


async def test_a_server_that_does_not_answer_is_left_and_listened_to_again(own_server: Server) -> None:
    dsn, connected = own_server.schema("silent"), threading.Semaphore(0)

    def heard(topic: str | None, _pid: int) -> None:
        if topic is None:
            connected.release()

    listener = Listener(lambda: connect(dsn), heard, ask_s=0.05, answer_s=0.2)
    assert await anyio.to_thread.run_sync(lambda: connected.acquire(timeout=20))
    own_server.hang()
    try:
        with anyio.fail_after(20):
            while listener.trouble is None:  # noqa: ASYNC110 - the listener has no event for it
                await anyio.sleep(0.01)
    finally:
        own_server.wake()
    assert await anyio.to_thread.run_sync(lambda: connected.acquire(timeout=20))
    listener.close()


def test_a_topic_is_told_at_once_then_held_back_for_a_moment_and_not_lost(dsn: str) -> None:
    now = [100.0]
    announcer = Announcer(hold_s=0.02, monotonic=lambda: now[0])
    with connect(dsn) as connection, connect(dsn) as other:
        heard = other.notifies(timeout=0.2)
        other.execute("LISTEN hotreload")

        def told(*topics: str) -> None:
            if due := announcer.due(topics):
                connection.ask(NOTIFY, [due])
            announcer.committed()

        told("a")
        told("a", "b")
        assert announcer.wait_s() == pytest.approx(0.02)
        now[0] += 0.02
        assert announcer.wait_s() == 0
        told()
        assert announcer.wait_s() == float("inf")
        assert [one.payload for one in heard] == ["a", "b", "a"]


def test_a_queue_with_a_long_name_is_told_by_its_beginning() -> None:
    (topic,) = topics_of(["ä" * 9_000])
    assert len(topic.encode()) < 8_000


async def test_behind_pgbouncer_in_transaction_mode_nodes_poll_and_say_so(pooled_dsn: str) -> None:
    with two_nodes(pooled_dsn, look_s=0.05) as (one, other):
        with anyio.fail_after(20):
            while "pooler" not in one.wake_up:  # noqa: ASYNC110 - the store has no event for it
                await anyio.sleep(0.01)
        assert one.wake_up.startswith("polling, LISTEN is not available: ")
        ready = Ready(other)
        for number in range(20):  # often enough for the driver to prepare what it is asked again and again
            added = await one.enqueue(new(number))
            await ready.once()
            (row,) = await other.claim("a", 1)
            await other.checkpoint(row, number, step=("s", number))
            assert (await one.jobs(limit=1))[0].id == added.ids[0]
            await other.settle(row, Done())
        assert one.trouble is None


async def test_behind_pgbouncer_a_node_starts_again_after_a_kill_and_lost_connections_are_opened_again(
    own_server: Server, pooled_dsn: str
) -> None:
    queue = PostgresQueue.open(pooled_dsn, "one")
    row = await one_of(queue)
    ENGINES["postgres"].abandon(queue)
    again = PostgresQueue.open(pooled_dsn, "one")
    assert again.recovered.crashed == [row.id]
    (row,) = await again.claim("a", 1)
    assert own_server.cut_all() >= 1
    await again.settle(row, Done())
    with pytest.raises(LeaseLost):
        await again.settle(row, Done())
    assert again.close()


def test_behind_pgbouncer_a_node_whose_process_lives_is_refused(pooled_dsn: str) -> None:
    program = (
        "import sys; from hotreload.queue.postgres import PostgresQueue\n"
        "queue = PostgresQueue.open(sys.argv[1], 'one'); print('open', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, pooled_dsn], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"open\n"
        with pytest.raises(StoreOwned, match=f"pid {owner.pid}"):
            PostgresQueue.open(pooled_dsn, "one")
        owner.kill()
    assert PostgresQueue.open(pooled_dsn, "one").close()
