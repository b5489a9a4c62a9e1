"""Colour and progress bars are for a terminal; a pipe gets plain lines."""

from __future__ import annotations

import errno
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.process.running import HOTRELOAD

ESCAPE = "\x1b["
BAR = "━"
PLAIN = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "NO_COLOR", "CI")}
TERMINAL = {**PLAIN, "TERM": "xterm-256color", "COLUMNS": "120"}


@pytest.fixture
def served(short_path: Path) -> Iterator[Path]:
    """A process that tells the steps of its drain; its control socket."""
    socket = short_path / "run" / "s"
    command = [sys.executable, "-m", "tests.control", str(socket), "0", "told"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        yield socket
        process.kill()


class Screen:
    """A terminal that a verb runs on."""

    def __init__(self, master: int) -> None:
        self._master = master
        self._sent = b""

    @property
    def text(self) -> str:
        return self._sent.decode(errors="replace")

    def until(self, part: str | None) -> str:
        """Read until `part` was written, None: until the terminal is closed."""
        while part is None or part not in self.text:
            try:
                read = os.read(self._master, 65536)
            except OSError as error:
                if error.errno != errno.EIO:  # EIO: nobody has the other end any more
                    raise
                read = b""
            if not read:
                assert part is None, self.text
                break
            self._sent += read
        return self.text


@contextmanager
def on_terminal(*arguments: str) -> Iterator[Screen]:
    """Run a verb with a terminal as its output; it must end by itself, with 0."""
    master, slave = pty.openpty()
    try:
        with subprocess.Popen([*HOTRELOAD, *arguments], stdin=slave, stdout=slave, stderr=slave, env=TERMINAL) as verb:
            os.close(slave)
            yield Screen(master)
        assert verb.returncode == 0
    finally:
        os.close(master)


def piped(*arguments: str) -> str:
    done = subprocess.run([*HOTRELOAD, *arguments], capture_output=True, text=True, env=TERMINAL, check=True)
    assert done.stderr == ""
    return done.stdout


def test_a_drain_has_a_bar_on_a_terminal(served: Path) -> None:
    with on_terminal("drain", "--socket", str(served)) as screen:
        shown = screen.until(None)
    assert ESCAPE in shown
    assert BAR in shown
    assert "drained in 0.20 s" in shown


def test_a_drain_has_lines_in_a_pipe(served: Path) -> None:
    shown = piped("drain", "--socket", str(served))
    assert "grace: 1 of 3 jobs, 4 s left\n" in shown
    assert ESCAPE not in shown
    assert BAR not in shown


def test_a_watched_status_is_drawn_again_on_a_terminal(served: Path) -> None:
    with on_terminal("status", "--watch", "--socket", str(served)) as screen:
        screen.until("semantic")
        piped("drain", "--socket", str(served))
        shown = screen.until(None)
    assert f"{ESCAPE}1m" in shown  # bold
    assert "the service is gone" in shown


def test_a_status_is_coloured_on_a_terminal_and_plain_in_a_pipe(served: Path) -> None:
    with on_terminal("status", "--socket", str(served)) as screen:
        shown = screen.until(None)
    assert f"{ESCAPE}31m" in shown  # the error of the last reload, red
    assert ESCAPE not in piped("status", "--socket", str(served))
    assert ESCAPE not in piped("status", "--json", "--socket", str(served))
