"""Starting stock OpenViking: its arguments, signals at any time, bad files, systemd's word, an unknown release."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from ov_home import Home, free_port
from ov_process import running, start, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]


async def test_sighup_from_the_first_moment_never_kills(home: Home) -> None:
    server = await start(home, home.ours, cold=True)
    try:
        with anyio.move_on_after(60) as limit:
            while "listening" not in server.log:
                await anyio.sleep(0.2)
                server.signal(signal.SIGHUP)
        assert not limit.cancelled_caught
        await server.ready()
        await wait_until(lambda: "reload.unchanged" in server.log, 10, "the remembered signal reloads")
    finally:
        await server.close()


async def test_arguments_reach_openviking_unchanged(home: Home) -> None:
    port = free_port()
    home.write({"hotreload": {"drain_deadline_s": 5}})
    home.port = port
    async with running(home, home.ours, arguments=("--port", str(port))) as server:
        status = await server.status()
        assert (status["name"], status["phase"], status["config_file"]) == ("openviking", "running", str(home.conf))
        assert "unknown config field" not in server.log
    version = await start(home, home.ours, arguments=("--version",))
    assert await version.ended(30) == 0
    assert "openviking-server" in version.log
    await version.close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"vlm": {"max_concurrent": -3}}', "vlm.max_concurrent: must be a whole number from 1 to 1024 (got -3)"),
        ('{"vlm": ', "ov.conf:1"),
        (None, "there is no configuration file"),
    ],
)
async def test_a_bad_file_at_the_start_is_78_and_says_why(home: Home, text: str | None, expected: str) -> None:
    home.conf.unlink() if text is None else home.write_text(text)
    server = await start(home, home.ours)
    assert await server.ended(30) == 78
    assert expected in server.log
    assert "Traceback" not in server.log
    await server.close()


async def test_last_known_good_stands_in_for_a_broken_file(home: Home) -> None:
    home.write({"vlm": {"max_concurrent": 7}})
    async with running(home, home.ours, measured=True) as server:
        server.signal(signal.SIGTERM)
        assert await server.ended(20) == 0
    home.write_text("{ broken")
    async with running(home, (*home.ours, "--last-known-good")) as server:
        status = await server.status()
        assert "last-known-good" in status["degraded"]
        assert (await server.admin("GET", "config")).json()["settings"]["vlm.max_concurrent"] == 7
        assert (await server.http.get("/readyz")).json()["degraded"]
        home.write({"vlm": {"max_concurrent": 9}})
        assert (await server.generation(2))["degraded"] is None


@pytest.fixture
def notifications(tmp_path: Path) -> Iterator[socket.socket]:
    """The receiving end of systemd's notification socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.setblocking(False)
        yield receiver


def heard(receiver: socket.socket) -> list[str]:
    """Return what has come, one string a datagram."""
    words: list[str] = []
    try:
        while True:
            words.append(receiver.recv(4096).decode())
    except BlockingIOError:
        return words


async def test_systemd_is_told(home: Home, tmp_path: Path, notifications: socket.socket) -> None:
    async with running(home, home.ours, env={"NOTIFY_SOCKET": str(tmp_path / "notify")}, measured=True) as server:
        words: list[str] = []

        def told(word: str) -> bool:
            words.extend(heard(notifications))
            return any(word in each for each in words)

        await wait_until(lambda: told("READY=1"), 10, "READY")
        words.clear()
        home.write({"vlm": {"max_concurrent": 0}})
        await server.admin("POST", "config/reload")
        await wait_until(lambda: told("READY=1"), 10, "READY after a refused reload")
        assert any("RELOADING=1" in each for each in words)
        assert any("vlm.max_concurrent" in each for each in words)
        server.signal(signal.SIGTERM)
        await wait_until(lambda: told("STOPPING=1"), 10, "STOPPING")
        assert await server.ended(20) == 0


async def test_an_unknown_release_runs_with_its_feature_off(home: Home) -> None:
    source = "openviking.storage.queuefs.queue_manager"
    (home.folder / "another_release.py").write_text(
        "import inspect\n"
        "stock = inspect.getsource\n"
        "def getsource(found):\n"
        "    text = stock(found)\n"
        f"    return text + '# changed' if getattr(found, '__module__', '') == {source!r} else text\n"
        "inspect.getsource = getsource\n"
        "from hotreload.__main__ import main\n"
        "main()\n"
    )
    command = tuple("another_release" if word == "hotreload" else word for word in home.ours)
    home.write({"hotreload": {"drain_deadline_s": 5, "watch": False}})
    async with running(home, command, measured=True) as server:
        assert "openviking.feature_off limits: off" in server.log
        assert "limits: off" in (await server.status())["degraded"]
        home.write({"vlm": {"max_concurrent": 9}, "hotreload": {"drain_deadline_s": 5, "watch": False}})
        report = (await server.admin("POST", "config/reload")).json()
        assert [entry["path"] for entry in report["pending_restart"]] == ["vlm.max_concurrent"]
        assert "limits is off" in report["pending_restart"][0]["reason"]
        await server.finished(await server.add_documents(2), 30)
        server.signal(signal.SIGTERM)
        assert await server.ended(8) == 0


async def test_a_remote_restart_comes_back_hooked(home: Home, tmp_path: Path, notifications: socket.socket) -> None:
    async with running(home, home.ours, env={"NOTIFY_SOCKET": str(tmp_path / "notify")}, measured=True) as server:
        before = (await server.status())["started_at"]
        source = {"source": "file"}
        shown = await server.http.get("/api/v1/admin/configuration", params=source, headers=server.root)
        revision = shown.raise_for_status().json()["result"]["revision"]
        asked = await server.http.post("/api/v1/admin/restart", json={"revision": revision}, headers=server.root)
        assert asked.status_code == 202, asked.text

        words: list[str] = []

        async def back() -> bool:
            words.extend(heard(notifications))
            try:
                return (await server.status())["started_at"] != before
            except OSError:
                return False
            except Exception:  # noqa: BLE001 - the socket is going away and coming back
                return False

        await wait_until(back, 120, "the server is back")
        await server.ready()
        await wait_until(lambda: words.extend(heard(notifications)) or "READY=1" in words[-1], 10, "READY again")
        assert [each for each in words if "RELOADING=1" in each]
        assert not [each for each in words if "STOPPING" in each]
        server.signal(signal.SIGHUP)
        await wait_until(lambda: server.log.count("reload.unchanged") >= 1, 10, "it still reloads")
        server.signal(signal.SIGTERM)
        assert await server.ended(20) == 0


async def test_what_others_have_is_told_before_openviking_starts(home: Home, short_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", home.port))
        taken.listen()
        server = await start(home, home.ours)
        assert await server.ended(60) == 4
        assert f"cannot start: 127.0.0.1:{home.port} is in use" in server.log
        assert not (home.folder / "data").exists()
        await server.close()
    (short_path / "open").mkdir()
    (short_path / "open").chmod(0o777)
    unsafe = tuple(str(short_path / "open/s") if word == str(home.socket) else word for word in home.ours)
    server = await start(home, unsafe)
    assert await server.ended(60) == 4
    assert "folder of the control socket" in server.log
    assert not (home.folder / "data").exists()
    await server.close()
    async with running(home, home.ours):
        other = tuple(str(short_path / "s") if word == str(home.socket) else word for word in home.ours)
        server = await start(home, other, arguments=("--port", str(free_port())))
        assert await server.ended(60) == 4
        assert "only one process may use a store" in server.log
        assert "Application startup" not in server.log
        await server.close()


async def test_an_occupied_port_is_told_by_exit_code_and_status(
    home: Home, tmp_path: Path, notifications: socket.socket
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", home.port))
        taken.listen()
        server = await start(home, home.ours, env={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        try:
            words: list[str] = []
            why = "STATUS=cannot start: "
            await wait_until(
                lambda: words.extend(heard(notifications)) or any(why in word for word in words), 60, "it is told"
            )
            assert await server.ended(60) == 4
        finally:
            await server.close()
