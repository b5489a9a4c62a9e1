"""One service's folder and the processes that live in it: what the lives in service_life.py are made of.

They are forked from this process, which must have no threads and have imported everything.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import select
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import apsw
import httpx

from hotreload.cli import main, run_verb
from hotreload.host import interrupted
from hotreload.queue.job import NewJob
from hotreload.queue.sqlite import SqliteQueue

from .store_life import Lost

DEADLINE_S = 1.0


def expect(held: bool, what: str) -> None:
    """Raise Lost unless it held."""
    if not held:
        raise Lost(what)


def apart(function: Callable[[], Any]) -> Any:
    """Call a function in a child and return its JSON value: it may start threads, and this process must have none."""
    hears, tells = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(tells, json.dumps(function()).encode())
            os._exit(0)
        except BaseException:  # noqa: BLE001 - a child tells, then ends
            traceback.print_exc()
            os._exit(1)
    os.close(tells)
    with os.fdopen(hears, "rb") as heard:
        text = heard.read()
    expect(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "a child failed")
    return json.loads(text)


async def _whole(queue: SqliteQueue) -> list[dict[str, Any]]:
    return [asdict(whole) for job in await queue.jobs(limit=100_000) if (whole := await queue.job(job.id))]


MOVES = """
CREATE TABLE moves (job INTEGER, came_from TEXT, went_to TEXT, lease_seq INTEGER) STRICT;
CREATE TRIGGER moved AFTER UPDATE OF state ON hotreload_jobs WHEN old.state <> new.state
BEGIN INSERT INTO moves VALUES (new.id, old.state, new.state, new.lease_seq); END;
"""


def read(store: Path, sql: str) -> list[Any]:
    """Read from a copy of the files: no other program may open those of a running service."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / store.name
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                shutil.copy(f"{store}{suffix}", f"{copy}{suffix}")
        connection = apsw.Connection(str(copy))
        try:
            return [list(row) for row in connection.execute(sql)]
        finally:
            connection.close()


class Home:
    """The folder of one service."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.state = folder / ".hotreload"
        self.history = folder / "history"
        self.state.mkdir(mode=0o700, parents=True)
        self.history.touch()
        hotreload = {"drain_deadline_s": DEADLINE_S, "watch": False}
        conf = {"hotreload": hotreload, "history": str(self.history), **settings}
        (folder / "ov.conf").write_text(json.dumps(conf))

    def open(self) -> SqliteQueue:
        """Own the store, as the next start does."""
        note = interrupted.read_note(self.state)
        return SqliteQueue.open(self.state / "hotreload.db", cut=note, report_cut=interrupted.reconstruct)

    def add(self, jobs: Sequence[NewJob]) -> None:
        """Put jobs into the queue, with nobody running."""

        def enqueue() -> None:
            queue = self.open()
            asyncio.run(queue.enqueue(jobs))
            queue.close()

        apart(enqueue)

    def record(self) -> None:
        """Have the store itself keep each move of a job, in the transaction that makes it."""

        def trigger() -> None:
            connection = apsw.Connection(str(self.state / "hotreload.db"))
            connection.execute(MOVES)
            connection.close()

        apart(trigger)

    def draining(self) -> bool:
        """Say whether the begin of a drain is on the disk."""
        asked = "SELECT 1 FROM hotreload_documents WHERE kind = 'draining'"
        return bool(apart(lambda: read(self.state / "hotreload.db", asked)))

    def recovered(self) -> dict[str, Any]:
        """Open the store as the next start does, and return what that found."""

        def look() -> dict[str, Any]:
            queue = self.open()
            found = queue.recovered
            queue.close()
            return {"crashed": list(found.crashed), "interrupted": list(found.interrupted)}

        return apart(look)

    def jobs(self) -> list[dict[str, Any]]:
        """Return every job there is."""

        def read() -> list[dict[str, Any]]:
            queue = self.open()
            found = asyncio.run(_whole(queue))
            queue.close()
            return found

        return apart(read)

    def lines(self) -> list[str]:
        """Return the history."""
        return self.history.read_text().splitlines()

    def log(self) -> str:
        """Return the end of what its services said."""
        log = self.folder / "log"
        return log.read_text(errors="replace")[-3000:] if log.exists() else ""

    def live(self) -> Life:
        """Start the service."""
        return Life(self)


class Life:
    """One process of the service."""

    def __init__(self, home: Home, *more: str) -> None:
        self._home = home
        self._socket = str(home.folder / "run" / "s")
        self.pid = os.fork()
        if not self.pid:
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: nothing outlives a test
            log = os.open(home.folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            arguments = ["--config", str(home.folder / "ov.conf"), "--socket", self._socket]
            main(["run", "tests.process.odd_jobs:service", *arguments, *more])
        self._pidfd = os.pidfd_open(self.pid)

    def until(self, reached: Callable[[], bool], within_s: float = 20.0) -> None:
        """Wait until `reached`, or the process is gone."""
        ends = time.monotonic() + within_s
        while not reached() and not self.gone(0.005):
            if time.monotonic() > ends:
                raise Lost(f"not within {within_s:g} s: {self.log()}")

    def gone(self, within_s: float) -> bool:
        """Say whether the process ended within a time."""
        return bool(select.select([self._pidfd], [], [], within_s)[0])

    def send(self, number: int) -> None:
        """Send a signal; the process is ours, and is reaped only by `end`."""
        signal.pidfd_send_signal(self._pidfd, number)

    def ask(self, *arguments: str) -> int:
        """Run a verb of the command line against it, in a child."""
        child = os.fork()
        if not child:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            os._exit(run_verb([*arguments, "--socket", self._socket]))
        return child

    def stop(self, by: str = "signal", *, watched_from_s: float = DEADLINE_S - 0.3) -> tuple[float, float]:
        """Have it drain; return how long the process took to be gone, and how late this one was woken from then on.

        The second figure, a sum, is what a busy machine takes from everybody. A command's time is that from its answer
        on, as `POST /admin/drain` would be given.
        """
        began = before = time.monotonic()
        command = 0
        if by == "signal":
            self.send(signal.SIGTERM)
        elif by == "http":
            with httpx.Client(transport=httpx.HTTPTransport(uds=self._socket)) as client:
                expect(client.post("http://localhost/admin/drain").status_code == 202, "the drain was not accepted")
        else:
            began = self._until_it_answers()
            command = self.ask("drain")
        stolen_s = 0.0
        while not self.gone(0.005) and before - began < DEADLINE_S + 10:
            now = time.monotonic()
            late_s = now - before - 0.006
            stolen_s += late_s if late_s > 0 and now - began > watched_from_s else 0.0
            before = now
        took_s = time.monotonic() - began
        self.end()
        if command:
            expect(os.waitstatus_to_exitcode(os.waitpid(command, 0)[1]) in (0, 1), "the verb failed")
        return took_s, stolen_s

    def _until_it_answers(self) -> float:
        """Return when a command that is begun now will have asked: it takes as long as one that only looks."""
        began = time.monotonic()
        os.waitpid(self.ask("status", "--json"), 0)
        return 2 * time.monotonic() - began

    def end(self, within_s: float = 30.0) -> int:
        """Wait for its end and return the exit status, negative for a signal."""
        if not self.gone(within_s):
            raise Lost(f"still there after {within_s:g} s: {self.log()}")
        os.close(self._pidfd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def log(self) -> str:
        """Return the end of what it said."""
        return self._home.log()
