"""One limit over three processes on one PostgreSQL, as the server that they call counts it."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.abc
import httpx
import psycopg
import pytest
from anyio.abc import Process

from hotreload.queue.job import NewJob
from hotreload.queue.postgres import PostgresQueue
from tests.contracts.postgres import Server
from tests.process.running import HOTRELOAD, hotreload, started, wait_until

pytestmark = pytest.mark.anyio
LIMIT = 16
TTL_S = 5


@dataclass
class Calls:
    """What the called server sees: `under_way` now, the most there were, and how many began above a limit."""

    port: int
    latency_s: float
    under_way: int = 0
    most: int = 0
    ended: int = 0
    limit: int | None = None
    above: list[int] = field(default_factory=list[int])
    held: anyio.Event | None = None

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        """Serve one call."""
        async with stream:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            if self.limit is not None and self.under_way > self.limit:
                self.above.append(self.under_way)
            try:
                async with anyio.create_task_group() as tasks:
                    with suppress(anyio.BrokenResourceError, anyio.EndOfStream):  # its process was killed
                        await stream.receive()  # closed with what was not read, it would be reset
                        tasks.start_soon(self._answer, tasks.cancel_scope)
                        while True:
                            await stream.receive()
                    tasks.cancel_scope.cancel()
            finally:
                self.under_way -= 1
                self.ended += 1

    async def _answer(self, call: anyio.CancelScope) -> None:
        if self.held is not None:
            await self.held.wait()
        await anyio.sleep(self.latency_s)
        call.cancel()


@asynccontextmanager
async def calls(latency_s: float) -> AsyncIterator[Calls]:
    """Serve calls that each take `latency_s`."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", backlog=512)
    found = Calls(listener.extra(anyio.abc.SocketAttribute.local_port), latency_s)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, found.serve)
        yield found
        tasks.cancel_scope.cancel()


@dataclass
class Nodes:
    """Three processes of the service, each in a folder of its own."""

    folder: Path
    address: str
    port: int
    processes: list[Process] = field(default_factory=list[Process])

    def write(self, number: int, **values: int) -> None:
        """Write the configuration of one node."""
        own = {"store": self.address, "node_ttl_s": TTL_S, "drain_deadline_s": 3, "watch": False}
        place = self.folder / str(number)
        place.mkdir(exist_ok=True)
        (place / "ov.conf").write_text(json.dumps({"port": self.port, **values, "hotreload": own}))

    def socket(self, number: int) -> Path:
        return self.folder / str(number) / "s"


@asynccontextmanager
async def nodes(server: Server, folder: Path, port: int, **values: int) -> AsyncIterator[Nodes]:
    """Run three nodes."""
    found = Nodes(folder, server.schema(folder.name.replace("-", "_").lower()), port)
    async with AsyncExitStack() as stack:
        for number in range(3):
            found.write(number, **values)
            conf = str(folder / str(number) / "ov.conf")
            place = ("--config", conf, "--socket", str(found.socket(number)))
            process, _ = await stack.enter_async_context(
                started(*HOTRELOAD, "run", "tests.process.fleet_service:service", *place)
            )
            found.processes.append(process)
        for number in range(3):
            await wait_until(found.socket(number).exists, 20, "ready")
        yield found


def add(address: str, count: int) -> None:
    """Add jobs as a process of its own would."""
    queue = PostgresQueue.open(address, "adds")
    try:
        queue.enqueue_sync([NewJob("call", number) for number in range(count)])
    finally:
        assert queue.close()


def done(address: str) -> int:
    with psycopg.connect(address) as connection:
        row = connection.execute("SELECT coalesce(sum(done), 0) FROM hotreload_queues").fetchone()
    assert row is not None
    return int(row[0])


def permits(fleet: Nodes, number: int) -> int:
    """Return how many permits of the limit a node holds."""
    with psycopg.connect(fleet.address) as connection:
        asked = "SELECT permits FROM hotreload_permits WHERE name = 'limits.calls' AND strpos(node, %s) > 0"
        row = connection.execute(asked, (f"{fleet.folder}/{number}/",)).fetchone()
    return 0 if row is None else int(row[0])


async def test_three_nodes_share_a_limit_and_use_all_of_it(
    server: Server, short_path: Path, figures: Callable[[str], None]
) -> None:
    async with calls(latency_s=0.2) as seen, nodes(server, short_path, seen.port, calls=LIMIT) as fleet:
        seen.limit, seen.held = LIMIT, anyio.Event()
        await anyio.to_thread.run_sync(add, fleet.address, 400)
        await wait_until(lambda: seen.under_way == LIMIT, 20, "all of the limit is used")
        seen.held.set()
        began = time.monotonic()
        await wait_until(lambda: done(fleet.address) == 400, 60, "all jobs are done")
        took_s = time.monotonic() - began
    figures(f"400 calls of 0.2 s under {LIMIT}: {took_s:.2f} s, {400 * 0.2 / LIMIT / took_s:.0%} of what it allows")
    assert (seen.most, seen.above) == (LIMIT, [])


async def test_one_node_that_alone_has_work_uses_all_of_the_limit(server: Server, short_path: Path) -> None:
    async with calls(latency_s=0) as seen, nodes(server, short_path, seen.port, calls=LIMIT) as fleet:
        seen.limit, seen.held = LIMIT, anyio.Event()
        for number in (1, 2):
            fleet.processes[number].terminate()
            assert await fleet.processes[number].wait() == 0
        await anyio.to_thread.run_sync(add, fleet.address, 40)
        await wait_until(lambda: seen.under_way == LIMIT, 4, "a drained node holds nothing")
        seen.held.set()
        await wait_until(lambda: done(fleet.address) == 40, 20, "all jobs are done")
    assert seen.above == []


async def test_the_permits_of_a_killed_node_come_back_and_never_too_early(
    server: Server, short_path: Path, figures: Callable[[str], None]
) -> None:
    async with calls(latency_s=0) as seen, nodes(server, short_path, seen.port, calls=LIMIT) as fleet:
        seen.limit, seen.held = LIMIT, anyio.Event()
        await anyio.to_thread.run_sync(add, fleet.address, 100)
        await wait_until(lambda: seen.under_way == LIMIT, 20, "all of the limit is used")
        fleet.processes[0].kill()
        began = time.monotonic()
        await wait_until(lambda: seen.under_way < LIMIT, 10, "the calls of the killed node end with it")
        left = seen.under_way
        await wait_until(lambda: seen.under_way == LIMIT, 20, "the others take its permits over")
        figures(f"{LIMIT - left} permits of a killed node were used again after {time.monotonic() - began:.1f} s")
        seen.held.set()
        await wait_until(lambda: done(fleet.address) == 100, 60, "all jobs are done")
    assert (seen.most, seen.above) == (LIMIT, [])


async def test_a_node_that_was_stopped_begins_nothing_when_it_goes_on(server: Server, short_path: Path) -> None:
    async with calls(latency_s=0) as seen, nodes(server, short_path, seen.port, calls=LIMIT) as fleet:
        seen.held = anyio.Event()
        await anyio.to_thread.run_sync(add, fleet.address, 100)
        await wait_until(lambda: seen.under_way == LIMIT, 20, "all of the limit is used")
        late = permits(fleet, 0)
        fleet.processes[0].send_signal(signal.SIGSTOP)
        await wait_until(
            lambda: seen.under_way == LIMIT + late, 20, "the others take its permits, its calls still stand"
        )
        fleet.processes[0].send_signal(signal.SIGCONT)
        assert await fleet.processes[0].wait() != 0
        assert seen.most == LIMIT + late
        await wait_until(lambda: seen.under_way == LIMIT, 10, "its calls end with it")
        seen.limit = LIMIT
        seen.held.set()
        await wait_until(lambda: done(fleet.address) == 100, 60, "all jobs are done")
    assert seen.above == []


async def test_with_a_store_in_a_file_it_is_the_limit_of_the_one_process(short_path: Path) -> None:
    async with calls(latency_s=0.02) as seen:
        own = {"watch": False}
        (short_path / "ov.conf").write_text(json.dumps({"port": seen.port, "calls": 3, "hotreload": own}))
        place = ("--config", str(short_path / "ov.conf"), "--socket", str(short_path / "s"))
        async with started(*HOTRELOAD, "run", "tests.process.fleet_service:service", *place):
            await wait_until((short_path / "s").exists, 20, "ready")
            body = [{"payload": number} for number in range(30)]
            async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(short_path / "s"))) as http:
                sent = await http.post("http://s/admin/jobs/batch", json={"queue": "call", "jobs": body})
                assert sent.status_code == 201, sent.text
                await wait_until(lambda: seen.ended == 30, 20, "all jobs are done")
                status = (await http.get("http://s/admin/status")).json()
    assert seen.most == 3
    assert [(each["name"], each["across"]) for each in status["limits"]] == [
        ("limits.calls", "process"),
        ("rates.starts", "process"),
    ]


async def test_a_live_resize_holds_over_all_nodes(server: Server, short_path: Path) -> None:
    async with calls(latency_s=0.02) as seen, nodes(server, short_path, seen.port, calls=LIMIT) as fleet:
        seen.limit, seen.held = LIMIT, (first := anyio.Event())
        await anyio.to_thread.run_sync(add, fleet.address, 600)
        await wait_until(lambda: seen.under_way == LIMIT, 20, "all of the limit is used")
        await resize(fleet, 5)
        seen.limit, seen.held = 5, None  # from the last verdict on none begins above it, whatever is under way
        first.set()
        await wait_until(lambda: seen.ended > 200, 40, "jobs go on under the new limit")
        seen.limit, seen.held = LIMIT, (last := anyio.Event())
        await resize(fleet, LIMIT)
        await wait_until(lambda: seen.under_way == LIMIT, 20, "all of the grown limit is used")
        last.set()
        await wait_until(lambda: done(fleet.address) == 600, 60, "all jobs are done")
    assert seen.above == []


async def resize(fleet: Nodes, limit: int) -> None:
    """Reload every node with another limit, one after the other."""
    for number in range(3):
        fleet.write(number, calls=limit)
        reloaded = await hotreload("reload", "--socket", str(fleet.socket(number)))
        assert reloaded.returncode == 0, reloaded.stderr


async def test_a_rate_holds_over_all_nodes_and_counts_what_a_killed_one_began(server: Server, short_path: Path) -> None:
    async with calls(latency_s=0) as seen, nodes(server, short_path, seen.port, starts=10) as fleet:
        await anyio.to_thread.run_sync(add, fleet.address, 30)
        await wait_until(lambda: done(fleet.address) == 10, 20, "ten begin at once, over all nodes")
        fleet.processes[0].kill()
        with psycopg.connect(fleet.address, autocommit=True) as connection:

            def counted() -> bool:
                asked = (
                    "SELECT sum(permits), bool_or(until IS NOT NULL) FROM hotreload_permits WHERE name = 'rates.starts'"
                )
                return connection.execute(asked).fetchone() == (10, True)

            await wait_until(counted, 20, "another node took it over")
        assert (done(fleet.address), seen.ended) == (10, 10)
