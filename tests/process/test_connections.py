"""Crowds, half-closed clients, removed sockets: who has a right to an answer gets one, and nothing spins."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest

from hotreload.admin.control_socket import bind_control_socket, bind_tcp
from hotreload.admin.serving import Limits, Server
from tests.control import FakeControl, serving
from tests.process.running import wait_until
from tests.process.serving import Running
from tests.process.serving import serving as running

pytestmark = pytest.mark.anyio
FULL = "connections.full"
PROBE = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Let this process open as many as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@asynccontextmanager
async def over_tcp(control: FakeControl, most: int) -> AsyncIterator[tuple[Server, int]]:
    """Serve over TCP with a bound of `most` connections; gives the server and its port."""
    listener = bind_tcp("127.0.0.1", 0)
    async with serving(control, listener=listener, limits=Limits(connections=most)) as server:
        yield server, listener.getsockname()[1]


async def told(port: int, request: bytes) -> bytes:
    """Return all that is answered to a raw request whose client closes its half at once."""
    async with await anyio.connect_tcp("127.0.0.1", port) as client:
        await client.send(request)
        await client.send_eof()
        return b"".join([part async for part in client])


# --- crowds -------------------------------------------------------------------------------------------------------


async def test_a_crowd_of_silent_clients_keeps_no_probe_waiting(caplog: pytest.LogCaptureFixture) -> None:
    most = 8
    with caplog.at_level(logging.WARNING), ExitStack() as crowd:
        async with over_tcp(FakeControl(), most) as (server, port):
            for _ in range(5 * most):
                crowd.enter_context(socket.create_connection(("127.0.0.1", port)))
            with anyio.fail_after(10):
                assert (await told(port, PROBE)).startswith(b"HTTP/1.1 200")
            assert server.connections <= most
    assert [record.message for record in caplog.records if FULL in record.message] == [
        f"connections.full 127.0.0.1:{port}: no more are accepted until one ends ({most} connections are open)"
    ]


async def test_who_waits_for_an_answer_makes_room_for_no_one(short_path: Path) -> None:
    control = FakeControl(held=True)
    path = short_path / "s.sock"
    request = b"POST /admin/config/reload HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with serving(control, socket=path, limits=Limits(connections=2)) as server:
        first, second, third = [await anyio.connect_unix(path) for _ in range(3)]
        for client in (first, second, third):
            await client.send(request)
        await control.until(lambda: len(control.submitted) == 2)
        control.submitted[0][0].over.set()
        assert (await first.receive()).startswith(b"HTTP/1.1 200")
        await control.until(lambda: len(control.submitted) == 3)
        assert server.connections == 2
        for ticket, _ in control.submitted[1:]:
            ticket.over.set()
        for client in (second, third):
            assert (await client.receive()).startswith(b"HTTP/1.1 200")
        for client in (first, second, third):
            await client.aclose()


async def test_one_client_that_keeps_asking_shuts_out_no_other() -> None:
    async with (
        over_tcp(FakeControl(), 1) as (_, port),
        await anyio.connect_tcp("127.0.0.1", port) as first,
        await anyio.connect_tcp("127.0.0.1", port) as second,
    ):
        await second.send(PROBE)
        answer = b""
        with anyio.fail_after(10), suppress(anyio.EndOfStream, anyio.BrokenResourceError):  # a slow one was idle
            while b"connection: close" not in answer:
                await first.send(PROBE)
                answer = await first.receive()
        with anyio.fail_after(10):
            assert (await second.receive()).startswith(b"HTTP/1.1 200")


async def test_what_is_not_http_is_answered_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with over_tcp(FakeControl(), 8) as (_, port):
        for request in (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET /\r\n\r\n", b"GET / HTTP/1.1\r\nA b\r\n\r\n"):
            assert (await told(port, request)).startswith(b"HTTP/1.1 400")
    assert caplog.records == []


@pytest.mark.usefixtures("many_descriptors")
@pytest.mark.parametrize(("descriptors", "silent"), [(1024, 1150), (64, 200)])
async def test_a_service_outlives_a_crowd(short_path: Path, descriptors: int, silent: int) -> None:
    limited = ("/bin/sh", "-c", f'ulimit -n {descriptors} && exec "$@"', "sh")
    async with running(short_path, "--http", "127.0.0.1:0", before=limited) as service:
        port = int((await service.spoken.line("listening on http://")).rpartition(":")[2])
        with ExitStack() as crowd:
            for _ in range(silent):
                client = crowd.enter_context(socket.socket())
                client.setblocking(False)
                client.connect_ex(("127.0.0.1", port))
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as http:
                assert (await http.get("/livez")).status_code == 200
                assert (await http.get("/readyz")).json()["ready"] is True
            assert (await service.verb("status", "--json")).returncode == 0
            service.save(value=7)
            await wait_until(lambda: _generation(service, 2), 20, "the saved file is applied")
        full = [line for line in service.spoken.lines if FULL in line]
        assert len(full) == 1, full
        assert not [line for line in service.spoken.lines if "Traceback" in line or "Too many open files" in line]


async def _generation(service: Running, number: int) -> bool:
    return (await service.status())["generation"] == number


async def test_the_control_socket_answers_where_no_descriptor_is_left(short_path: Path) -> None:
    async with serving(FakeControl(), socket=short_path / "s.sock"):
        for _ in range(3):
            with socket.socket(socket.AF_UNIX) as client, no_descriptors_left():
                client.setblocking(False)
                client.connect(str(short_path / "s.sock"))
                client.send(PROBE)
                with anyio.fail_after(5):
                    await anyio.wait_readable(client)
                assert client.recv(4096).startswith(b"HTTP/1.1 200")


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """Take every descriptor this process may open."""
    with ExitStack() as taken:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        with suppress(OSError):
            while True:
                taken.callback(os.close, os.dup(0))
        yield


# --- half-closed and pipelining clients -----------------------------------------------------------------------------


async def test_a_client_that_closes_its_half_gets_every_answer() -> None:
    async with over_tcp(FakeControl(), 8) as (server, port):
        with anyio.fail_after(5):
            answered = await told(port, PROBE * 3)
            assert answered.count(b"HTTP/1.1 200") == 3
            await wait_until(lambda: not server.connections, 5, "the connection is closed")


async def test_a_client_that_closes_its_half_while_its_request_runs_is_waited_for(short_path: Path) -> None:
    control = FakeControl(held=True)
    async with (
        serving(control, socket=short_path / "s.sock"),
        await anyio.connect_unix(short_path / "s.sock") as client,
    ):
        await client.send(b"POST /admin/config/reload HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.send_eof()
        await control.until(lambda: len(control.submitted) == 1)
        await anyio.sleep(0.05)  # time to see the end, and to take it for more than it is
        control.submitted[0][0].over.set()
        assert (await client.receive()).startswith(b"HTTP/1.1 200")
        with pytest.raises(anyio.EndOfStream):
            await client.receive()


async def test_ten_thousand_requests_on_one_connection() -> None:
    async with over_tcp(FakeControl(), 8) as (server, port), await anyio.connect_tcp("127.0.0.1", port) as client:
        for _ in range(100):
            await client.send(PROBE * 100)
            answers = b""
            while answers.count(b"HTTP/1.1 200") < 100:
                answers += await client.receive()
        assert server.connections == 1


# --- the listening socket goes to the next process -----------------------------------------------------------------


async def test_what_was_accepted_is_served_before_a_socket_is_handed_over() -> None:
    """One connection is silent, one was answered before: both may still ask, and learn that they must come again."""
    listener = bind_tcp("127.0.0.1", 0)
    with listener.dup() as kept:  # as the service manager has it
        port = kept.getsockname()[1]
        async with serving(FakeControl(), listener=listener) as server:
            async with (
                await anyio.connect_tcp("127.0.0.1", port) as silent,
                await anyio.connect_tcp("127.0.0.1", port) as idle,
            ):
                await idle.send(PROBE)
                assert b"connection: close" not in await idle.receive()
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(server.hand_over, anyio.current_time() + 20)
                    for client in (silent, idle):
                        await anyio.wait_all_tasks_blocked()
                        assert server.connections > 0
                        await client.send(PROBE)
                        assert b"connection: close" in await client.receive()
            assert server.connections == 0
            async with await anyio.connect_tcp("127.0.0.1", port) as later:
                await later.send(PROBE)
                kept.setblocking(True)
                with kept.accept()[0] as taken:
                    assert taken.recv(4096) == PROBE


# --- the control socket is made again -------------------------------------------------------------------------------


@pytest.mark.parametrize("removed", ["socket", "socket and lock", "folder"])
async def test_a_control_socket_that_was_removed_is_made_again(short_path: Path, removed: str) -> None:
    async with running(short_path) as service:
        if removed == "folder":
            shutil.rmtree(service.socket.parent)
        else:
            service.socket.unlink()
        if removed == "socket and lock":
            service.socket.with_name("s.sock.lock").unlink()
        await wait_until(service.socket.is_socket, 10, "the socket is made again")
        assert (await service.verb("status", "--json")).returncode == 0
        with pytest.raises(OSError, match="a service is running"):
            bind_control_socket(service.socket)
        (await service.verb("drain")).check_returncode()
        assert await service.process.wait() == 0
        assert not service.socket.exists()


async def test_what_was_put_in_the_place_of_a_control_socket_stays(short_path: Path) -> None:
    async with running(short_path) as service:
        service.socket.unlink()
        shutil.rmtree(service.socket.parent)
        service.socket.parent.mkdir()
        service.socket.parent.chmod(0o777)
        await service.spoken.line("control_socket.not_made_again")
        assert not service.socket.exists()
        service.socket.parent.chmod(0o755)
        await wait_until(service.socket.is_socket, 10, "the socket is made again")
        assert len([line for line in service.spoken.lines if "control_socket.not_made_again" in line]) == 1
