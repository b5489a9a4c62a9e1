"""The control socket, each sentence of the contract on real sockets, real users and real slow clients."""

from __future__ import annotations

import errno
import os
import select
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
from pydantic import SecretStr

from hotreload.admin.control_socket import bind_control_socket, bind_tcp, peer_of
from hotreload.admin.place import Places
from hotreload.admin.serving import Limits
from hotreload.cli.client import Client
from hotreload.client import find
from hotreload.errors import ControlSocketUnsafe, ServiceUnreachable
from tests.control import FakeControl, Settings, serving

pytestmark = pytest.mark.anyio
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act as another user")
KEY = "k" * 32


def as_user(uid: int, call: Callable[[], bytes]) -> bytes:
    """Return what `call` returns in a forked child that runs as another user."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            os.write(writing, call())
        except OSError as error:
            os.write(writing, f"OSError {error.errno}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        told = answer.read()
    os.waitpid(child, 0)
    return told


def ask(path: Path, request: bytes = b"GET /admin/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") -> bytes:
    """Return everything the server says to one raw request, b"" where it hangs up; an error as its number."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        answer = b""
        try:
            connection.sendall(request)
            while data := connection.recv(65536):
                answer += data
        except (BrokenPipeError, ConnectionResetError):
            pass
        return answer


def open_wide(path: Path, mode: int = 0o777) -> None:
    path.chmod(mode)


async def asking(path: Path, *request: bytes) -> bytes:
    return await anyio.to_thread.run_sync(ask, path, *request)


# --- the folder and the file ------------------------------------------------------------------------------------


def test_folder_is_made_private_and_the_socket_is_0600_whatever_the_umask(short_path: Path) -> None:
    path = short_path / "run" / "deep" / "hotreload.sock"
    before = os.umask(0)
    try:
        control = bind_control_socket(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.lstat().st_mode) == 0o600
    assert stat.S_IMODE((path.parent / "hotreload.sock.lock").stat().st_mode) == 0o600
    control.close()
    control.close()
    assert not path.exists()


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775, 0o720, 0o702])
def test_a_folder_that_others_may_write_to_is_refused_and_left_alone(short_path: Path, mode: int) -> None:
    folder = short_path / "run"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(ControlSocketUnsafe, match="is writable by others") as refused:
        bind_control_socket(folder / "s.sock")
    assert "chmod" not in str(refused.value)
    assert stat.S_IMODE(folder.stat().st_mode) == mode
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o701])
def test_a_folder_that_only_we_may_write_to_is_good_enough(short_path: Path, mode: int) -> None:
    folder = short_path / "run"
    folder.mkdir()
    folder.chmod(mode)
    control = bind_control_socket(folder / "s.sock")
    assert stat.S_IMODE((folder / "s.sock").lstat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == mode
    control.close()


@needs_root
def test_a_folder_of_another_user_is_refused(short_path: Path) -> None:
    folder = short_path / "run"
    folder.mkdir(mode=0o700)
    os.chown(folder, NOBODY, NOBODY)
    with pytest.raises(ControlSocketUnsafe, match=f"belongs to uid {NOBODY}"):
        bind_control_socket(folder / "s.sock")


def test_a_symlink_as_folder_is_refused(short_path: Path) -> None:
    (short_path / "real").mkdir(mode=0o700)
    (short_path / "run").symlink_to(short_path / "real")
    with pytest.raises(ControlSocketUnsafe, match="symbolic link"):
        bind_control_socket(short_path / "run" / "s.sock")
    (short_path / "gone").symlink_to(short_path / "nowhere")
    with pytest.raises(ControlSocketUnsafe, match="symbolic link"):
        bind_control_socket(short_path / "gone" / "s.sock")


def test_a_file_as_folder_is_refused(short_path: Path) -> None:
    (short_path / "run").touch()
    with pytest.raises(ControlSocketUnsafe, match="is not a folder"):
        bind_control_socket(short_path / "run" / "s.sock")


def test_a_path_longer_than_a_unix_address_works(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 120) / "hotreload.sock"
    control = bind_control_socket(path)
    assert path.is_socket()
    control.close()


# --- stale, live, squatted --------------------------------------------------------------------------------------


def leave_stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
        dead.listen()


def test_a_stale_socket_is_replaced(short_path: Path) -> None:
    leave_stale(short_path / "s.sock")
    control = bind_control_socket(short_path / "s.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(short_path / "s.sock"))
    control.close()


def test_a_socket_left_by_kill_9_is_replaced(short_path: Path) -> None:
    path = short_path / "s.sock"
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from hotreload.admin.control_socket import bind_control_socket as bind\n"
        "c = bind(Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path)], check=False, timeout=20)
    assert killed.returncode == -9
    assert path.is_socket()
    bind_control_socket(path).close()


def test_a_stale_socket_is_not_removed_while_another_holds_the_lock(short_path: Path) -> None:
    path = short_path / "s.sock"
    control = bind_control_socket(path)
    control.listener.close()  # a service that hangs: bound, locked, not listening
    with pytest.raises(OSError, match=r"a service is running.* another --name or --socket") as refused:
        bind_control_socket(path)
    assert refused.value.errno == errno.EADDRINUSE
    assert path.is_socket()
    control.close()


def test_a_name_that_is_too_long_for_a_socket_is_named(short_path: Path) -> None:
    with pytest.raises(OSError, match=f"{'x' * 120}: the name of a socket") as refused:
        bind_control_socket(short_path / ("x" * 120))
    assert refused.value.errno == errno.ENAMETOOLONG


def test_a_live_socket_without_a_lock_is_not_removed(short_path: Path) -> None:
    path = short_path / "s.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as live:
        live.bind(str(path))
        live.listen()
        with pytest.raises(OSError, match="another process listens") as refused:
            bind_control_socket(path)
    assert refused.value.errno == errno.EADDRINUSE
    assert path.is_socket()


@pytest.mark.parametrize("squatter", ["file", "folder", "symlink"])
def test_what_is_no_socket_stays_and_is_named(short_path: Path, squatter: str) -> None:
    path = short_path / "s.sock"
    target = short_path / "precious"
    target.write_text("data")
    match squatter:
        case "file":
            path.write_text("data")
        case "folder":
            path.mkdir()
        case _:
            path.symlink_to(target)
    with pytest.raises(ControlSocketUnsafe, match="is not a socket of ours"):
        bind_control_socket(path)
    assert path.is_symlink() or path.exists()
    assert target.read_text() == "data"


def test_a_symlink_in_place_of_the_lock_is_not_followed(short_path: Path) -> None:
    (short_path / "s.sock.lock").symlink_to(short_path / "elsewhere")
    with pytest.raises(OSError, match=r"s\.sock\.lock"):
        bind_control_socket(short_path / "s.sock")
    assert not (short_path / "elsewhere").exists()


def test_closing_removes_only_the_own_socket(short_path: Path) -> None:
    path = short_path / "s.sock"
    control = bind_control_socket(path)
    path.unlink()
    leave_stale(path)
    control.close()
    assert path.is_socket()


def test_a_refused_bind_leaves_no_descriptor(short_path: Path) -> None:
    leave_stale(short_path / "s.sock")
    control = bind_control_socket(short_path / "s.sock")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(OSError, match="running"):
            bind_control_socket(short_path / "s.sock")
    assert len(os.listdir("/proc/self/fd")) == before
    control.close()


def test_a_taken_port_is_named() -> None:
    with bind_tcp("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(OSError, match=f"127.0.0.1:{port} is in use"):
            bind_tcp("127.0.0.1", port)
    with pytest.raises(OSError, match="cannot be bound"):
        bind_tcp("192.0.2.1", 0)


# --- who is served ----------------------------------------------------------------------------------------------


async def test_the_own_user_is_served_and_named_by_the_kernel(short_path: Path) -> None:
    control = FakeControl()
    forged = b"X-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\nX-Real-IP: 1.2.3.4\r\nX-API-Key: no\r\n"
    request = b"POST /admin/config/reload HTTP/1.1\r\nHost: evil.example\r\n" + forged + b"Connection: close\r\n\r\n"
    async with serving(control, socket=short_path / "s.sock"):
        answer = await asking(short_path / "s.sock", request)
    assert answer.startswith(b"HTTP/1.1 200")
    assert control.submitted[0][1].principal == f"pid {os.getpid()} uid {os.geteuid()}"


@needs_root
async def test_another_user_cannot_even_connect(short_path: Path) -> None:
    async with serving(FakeControl(), socket=short_path / "s.sock"):
        told = await anyio.to_thread.run_sync(as_user, NOBODY, lambda: ask(short_path / "s.sock"))
    assert told == f"OSError {errno.EACCES}".encode()


@needs_root
async def test_another_user_is_hung_up_on_before_a_byte_of_http(short_path: Path) -> None:
    """Folder and socket are opened wide here: the check at accept must hold by itself."""
    control = FakeControl()
    path = short_path / "s.sock"

    async with serving(control, socket=path) as server:
        open_wide(short_path)
        open_wide(path)
        answered = await anyio.to_thread.run_sync(
            as_user, NOBODY, lambda: b"answer:" + ask(path, b"POST /admin/drain HTTP/1.1\r\nHost: x\r\n\r\n")
        )
        silent = await anyio.to_thread.run_sync(as_user, NOBODY, lambda: b"answer:" + ask(path, b""))
        assert (await asking(path)).startswith(b"HTTP/1.1 200")
    assert answered == silent == b"answer:"
    assert control.drains == []
    assert server.connections == 0


@needs_root
async def test_root_is_served_by_another_users_service(short_path: Path) -> None:
    """As the kernel tells it: the service runs as nobody in a child, root asks."""
    folder = short_path / "run"
    folder.mkdir(mode=0o700)
    os.chown(folder, NOBODY, NOBODY)
    open_wide(short_path)
    path = folder / "s.sock"
    child = await anyio.to_thread.run_sync(start_service_as, NOBODY, path)
    try:
        answer = await asking(path, b"GET /admin/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200")
    finally:
        await asking(path, b"POST /admin/drain HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await anyio.to_thread.run_sync(os.waitpid, child, 0)


def start_service_as(uid: int, path: Path) -> int:
    """Fork a service that runs as another user; return its pid once it listens."""
    from tests.control import main

    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            os.dup2(writing, 1)
            sys.stdout = os.fdopen(1, "w")
            anyio.run(main, path, 0, True)
        finally:
            os._exit(0)
    os.close(writing)
    assert os.read(reading, 100).startswith(b"listening")
    os.close(reading)
    return child


def test_peer_credentials_are_those_of_the_other_end() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert (peer_of(one).pid, peer_of(one).uid) == (os.getpid(), os.geteuid())
    with socket.socket(socket.AF_UNIX) as unconnected:
        assert peer_of(unconnected).uid not in (0, os.geteuid())


# --- whom the client talks to -----------------------------------------------------------------------------------


class Squatter:
    """A listener that runs as another user and keeps what it is sent; it can be swapped in at a path."""

    def __init__(self, folder: Path, uid: int) -> None:
        self.path = folder / "squatted.sock"
        reading, self._stop = os.pipe()
        self._told, writing = os.pipe()
        self.child = os.fork()
        if self.child == 0:
            self._listen(uid, reading, writing)
        os.close(reading)
        os.close(writing)
        assert os.read(self._told, 9) == b"listening"

    def _listen(self, uid: int, reading: int, writing: int) -> None:
        try:
            os.close(self._stop)
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
                listener.bind(str(self.path))
                listener.listen()
                os.write(writing, b"listening")
                while listener in (ready := select.select([reading, listener], [], [])[0]) or reading not in ready:
                    connection, _ = listener.accept()
                    os.write(writing, b"<" + connection.recv(65536) + b">")
        finally:
            os._exit(0)

    def heard(self) -> bytes:
        """End it; return what each connection sent, in brackets."""
        os.close(self._stop)
        os.waitpid(self.child, 0)
        with os.fdopen(self._told, "rb") as told:
            return told.read()


@needs_root
async def test_a_server_swapped_in_after_the_check_is_sent_nothing(short_path: Path) -> None:
    folder = short_path / "run"
    async with serving(FakeControl(), socket=folder / "s.sock"):
        open_wide(short_path)
        open_wide(folder)
        squatter = await anyio.to_thread.run_sync(Squatter, folder, NOBODY)
        with Client(await anyio.to_thread.run_sync(find.connect, folder / "s.sock")) as client:
            assert (await anyio.to_thread.run_sync(client.status))["generation"] == 8
        with Client(await anyio.to_thread.run_sync(find.connect, folder / "s.sock")) as client:
            squatter.path.replace(folder / "s.sock")
            for call in (client.status, lambda: client.check("ov.conf", b'{"secret": 1}', timeout_s=1)):
                with pytest.raises(ServiceUnreachable, match=f"runs as uid {NOBODY}, neither you nor root"):
                    await anyio.to_thread.run_sync(call)
            with pytest.raises(ServiceUnreachable, match="not trusted"):
                await anyio.to_thread.run_sync(read_events, client)
        with pytest.raises(ServiceUnreachable, match="not trusted"):
            find.connect(folder / "s.sock", default_place=True)
    assert squatter.heard() == b"<>" * 4


def read_events(client: Client) -> None:
    with client.events() as events:
        next(events)


@needs_root
@pytest.mark.parametrize("place", ["temporary", "user"])
async def test_a_default_folder_made_by_another_user_is_not_even_connected_to(short_path: Path, place: str) -> None:
    temporary, user = short_path / f"hotreload-{os.geteuid()}", short_path / "xdg"
    folder = temporary if place == "temporary" else user / "hotreload"
    folder.mkdir(parents=True)
    os.chown(folder, NOBODY, NOBODY)
    open_wide(short_path)
    squatter = await anyio.to_thread.run_sync(Squatter, folder, NOBODY)
    squatter.path.rename(folder / "summaries.sock")
    places = Places(os.geteuid(), None, short_path / "none", user, temporary)
    for wanted in (find.Wanted(name="summaries", places=places), find.Wanted(places=places)):
        with pytest.raises(ServiceUnreachable, match=f"folder belongs to uid {NOBODY}"):
            find.find(wanted, {})
    assert squatter.heard() == b""


def test_a_default_folder_that_is_a_link_is_not_followed(short_path: Path) -> None:
    temporary = short_path / "hotreload-0"
    (short_path / "real").mkdir(mode=0o700)
    temporary.symlink_to(short_path / "real")
    control = bind_control_socket(short_path / "real" / "summaries.sock")
    places = Places(os.geteuid(), None, short_path / "none", None, temporary)
    with pytest.raises(ServiceUnreachable, match="symbolic link; not trusted"):
        find.find(find.Wanted(name="summaries", places=places), {})
    assert find.connect(temporary / "summaries.sock").trusted == {os.geteuid(), 0}  # named: it is the user's word
    control.close()


# --- over TCP ---------------------------------------------------------------------------------------------------


async def test_over_tcp_the_guard_sees_the_real_addresses() -> None:
    control = FakeControl(settings=Settings(SecretStr(KEY)))
    listener = bind_tcp("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with (
        serving(control, listener=listener),
        httpx.AsyncClient(base_url=url, headers={"X-API-Key": KEY}) as client,
    ):
        assert (await client.get("/admin/status")).status_code == 200
        assert (await client.get("/admin/status", headers={"Host": "evil.example"})).status_code == 403
        assert (await client.post("/admin/drain", headers={"Origin": "http://evil.example"})).status_code == 403
        assert (await client.post("/admin/drain", headers={"Origin": url})).status_code == 202
        assert (await client.get("/admin/status", headers={"X-API-Key": "no"})).status_code == 401
        forwarded = {"X-Forwarded-For": "9.9.9.9", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "localhost"}
        await client.post("/admin/config/reload", headers=forwarded)
    assert control.submitted[0][1].principal == "root key from 127.0.0.1"


async def test_a_unix_socket_that_is_not_the_control_socket_is_no_way_round_the_key(short_path: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(short_path / "public.sock"))
    listener.listen()
    listener.setblocking(False)
    async with serving(FakeControl(), listener=listener):
        answer = await asking(short_path / "public.sock")
    assert answer.startswith(b"HTTP/1.1 403")


# --- clients that are too large, too slow, or never read ----------------------------------------------------------


async def test_an_oversized_body_is_refused_before_it_is_read(short_path: Path) -> None:
    control = FakeControl()
    size = b"Content-Type: application/json\r\nContent-Length: 99999999\r\n"
    head = b"POST /admin/config/reload HTTP/1.1\r\nHost: x\r\n" + size + b"\r\n"
    async with serving(control, socket=short_path / "s.sock"):
        answer = await asking(short_path / "s.sock", head)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer.lower()
    assert control.submitted == []


async def test_a_head_that_never_ends_is_cut_off(short_path: Path) -> None:
    async with serving(FakeControl(), socket=short_path / "s.sock", limits=Limits(head_s=0.2)) as server:
        with anyio.fail_after(3):
            async with await anyio.connect_unix(short_path / "s.sock") as silent:
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await silent.receive()
            async with await anyio.connect_unix(short_path / "s.sock") as slow:
                await trickle(slow, b"GET /livez HTTP/1.1\r\nX-Slow: 1")
            async with await anyio.connect_unix(short_path / "s.sock") as second:
                await second.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await second.receive()).startswith(b"HTTP/1.1 200")
                await trickle(second, b"GET /livez HTTP/1.1\r\nX-Slow: 1")
        assert server.connections == 0


async def trickle(stream: Any, head: bytes) -> None:
    """Send a byte every 50 ms until the server hangs up."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send_slowly, stream, head)
        try:
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()
        finally:
            tasks.cancel_scope.cancel()


async def send_slowly(stream: Any, head: bytes) -> None:
    with suppress(anyio.BrokenResourceError):
        for byte in head * 9:
            await stream.send(bytes([byte]))
            await anyio.sleep(0.05)


async def test_an_event_reader_that_never_reads_is_dropped(short_path: Path) -> None:
    control = FakeControl()
    path = short_path / "s.sock"
    limits = Limits(stall_s=0.2)
    async with serving(control, socket=path, limits=limits) as server, await anyio.connect_unix(path) as deaf:
        await deaf.send(b"GET /admin/events HTTP/1.1\r\nHost: x\r\n\r\n")
        with anyio.fail_after(5):
            await control.until(lambda: bool(control.streams))
            while control.streams:
                for stream in control.streams:
                    if stream.statistics().current_buffer_used < 32:
                        stream.send_nowait({"event": "status", "data": {"filler": "x" * 8192}})
                await anyio.sleep(0.001)
            assert server.connections == 0


async def test_too_many_event_readers_are_told_so(short_path: Path) -> None:
    control = FakeControl()
    path = short_path / "s.sock"
    async with serving(control, socket=path):
        readers = [await anyio.connect_unix(path) for _ in range(16)]
        for reader in readers:
            await reader.send(b"GET /admin/events HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.receive()).startswith(b"HTTP/1.1 200")
        refused = b"GET /admin/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        assert (await asking(path, refused)).startswith(b"HTTP/1.1 503")
        await readers[0].aclose()
        await control.until(lambda: len(control.streams) == 15)
        assert (await asking(path)).startswith(b"HTTP/1.1 200")
        for reader in readers[1:]:
            await reader.aclose()


# --- stopping ---------------------------------------------------------------------------------------------------


async def test_stop_lets_a_request_end_and_cuts_what_does_not(short_path: Path) -> None:
    control = FakeControl(held=True)
    path = short_path / "s.sock"
    request = b"POST /admin/config/reload HTTP/1.1\r\nHost: x\r\n\r\n"
    async with serving(control, socket=path) as server:
        async with await anyio.connect_unix(path) as ends, await anyio.connect_unix(path) as hangs:
            await ends.send(request)
            await hangs.send(request)
            with anyio.fail_after(2):
                await control.until(lambda: len(control.submitted) == 2)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(server.stop, 0.3)
                    await anyio.sleep(0.05)
                    control.submitted[0][0].over.set()
                    assert (await ends.receive()).startswith(b"HTTP/1.1 200")
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await hangs.receive()
        assert server.connections == 0
        await server.stop(0.3)


async def test_stop_of_an_idle_server_takes_no_time(short_path: Path) -> None:
    path = short_path / "s.sock"
    async with serving(FakeControl(), socket=path) as server, await anyio.connect_unix(path) as idle:
        await idle.send(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        await idle.receive()
        with anyio.fail_after(0.2):
            await server.stop(5)
