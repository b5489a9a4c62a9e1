"""The thread that ends a drain, whatever the event loop does.

It sleeps in `select` on a pipe until a drain is requested (a signal handler may only write a byte: it must
take no lock that the code it interrupted holds). From then on it owns the end: it has the drain's begin noted on the
disk, flushes when the coordinator says so or, with the loop blocked, at the edge of the reserve; and if the process is
still there shortly before the deadline it calls `os._exit`. Further signals shorten a blocked loop's time as they do
that of one that runs. Each second it says that it waits, for whoever would end the process sooner. A C call that never
gives the GIL back stops this thread as well: then `faulthandler`'s own C thread, which needs no GIL, prints every
stack and exits with 1.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import select
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Final, Protocol

from hotreload.drain import forked
from hotreload.drain.deadline import Deadline

log = logging.getLogger(__name__)
GIL_SLACK_S = 0.02
WAITING_S = 1.0
HEED_S = 0.2
"""How long the loop has to take note of a third signal, before it is taken for blocked."""
SWITCH_S = 0.0005
"""How often busy threads hand the interpreter over in a drain: at Python's own 5 ms it comes too late to the rest."""
STDERR_FD: Final = 2
"""`sys.stderr` may be None, or something without a descriptor."""
ARMED, HURRY, HEEDED, FLUSH, EXIT, LEAVE = b"ahofqx"


class Ending(Protocol):
    """What the thread runs, in it: `began`, `flush` and `exit_code` once. Whatever they raise, the process ends."""

    def began(self) -> None:
        """Note on the disk that a drain began."""
        ...

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
    """One per process, none in its forked children. `start` first; `arm` from anywhere, signal handlers included."""

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
        self._kept_to_parent = forked.in_child(self._close)

    def start(self) -> None:
        """Start the sleeping thread; call it on the event loop's thread."""
        self._loop_thread = threading.get_ident()
        self._thread.start()

    def arm(self, deadline: Deadline) -> None:
        """Begin the countdown; a second call changes nothing. Safe in a signal handler."""
        if self._deadline is None:
            self._deadline = deadline
            self._tell(ARMED)

    def hurry(self) -> None:
        """A further signal came: a loop that does not heed it is blocked. Safe in a signal handler."""
        self._tell(HURRY)

    def heeded(self) -> None:
        """The loop took note of a signal: it is not blocked, and a phase has the time it has."""
        self._tell(HEEDED)

    def flush_now(self) -> None:
        """Flush without waiting for the reserve: the loop has nothing left to do."""
        self._tell(FLUSH)

    def exit_now(self) -> None:
        """End the process without waiting for the deadline; for after the flush."""
        self._tell(EXIT)

    def disarm(self) -> None:
        """The process is leaving by itself and in time, or never drained; ends the thread."""
        self._tell(LEAVE)
        self._thread.join(timeout=1)
        if self._guard_gil and self._deadline is not None:
            faulthandler.cancel_dump_traceback_later()
        if not self._thread.is_alive():
            self._kept_to_parent()
            self._close()

    def _close(self) -> None:
        for end in (self._read, self._write):
            if end >= 0:
                os.close(end)
        self._read = self._write = -1

    def _tell(self, word: int) -> None:
        if self._write >= 0:
            os.write(self._write, bytes((word,)))

    # --- in the thread ------------------------------------------------------------------------------------------

    def _wait(self, until: float | None) -> bytes:
        """Return the words said until the monotonic instant `until`; b"" when it came first."""
        while True:
            left_s = None if until is None else max(0.0, until - time.monotonic())
            if left_s is not None:
                _regardless(self._ending.waiting)
                left_s = min(left_s, WAITING_S)
            ready, _, _ = select.select([self._read], [], [], left_s)
            if ready:
                return os.read(self._read, 64)
            if until is not None and time.monotonic() >= until:
                return b""

    def _run(self) -> None:
        words = b""
        while self._deadline is None and LEAVE not in words:
            words = self._wait(None)
        if self._deadline is None or LEAVE in words:
            return
        _regardless(lambda: self._begin(self._deadline))
        _regardless(self._ending.began)
        if self._end(self._deadline, words):
            codes: list[int] = []
            _regardless(lambda: codes.append(self._ending.exit_code()))
            self._exit_process(codes[0] if codes else 1)

    def _begin(self, deadline: Deadline | None) -> None:
        sys.setswitchinterval(SWITCH_S)
        if self._guard_gil and deadline is not None:
            left_s = deadline.ends - time.monotonic() + GIL_SLACK_S
            faulthandler.dump_traceback_later(left_s, exit=True, file=STDERR_FD)

    def _end(self, deadline: Deadline, words: bytes) -> bool:
        """Flush when it is time; True where the process is to be ended, False where it left by itself."""
        said = self._until_flush(deadline, words)
        if said == LEAVE:
            return False
        blocked = said is None
        stuck = self._stack_of_loop() if blocked else []
        _regardless(lambda: self._ending.flush(stuck=stuck))
        reserve_s = deadline.exit_at - deadline.flush_at
        return self._until_exit(min(deadline.exit_at, time.monotonic() + reserve_s) if blocked else deadline.exit_at)

    def _until_flush(self, deadline: Deadline, words: bytes) -> int | None:
        """Return FLUSH or LEAVE once it was said; None where the time of a blocked loop is up."""
        flush_at, hurried = deadline.flush_at, 0
        while True:
            for word in words:
                if word in (FLUSH, LEAVE):
                    return word
                if word == HURRY:
                    hurried += 1
                    time_s = deadline.flush_at - deadline.grace_ends if hurried == 1 else HEED_S
                    flush_at = min(flush_at, time.monotonic() + time_s)
                elif word == HEEDED:
                    flush_at = deadline.flush_at
            words = self._wait(flush_at)
            if not words:
                return None

    def _until_exit(self, at: float) -> bool:
        """Return True when it is time to end the process, False where it left by itself."""
        while True:
            words = self._wait(at)
            if LEAVE in words:
                return False
            if not words or EXIT in words:
                return True

    def _stack_of_loop(self) -> list[str]:
        """Return where the loop's thread stands, innermost call last."""
        frame = sys._current_frames().get(self._loop_thread)  # pyright: ignore[reportPrivateUsage]
        if frame is None:
            return []
        return [line.strip().replace("\n", ": ") for line in traceback.format_stack(frame)[-6:]]


def _regardless(step: Callable[[], object]) -> None:
    """Take a step of the end; what it raises is told, and the next one is taken."""
    try:
        step()
    except BaseException:
        log.exception("drain.last_resort_failed")
