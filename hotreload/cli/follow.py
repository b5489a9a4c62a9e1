"""Follow a running service: its status, and its drain until the process is gone."""

from __future__ import annotations

import os
import queue
import select
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn

from hotreload.cli.client import Client
from hotreload.cli.dashboard import RELOADS, dashboard
from hotreload.cli.exits import Exit, Failure
from hotreload.cli.output import reader_is_gone
from hotreload.cli.show import console, drain_line, status_line
from hotreload.errors import ServiceUnreachable

Show = Callable[[dict[str, Any]], None]
REFRESH_S: Final = 1.0
MARGIN_S: Final = 5.0
"""How much longer than its deadline a drain is followed."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that is gone; `report` is the drain report where it was seen."""

    report: dict[str, Any] | None


def watch_status(client: Client, document: dict[str, Any]) -> None:
    """Show the status again each second, until the service or who reads it is gone, or Ctrl-C."""
    screen = console()
    pause = threading.Event()
    try:
        if screen.is_terminal:
            history = client.history(RELOADS)
            with Live(dashboard(document, history), console=screen, auto_refresh=False) as live:
                while not pause.wait(REFRESH_S):
                    document = client.status()
                    if not history or document["last_reload"] != history[0]:
                        history = client.history(RELOADS)
                    live.update(dashboard(document, history), refresh=True)
        else:
            screen.print(status_line(document), soft_wrap=True)
            while not reader_is_gone() and not pause.wait(REFRESH_S):
                screen.print(status_line(client.status()), soft_wrap=True)
    except (ServiceUnreachable, httpx.ReadTimeout):
        screen.print("the service is gone")
    except KeyboardInterrupt:
        return


def follow_drain(client: Client, deadline_s: float | None, *, quiet: bool, margin_s: float = MARGIN_S) -> Ended:
    """Start the drain, show it, and return when the process is gone; Failure (timed out) where it stays."""
    with _process(client) as gone, client.events() as events:
        heard = _Heard(events)  # before the drain starts: an idle service is gone within milliseconds
        progress = client.drain(deadline_s)
        ends = time.monotonic() + progress["left_s"] + margin_s
        with _shown(quiet) as show:
            show(progress)
            report = heard.until_report(ends, show)
        if not gone.wait(max(0.0, ends - time.monotonic())):
            text = f"the process is still there {margin_s:g} s after its deadline"
            raise Failure(Exit.TIMED_OUT, f"{text}; where it is a web application's, stop the server")
    return Ended(report)


class _Heard:
    """Reads an event stream in a thread of its own, so that a service that falls silent does not block the caller."""

    def __init__(self, events: Iterator[tuple[str, dict[str, Any]]]) -> None:
        self._heard: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(events,), daemon=True).start()

    def until_report(self, ends: float, show: Show) -> dict[str, Any] | None:
        """Show progress until the drain report comes and return it; None where the stream or the time ends first."""
        while (left_s := ends - time.monotonic()) > 0:
            try:
                data = self._heard.get(timeout=left_s)
            except queue.Empty:
                return None
            if data is None or "lost" in data:
                return data
            show(data)
        return None

    def _read(self, events: Iterator[tuple[str, dict[str, Any]]]) -> None:
        for kind, data in events:
            if kind == "drain":
                self._heard.put(data)
        self._heard.put(None)


class _Gone:
    """Tells when the process of a service is gone: by its pidfd, over TCP by the refused connection."""

    def __init__(self, client: Client, pidfd: int | None) -> None:
        self._client = client
        self._pidfd = pidfd

    def wait(self, timeout_s: float) -> bool:
        """Return True once it is gone, False after `timeout_s`."""
        if self._pidfd is not None:
            return bool(select.select([self._pidfd], [], [], timeout_s)[0])
        ends = time.monotonic() + timeout_s
        pause = threading.Event()
        while self._answers():
            if time.monotonic() >= ends:
                return False
            pause.wait(0.2)
        return True

    def _answers(self) -> bool:
        try:
            self._client.status()
        except (ServiceUnreachable, httpx.ReadTimeout):
            return False
        except Failure:
            return True
        return True


@contextmanager
def _process(client: Client) -> Generator[_Gone]:
    """Hold on to the process behind the client's socket while it is there: later its pid may be another's."""
    pidfd = None
    peer = client.endpoint.peer
    try:
        if peer is not None and peer.pid > 0:  # 0: it is in another PID namespace
            pidfd = os.pidfd_open(peer.pid)
    except OSError:
        pidfd = None
    try:
        yield _Gone(client, pidfd)
    finally:
        if pidfd is not None:
            os.close(pidfd)


@contextmanager
def _shown(quiet: bool) -> Generator[Show]:
    """Show progress: a bar on a terminal, a line per change elsewhere, nothing where only JSON is wanted."""
    screen = console()
    if quiet:
        yield _show_nothing
    elif screen.is_terminal:
        with Progress(TextColumn("{task.description}"), BarColumn(), console=screen) as bar:
            yield _Bar(bar)
    else:
        yield _Lines(screen)


def _show_nothing(_progress: dict[str, Any]) -> None:
    return


class _Bar:
    """A progress bar over the jobs that were running when the drain began."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("draining", total=None)

    def __call__(self, progress: dict[str, Any]) -> None:
        total = progress.get("jobs_at_start") or 0
        done = max(0, total - len(progress["remaining"]))
        self._bar.update(self._task, description=drain_line(progress), total=max(total, 1), completed=done)


class _Lines:
    """One line for each change of phase or of what is left."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._said: tuple[str, int] | None = None

    def __call__(self, progress: dict[str, Any]) -> None:
        change = (progress["phase"], len(progress["remaining"]))
        if change != self._said:
            self._said = change
            self._screen.print(drain_line(progress), soft_wrap=True)
