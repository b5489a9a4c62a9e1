"""The thread that ends a drain, whatever the event loop does.

It sleeps in `select` on a pipe until a drain is requested (a signal handler may only write a byte: it must
take no lock that the code it interrupted holds). From then on it owns the end: it flushes when the
coordinator says so or, with the loop blocked, at the edge of the reserve; and if the process is still there
shortly before the deadline it calls `os._exit`. Each second it says that it waits, for whoever would end the process
sooner. A C call that never gives the GIL back stops this thread as well: then `faulthandler`'s own C thread, which
needs no GIL, prints every stack and exits with 1.
"""

from __future__ import annotations

import faulthandler
import os
import select
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Protocol

from hotreload.drain.deadline import Deadline

GIL_SLACK_S = 0.02
WAITING_S = 1.0
SWITCH_S = 0.0005
"""How often busy threads hand the interpreter over in a drain: at Python's own 5 ms it comes too late to the rest."""


class Ending(Protocol):
    """What the thread runs, in it: `flush` and `exit_code` once."""

    def waiting(self) -> None:
        """Called when the thread begins to wait, and each second it does."""
        ...

    def flush(self, *, stuck: list[str]) -> None:
        """Make everything durable; `stuck` has the stack of a blocked loop, [] when the coordinator asked."""
        ...

    def exit_code(self) -> int:
        """Return the code for a process that must be ended."""
        ...


class LastResort:
    """One per process. `start` first; then `arm` from anywhere, signal handlers included."""

    def __init__(
        self, ending: Ending, *, exit_process: Callable[[int], object] = os._exit, guard_gil: bool = True
    ) -> None:
        self._ending = ending
        self._exit_process = exit_process
        self._guard_gil = guard_gil
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._deadline: Deadline | None = None
        self._loop_thread = threading.get_ident()
        self._thread = threading.Thread(target=self._run, name="hotreload-last-resort", daemon=True)

    def start(self) -> None:
        """Start the sleeping thread; call it on the event loop's thread."""
        self._loop_thread = threading.get_ident()
        self._thread.start()

    def arm(self, deadline: Deadline) -> None:
        """Begin the countdown; a second call changes nothing. Safe in a signal handler."""
        if self._deadline is None:
            self._deadline = deadline
            self._tell(b"a")

    def flush_now(self) -> None:
        """Flush without waiting for the reserve: the loop has nothing left to do."""
        self._tell(b"f")

    def exit_now(self) -> None:
        """End the process without waiting for the deadline; for after the flush."""
        self._tell(b"q")

    def disarm(self) -> None:
        """The process is leaving by itself and in time, or never drained; ends the thread."""
        self._tell(b"x")
        self._thread.join(timeout=1)
        if self._guard_gil and self._deadline is not None:
            faulthandler.cancel_dump_traceback_later()

    def _tell(self, word: bytes) -> None:
        os.write(self._write, word)

    def _wait(self, until: float | None) -> bytes:
        """Return the words said until the monotonic instant `until`; b"" when it came first."""
        while True:
            left_s = None if until is None else max(0.0, until - time.monotonic())
            if left_s is not None:
                self._ending.waiting()
                left_s = min(left_s, WAITING_S)
            ready, _, _ = select.select([self._read], [], [], left_s)
            if ready:
                return os.read(self._read, 64)
            if until is not None and time.monotonic() >= until:
                return b""

    def _run(self) -> None:
        words = self._wait(None)
        deadline = self._deadline
        if b"x" in words or deadline is None:
            return
        sys.setswitchinterval(SWITCH_S)
        if self._guard_gil:
            faulthandler.dump_traceback_later(deadline.ends - time.monotonic() + GIL_SLACK_S, exit=True)
        if b"f" not in words:
            words = self._wait(deadline.flush_at)
        if b"x" not in words:
            self._ending.flush(stuck=[] if b"f" in words else self._stack_of_loop())
            words = self._wait(deadline.exit_at)
        if b"x" not in words:
            self._exit_process(self._ending.exit_code())

    def _stack_of_loop(self) -> list[str]:
        """Return where the loop's thread stands, innermost call last."""
        frame = sys._current_frames().get(self._loop_thread)  # pyright: ignore[reportPrivateUsage]
        if frame is None:
            return []
        return [line.strip().replace("\n", ": ") for line in traceback.format_stack(frame)[-6:]]
