"""A tiny process beside this one: it keeps a drain's deadline where no Python code of this one can run.

C code that never gives the GIL back may hold it already when SIGTERM arrives: no handler, thread or timer of Python
runs then. But the interpreter's own C handler writes the signal's number to the wake-up descriptor (signal(7),
`signal.set_wakeup_fd`), and that is the pipe the sentinel reads. It kills this process with SIGKILL shortly after the
deadline, and keeps a note of the drain until it went through: where it is cut, by the sentinel or by anybody, the next
start makes the report from it.

    this process                      shared: deadline_s · arrived · ends · flushed                  sentinel
    signal ──(C handler)──→ pipe ─────────────────────────────────────────────────→ arrived = now, waits for ends
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress

from hotreload.drain import forked, sentinel_process
from hotreload.drain.sentinel_process import ARRIVED, DEADLINE_S, ENDS, FLUSHED, Shared

log = logging.getLogger(__name__)
HANDLED_S = 0.25
"""After this the handler of a signal has run: the main thread runs Python."""
STARTS_MOST = 4


class Sentinel:
    """This process' side; `start`, `tend` and `close` on the main thread, the rest from any, signal handlers included.

    Without Linux' memfd and pidfd, outside the main thread, or where the wake-up descriptor is taken already,
    nothing is started and every call does nothing; `impaired` says so. In a forked child as well.
    """

    def __init__(self, note: os.PathLike[str], *about: str) -> None:
        """`note` is where a cut drain is noted, with what it is `about` (pairs of key and value)."""
        self._note = os.fspath(note)
        self._about = about
        self._shared: Shared | None = None
        self._pipe = -1
        self._process: subprocess.Popen[bytes] | None = None
        self._deadline_s = 0.0
        self._started = 0
        self._kept_to_parent: Callable[[], None] = lambda: None
        self.impaired: str | None = None

    def start(self, deadline_s: float) -> None:
        """Start the process; a drain asked for by a signal has `deadline_s` until `expect` says otherwise."""
        self._deadline_s = deadline_s
        self._started += 1
        reads, pipe = os.pipe()
        os.set_blocking(pipe, False)
        try:
            self._shared = self._begin(reads, deadline_s)
            before = signal.set_wakeup_fd(pipe, warn_on_full_buffer=False)
        except (OSError, ValueError, AttributeError) as error:
            self._lack(f"cannot be started: {error}", pipe)
        else:
            self._pipe = pipe
            self._kept_to_parent = forked.in_child(self._let_go)
            if before != -1:
                signal.set_wakeup_fd(before)
                self._lack("cannot hear signals: something else has their wake-up descriptor", -1)
        finally:
            os.close(reads)

    def _begin(self, reads: int, deadline_s: float) -> Shared:
        fd = os.memfd_create("hotreload-drain")
        try:
            os.ftruncate(fd, 32)
            shared = Shared(fd)
            shared.put(DEADLINE_S, deadline_s)
            script = [
                sys.executable,
                "-I",
                "-S",
                sentinel_process.__file__,
                str(reads),
                str(fd),
                str(os.getpid()),
                self._note,
            ]
            self._process = subprocess.Popen(
                [*script, *self._about], pass_fds=(reads, fd), stdin=subprocess.DEVNULL, start_new_session=True
            )
        finally:
            os.close(fd)
        return shared

    def _lack(self, why: str, pipe: int) -> None:
        if pipe >= 0:
            os.close(pipe)
            self._shared = None
        self.impaired = f"the drain's sentinel {why}; C code that keeps the interpreter can outlast the deadline"
        log.warning("drain.sentinel %s", self.impaired)

    def tend(self, ends: float | None) -> None:
        """See that it works, now and then; `ends` is that of a drain that runs, None without one.

        A sentinel that is gone is started again. A signal that came and asked for no drain was meant for others: it is
        forgotten. The wake-up descriptor is taken back where it was given up, and left where it was taken.
        """
        if self._process is None or self._shared is None:
            return
        if self._process.poll() is not None and self._started < STARTS_MOST:
            log.warning("drain.sentinel_gone status=%d", self._process.returncode)
            self._stop()
            self.start(self._deadline_s)
            if ends is not None:
                self.arm(ends)
            return
        arrived = self._shared.get(ARRIVED)
        if ends is None and arrived and time.monotonic() - arrived > HANDLED_S:
            self._shared.put(ARRIVED, 0.0)
            self._nudge(b"\xff")
        before = signal.set_wakeup_fd(self._pipe, warn_on_full_buffer=False)
        if before in (-1, self._pipe):
            self.impaired = None
        else:
            signal.set_wakeup_fd(before)
            if self.impaired is None:
                self._lack("does not hear signals any more: something else took their wake-up descriptor", -1)

    def expect(self, deadline_s: float) -> None:
        """Set what the next signal has."""
        self._deadline_s = deadline_s
        if self._shared is not None:
            self._shared.put(DEADLINE_S, deadline_s)

    def arrived(self) -> float | None:
        """Return when the first signal arrived (monotonic), which may be long before anybody could hear it."""
        return (self._shared.get(ARRIVED) or None) if self._shared is not None else None

    def arm(self, ends: float) -> None:
        """Have the process ended after `ends`; safe in a signal handler."""
        if self._shared is not None:
            self._shared.put(ENDS, ends)
            self._nudge(b"\0")

    def _nudge(self, word: bytes) -> None:
        with suppress(OSError):
            os.write(self._pipe, word)

    def flushed(self) -> None:
        """Say that everything is durable and the report kept: whatever happens now, there is nothing to note."""
        if self._shared is not None:
            self._shared.put(FLUSHED, 1.0)

    def close(self, within_s: float = 0.5) -> None:
        """Let the sentinel end, and reap it."""
        self._stop()
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(within_s)

    def _stop(self) -> None:
        if self._shared is None:
            return
        self._kept_to_parent()
        self._shared = None
        with suppress(ValueError):
            before = signal.set_wakeup_fd(-1)
            if before not in (-1, self._pipe):
                signal.set_wakeup_fd(before)
        os.close(self._pipe)

    def _let_go(self) -> None:
        self._stop()
        if self._process is not None:
            self._process.returncode = 0  # it is not this child's to wait for
            self._process = None
