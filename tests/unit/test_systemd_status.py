"""What systemd is told around the flows, and that time is never asked for beyond a bound."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from hotreload import LiveSettings
from hotreload.config.settings import SettingsModel
from hotreload.host.host import Host
from hotreload.host.start import RunOptions, start
from hotreload.host.status import PoolFigures
from hotreload.host.work import Work
from hotreload.lifecycle import Phase
from hotreload.reload.report import Outcome, Trigger, TriggerKind
from hotreload.reload.validate import Source
from hotreload.systemd.notifier import Notifier
from hotreload.systemd.status import AHEAD_S, StartUp, SystemdStatus
from tests.control import report


@pytest.fixture
def manager(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(short_path / "notify"))
        receiver.settimeout(0.3)
        monkeypatch.setenv("NOTIFY_SOCKET", str(short_path / "notify"))
        yield receiver


def _heard(manager: socket.socket) -> list[str]:
    """Return all datagrams until it is quiet."""
    words: list[str] = []
    try:
        while True:
            words.append(manager.recv(4096).decode())
    except TimeoutError:
        return words


def _asked(words: list[str]) -> list[float]:
    return [int(word.partition("=")[2]) / 1e6 for word in words if word.startswith("EXTEND_TIMEOUT_USEC")]


def _voice(drain: dict[str, Any] | None = None, notifier: Notifier | None = None, **options: Any) -> SystemdStatus:
    read: dict[str, Any] = {"generation": lambda: 3, "degraded": lambda: None, "drain": lambda: drain, **options}
    return SystemdStatus(notifier or Notifier(), tick_s=0.02, **read)


def test_a_reload_before_ready_only_changes_the_status(manager: socket.socket) -> None:
    """READY=1 would say that the start is over; the first one is said once, when it is."""
    voice = _voice()
    voice.reloading()
    voice.reloaded(report())
    words = _heard(manager)
    assert [word.partition("=")[0] for word in words] == ["STATUS", "STATUS"]
    assert words[1].startswith("STATUS=generation 3, reload applied (id 5f0c): ")
    voice.ready()
    voice.reloading()
    voice.reloaded(report())
    words = _heard(manager)
    assert [word.partition("=")[0] for word in words] == ["READY", "RELOADING", "STATUS", "READY"]


def _draining(left_s: float) -> dict[str, Any]:
    return {"phase": "grace", "jobs_at_start": 40, "remaining": ["x"] * 12, "left_s": left_s}


def test_a_start_up_asks_for_time_up_to_its_bound(manager: socket.socket) -> None:
    start_up = StartUp(Notifier(), bound_s=0.2, tick_s=0.02)
    start_up.begin()
    words = _heard(manager)
    assert words[0] == "STATUS=starting"
    assert len(_asked(words)) > 3
    assert max(_asked(words)) <= 0.2
    start_up.end()


def test_a_start_that_fails_says_why_and_asks_no_more(manager: socket.socket) -> None:
    start_up = StartUp(Notifier(), tick_s=0.02)
    start_up.begin()
    assert _asked([manager.recv(100).decode(), manager.recv(100).decode()]) == [AHEAD_S]
    start_up.failed(ValueError("ov.conf:1:3: no value"))
    words = _heard(manager)
    assert "STATUS=cannot start: ov.conf:1:3: no value" in words
    assert len(_asked(words)) < 5


def test_without_a_manager_a_start_up_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier()
    start_up = StartUp(notifier)
    start_up.begin()
    start_up.end()
    start_up.failed(ValueError("no"))
    assert (notifier.enabled, notifier.errors) == (False, 0)


@pytest.mark.anyio
async def test_a_reload_asks_for_time_until_its_verdict(manager: socket.socket) -> None:
    voice = _voice()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(voice.speak)
        voice.reloading()
        await anyio.sleep(0.1)
        voice.reloaded(report(Outcome.REJECTED))
        at_verdict = len(_heard(manager))
        await anyio.sleep(0.1)
        tasks.cancel_scope.cancel()
    assert at_verdict > 3
    assert _heard(manager) == []


@pytest.mark.anyio
async def test_a_reload_that_never_ends_asks_no_more_after_its_bound(manager: socket.socket) -> None:
    voice = _voice(reload_s=0.2)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(voice.speak)
        voice.reloading()
        await anyio.sleep(0.4)
        asked = _asked(_heard(manager))
        await anyio.sleep(0.1)
        tasks.cancel_scope.cancel()
    assert len(asked) > 3
    assert all(0 < step_s <= 0.2 for step_s in asked)
    assert _heard(manager) == []


@pytest.mark.anyio
async def test_the_loop_sends_the_watchdog_s_pings(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_voice().speak)
        await anyio.sleep(0.2)
        tasks.cancel_scope.cancel()
    words = _heard(manager)
    assert len(words) > 3
    assert set(words) == {"WATCHDOG=1"}


@pytest.mark.anyio
async def test_what_met_a_full_socket_is_said_again(manager: socket.socket) -> None:
    notifier = Notifier()
    voice = _voice(notifier=notifier)
    while not notifier.errors:
        notifier.watchdog()
    voice.ready()
    assert set(_heard(manager)) == {"WATCHDOG=1"}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(voice.speak)
        await anyio.sleep(0.1)
        tasks.cancel_scope.cancel()
    assert _heard(manager) == ["READY=1\nX_HOTRELOAD_GENERATION=3\nSTATUS=generation 3, started"]


@pytest.mark.parametrize(
    ("outcome", "number"), [(Outcome.REJECTED, 22), (Outcome.ROLLED_BACK, 22), (Outcome.APPLIED, 0)]
)
def test_a_verdict_is_one_datagram(manager: socket.socket, outcome: Outcome, number: int) -> None:
    voice = _voice()
    voice.ready()
    voice.reloading()
    voice.reloaded(report(outcome))
    _, reloading, status, ready = _heard(manager)
    assert reloading.startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert status == "STATUS=generation 3, reloading"
    assert ready.startswith(
        f"READY=1\nX_HOTRELOAD_GENERATION=3\nERRNO={number}\nSTATUS=generation 3, reload {outcome.value}"
    )


def test_each_phase_of_a_drain_is_told(manager: socket.socket) -> None:
    voice = _voice(_draining(7.6))
    voice.entered(Phase.RUNNING)
    voice.entered(Phase.QUIESCING)
    voice.entered(Phase.GRACE)
    line = "STATUS=draining: 12 of 40 jobs, 8 s left (grace)"
    assert _heard(manager) == [f"STOPPING=1\n{line}", line, line]


def test_a_reload_that_ends_in_a_drain_says_nothing(manager: socket.socket) -> None:
    drain: dict[str, Any] = {}
    voice = SystemdStatus(
        Notifier(), generation=lambda: 3, degraded=lambda: None, drain=lambda: drain or None, tick_s=0.02
    )
    voice.reloading()
    drain.update(_draining(7.6))
    voice.entered(Phase.QUIESCING)
    voice.reloaded(report(Outcome.APPLIED))
    words = _heard(manager)
    assert words[-1] == "STATUS=draining: 12 of 40 jobs, 8 s left (grace)"
    assert not any(word.startswith("READY=1") for word in words)


class _Broken(Exception):
    pass


class _Breaks(Work):
    """Work that fails where a verdict asks which settings its jobs read."""

    version, reloadables, drainables = "1", (), ()

    def generations(self) -> list[int]:
        raise _Broken

    def pools(self) -> list[PoolFigures]:
        return []


@pytest.mark.anyio
async def test_ready_follows_a_reload_whatever_fails_at_its_verdict(manager: socket.socket, short_path: Path) -> None:
    path = short_path / "ov.conf"
    path.write_text('{"hotreload": {"drain_sentinel": false}}')
    options = RunOptions(config=path, socket=short_path / "run/control")
    started = await start("served", Source(path=path, model=SettingsModel(LiveSettings)), options)
    host = Host(started, _Breaks())
    started.start_up.end()
    started.lifecycle.move(Phase.RUNNING)
    host.systemd.ready()
    _heard(manager)
    host.submit_reload(Trigger(TriggerKind.SIGNAL, "SIGHUP", 0))
    with pytest.raises(_Broken):
        await host.reloads.run()
    assert [word.partition("\n")[0].partition("=")[0] for word in _heard(manager)] == ["RELOADING", "STATUS", "READY"]
    await started.close()


@pytest.mark.parametrize(("left_s", "asked"), [(7.6, [AHEAD_S]), (2.0, [3.0]), (0.01, [1.01]), (0.0, [])])
def test_no_time_is_asked_for_beyond_the_end_of_a_drain(
    manager: socket.socket, left_s: float, asked: list[float]
) -> None:
    _voice().hold(left_s)
    assert _asked(_heard(manager)) == asked


@pytest.mark.anyio
async def test_the_search_for_missing_work_is_told_while_it_runs_and_once_it_has_ended(manager: socket.socket) -> None:
    line: str | None = "recovery: 5 scanned"
    voice = _voice(search=lambda: line)
    said: list[str] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(voice.speak)
        for now in ("recovery: 5 scanned", "recovery: 9 scanned", None):
            line = now
            await anyio.sleep(0.1)
            said += _heard(manager)
        tasks.cancel_scope.cancel()
    assert said == [
        "STATUS=generation 3, started; recovery: 5 scanned",
        "STATUS=generation 3, started; recovery: 9 scanned",
        "STATUS=generation 3, started",
    ]


@pytest.mark.anyio
async def test_a_drain_is_told_and_no_search(manager: socket.socket) -> None:
    voice = _voice(_draining(5), search=lambda: "recovery")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(voice.speak)
        await anyio.sleep(0.1)
        tasks.cancel_scope.cancel()
    statuses = [word for word in _heard(manager) if word.startswith("STATUS=")]
    assert statuses
    assert not any("recovery" in status for status in statuses)
