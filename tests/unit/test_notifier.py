"""What systemd is sent, read from a real datagram socket; and that nothing ever raises or blocks."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotreload.systemd.notifier import STATUS_LIMIT, Notifier, clean, monotonic_us, watchdog_interval_s


@pytest.fixture
def manager(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(short_path / "notify"))
        receiver.settimeout(2)
        monkeypatch.setenv("NOTIFY_SOCKET", str(short_path / "notify"))
        yield receiver


def test_every_message_is_one_datagram(manager: socket.socket) -> None:
    notifier = Notifier(clock_us=lambda: 42)
    notifier.ready("started", 1)
    notifier.reloading()
    notifier.reloaded("reload applied, generation 2", 2)
    notifier.reloaded("reload rejected, generation 2", 2, errno=22)
    notifier.status("draining: 12 of 40 jobs, 8 s left")
    notifier.stopping("draining")
    notifier.extend(2.5)
    notifier.extend(-1)
    notifier.watchdog()
    assert [manager.recv(4096).decode() for _ in range(9)] == [
        "READY=1\nX_HOTRELOAD_GENERATION=1\nSTATUS=started",
        "RELOADING=1\nMONOTONIC_USEC=42",
        "READY=1\nX_HOTRELOAD_GENERATION=2\nERRNO=0\nSTATUS=reload applied, generation 2",
        "READY=1\nX_HOTRELOAD_GENERATION=2\nERRNO=22\nSTATUS=reload rejected, generation 2",
        "STATUS=draining: 12 of 40 jobs, 8 s left",
        "STOPPING=1\nSTATUS=draining",
        "EXTEND_TIMEOUT_USEC=2500000",
        "EXTEND_TIMEOUT_USEC=0",
        "WATCHDOG=1",
    ]
    assert notifier.enabled
    assert notifier.errors == 0


def test_text_beyond_latin_1_arrives_as_utf_8(manager: socket.socket) -> None:
    Notifier().status("größer: 概要 🙂")
    assert manager.recv(4096) == "STATUS=größer: 概要 🙂".encode()


def test_a_status_cannot_inject_fields(manager: socket.socket) -> None:
    Notifier().status("bad\nSTOPPING=1\r\x00\x1b[0m\x85\u2028x")
    assert manager.recv(4096).decode() == "STATUS=bad STOPPING=1   [0m  x"


def test_a_long_status_is_cut_on_a_border(manager: socket.socket) -> None:
    Notifier().ready("概" * 5000, 1)
    text = manager.recv(65536).decode()
    assert len(text.encode()) < 1100
    assert text.endswith("概")


def test_without_a_socket_everything_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notifier = Notifier()
    notifier.ready("started", 1)
    notifier.watchdog()
    assert not notifier.enabled
    assert notifier.errors == 0
    assert notifier.watchdog_interval_s is None


def test_a_receiver_that_is_gone_is_counted(manager: socket.socket) -> None:
    notifier = Notifier()
    manager.close()
    notifier.status("anyone?")
    assert notifier.errors == 1


def test_a_receiver_that_never_was_is_counted(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(short_path / "nobody"))
    notifier = Notifier()
    notifier.status("anyone?")
    assert not notifier.enabled
    assert notifier.errors == 1


def test_a_stuck_receiver_blocks_nobody(manager: socket.socket) -> None:
    notifier = Notifier()
    for _ in range(2000):
        notifier.watchdog()
    assert notifier.errors > 0
    assert manager.recv(100) == b"WATCHDOG=1"


def test_the_newest_state_that_met_a_full_socket_is_kept(manager: socket.socket) -> None:
    notifier = Notifier()
    _fill(notifier)
    notifier.reloading()
    notifier.reloaded("reload applied", 2)
    notifier.stopping("draining")
    notifier.resend()
    _drained(manager)
    notifier.resend()
    notifier.resend()
    assert _drained(manager) == [b"STOPPING=1\nSTATUS=draining"]


def test_an_old_state_is_not_said_after_a_newer_one(manager: socket.socket) -> None:
    notifier = Notifier()
    _fill(notifier)
    notifier.reloading()
    _drained(manager)
    notifier.reloaded("reload applied", 2)
    notifier.resend()
    assert [word.partition(b"\n")[0] for word in _drained(manager)] == [b"READY=1"]


def _fill(notifier: Notifier) -> None:
    errors = notifier.errors
    while notifier.errors == errors:
        notifier.watchdog()


def _drained(manager: socket.socket) -> list[bytes]:
    manager.setblocking(False)
    words: list[bytes] = []
    with suppress(BlockingIOError):
        while True:
            words.append(manager.recv(4096))
    return words


def test_the_first_error_of_a_series_is_logged(manager: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    notifier = Notifier()
    notifier.resend()
    assert caplog.messages == []
    for _ in range(2):
        _fill(notifier)
        for _ in range(3):
            notifier.status("anyone?")
            notifier.resend()
        _drained(manager)
        notifier.resend()
    assert [message.split()[0] for message in caplog.messages] == ["systemd.not_told"] * 2


def test_a_socket_in_the_abstract_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0hotreload-test-notify")
        monkeypatch.setenv("NOTIFY_SOCKET", "@hotreload-test-notify")
        Notifier().status("hello")
        assert receiver.recv(100) == b"STATUS=hello"


@given(st.text())
def test_clean_text_is_one_short_line(text: str) -> None:
    line = clean(text)
    assert len(line.encode()) <= STATUS_LIMIT
    assert len(line.splitlines()) <= 1
    assert line.isprintable() or not any(ord(char) < 32 for char in line)


def test_half_of_what_the_watchdog_allows() -> None:
    assert watchdog_interval_s({"WATCHDOG_USEC": "30000000"}, 7) == 15
    assert watchdog_interval_s({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "7"}, 7) == 15
    for other in ({}, {"WATCHDOG_USEC": "x"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "1", "WATCHDOG_PID": "8"}):
        assert watchdog_interval_s(other, 7) is None


def test_the_clock_counts_microseconds() -> None:
    assert 0 <= monotonic_us() - monotonic_us() + 1_000_000 <= 1_000_000
