"""Which of the descriptors handed over are taken, and which socket a host then listens on."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import httpx
import pytest

from hotreload.admin.control_socket import bind_tcp
from hotreload.host.edges import Edges
from hotreload.host.start import RunOptions
from hotreload.systemd.listen import STORED, Handed, handed_over
from hotreload.systemd.notifier import Notifier
from tests.control import FakeControl

OURS = str(os.getpid())


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with bind_tcp("127.0.0.1", 0) as bound:
        yield bound


@pytest.fixture
def store(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The service manager's end of the notification socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(short_path / "notify"))
        receiver.settimeout(2)
        monkeypatch.setenv("NOTIFY_SOCKET", str(short_path / "notify"))
        yield receiver


def _handed(listener: socket.socket, name: str) -> list[Handed]:
    """Return what is taken where systemd put this socket at the place of the first one."""
    environ = {"LISTEN_PID": OURS, "LISTEN_FDS": "1", "LISTEN_FDNAMES": name}
    return handed_over(environ, first=listener.fileno())


def test_a_listening_socket_is_taken(listener: socket.socket) -> None:
    (handed,) = _handed(listener, "openviking.socket")
    assert (handed.name, handed.stored) == ("openviking.socket", False)
    assert handed.listener.getsockname() == listener.getsockname()
    assert not handed.listener.getblocking()
    handed.listener.close()
    assert _handed(listener, "openviking.socket")[0].name == "openviking.socket", (
        "the descriptor itself stays for a process executed again"
    )


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1"},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_PID": OURS, "LISTEN_FDS": "many"},
        {"LISTEN_PID": OURS, "LISTEN_FDS": "0"},
    ],
)
def test_what_is_meant_for_others_is_not_taken(environ: dict[str, str]) -> None:
    assert handed_over(environ) == []


def test_what_does_not_listen_is_left_alone() -> None:
    with socket.socket() as unbound:
        number = unbound.fileno()
        assert _handed(unbound, "") == []
        assert unbound.fileno() == number
    environ = {"LISTEN_PID": OURS, "LISTEN_FDS": "1"}
    assert handed_over(environ, first=number) == [], "a descriptor that is not open"


async def _answers(edges: Edges) -> list[str]:
    """Serve, ask once over each listening socket, close; returns where it listened."""
    async with anyio.create_task_group() as tasks:
        await edges.open(tasks)
        addresses = [server.getsockname() for server in edges.listeners]
        for host, port in addresses:
            async with httpx.AsyncClient(trust_env=False) as http:
                assert (await http.get(f"http://{host}:{port}/livez")).status_code == 200
        await edges.close(time.monotonic() + 5)
    return [f"{host}:{port}" for host, port in addresses]


@pytest.mark.anyio
async def test_a_socket_unit_decides_the_address(listener: socket.socket, short_path: Path) -> None:
    options = RunOptions(socket=short_path / "run/control", http="127.0.0.1:1")
    host, port = listener.getsockname()
    handed = _handed(listener, "served.socket")
    assert await _answers(Edges(FakeControl(), "served", options, Notifier(), handed)) == [f"{host}:{port}"]


@pytest.mark.anyio
async def test_what_we_bind_is_stored_and_taken_up_again(store: socket.socket, short_path: Path) -> None:
    options = RunOptions(socket=short_path / "run/control", http="127.0.0.1:0")
    await _answers(Edges(FakeControl(), "served", options, Notifier()))
    message, descriptors, _, _ = socket.recv_fds(store, 1000, 4)
    assert message == f"FDSTORE=1\nFDNAME={STORED}".encode()
    with socket.socket(fileno=descriptors[0]) as kept:
        host, port = kept.getsockname()
        again = RunOptions(socket=short_path / "run/control", http=f"{host}:{port}")
        edges = Edges(FakeControl(), "served", again, Notifier(), _handed(kept, STORED))
        assert await _answers(edges) == [f"{host}:{port}"]


@pytest.mark.anyio
@pytest.mark.parametrize("http", [None, "127.0.0.1:0"])
async def test_what_is_stored_for_another_address_is_forgotten(
    store: socket.socket, short_path: Path, http: str | None
) -> None:
    bound = bind_tcp("127.0.0.1", 0)
    options = RunOptions(socket=short_path / "run/control", http=http)
    edges = Edges(FakeControl(), "served", options, Notifier(), _handed(bound, STORED))
    bound.detach()
    await _answers(edges)
    assert store.recv(1000) == f"FDSTOREREMOVE=1\nFDNAME={STORED}".encode()
