"""The thread that ends a drain, whatever the event loop does.

It sleeps in poll(2) on a pipe until a drain is requested: a signal handler may only write a byte, as it must take no
lock that the code it interrupted holds. From then on it owns the end: it has the drain's begin noted on the disk, and
flushes when the coordinator says so or, with the loop blocked, at the edge of the reserve. In a process of our own it
also ends the process with `os._exit` where that is still there shortly before the deadline; in another's it never
does. Further signals shorten a blocked loop's time as they do that of one that runs. Each second it says that it
waits, to the service manager. A C call that never gives the GIL back stops this thread as well: then `faulthandler`'s
own C thread, which needs no GIL, prints every stack and exits with 1.
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
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Final, Protocol

from hotreload.drain import forked
from hotreload.drain.deadline import Deadline

log = logging.getLogger(__name__)
GIL_SLACK_S = 0.02
HEED_S = 0.2
"""How long the loop has to take note of a third signal, before it is taken for blocked."""
SWITCH_S = 0.0005
"""How often busy threads hand the interpreter over in a drain: at Python's own 5 ms it comes too late to the rest."""
STDERR_FD: Final = 2
"""`sys.stderr` may be None, or something without a descriptor."""
ARMED, HURRY, HEEDED, FLUSH, LEAVE = b"ahofx"


class Ending(Protocol):
    """What the thread runs, in it: each once but `waiting`. Whatever they raise is logged, and the next is called."""

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
        """Let go of what must not outlive the process, and return the code it ends with."""
        ...


class LastResort:
    """One per drain, none in forked children. `start` first; `arm` from anywhere, signal handlers included.

    `exit_process` None says that the process is not ours to end.
    """

    def __init__(
        self,
        ending: Ending,
        *,
        exit_process: Callable[[int], object] | None = os._exit,
        guard_gil: bool = True,
        waiting_s: float = 1.0,
    ) -> None:
        self._ending = ending
        self._exit_process = exit_process
        self._guard_gil = guard_gil and exit_process is not None
        self._waiting_s = waiting_s
        self._read = self._write = -1
        self._deadline: Deadline | None = None
        self._loop_thread = 0
        self._switch_s = 0.0
        self._thread = threading.Thread(target=self._run, name="hotreload-last-resort", daemon=True)
        self._kept_to_parent: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Start the sleeping thread; call it on the event loop's thread."""
        self._loop_thread = threading.get_ident()
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        self._kept_to_parent = forked.in_child(self._close)
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

    def release(self) -> None:
        """End the thread, and all that guards the deadline; a second call does nothing."""
        if self._thread.ident is None or self._write < 0:
            return
        self._tell(LEAVE)
        self._thread.join(timeout=1)
        if self._deadline is not None:
            sys.setswitchinterval(self._switch_s or sys.getswitchinterval())
            if self._guard_gil:
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

    def _run(self) -> None:
        words = b""
        while self._deadline is None and LEAVE not in words:
            words = self._wait(None)
        deadline = self._deadline
        if deadline is None or LEAVE in words:
            return
        with _logged():
            self._begin(deadline)
        with _logged():
            self._ending.began()
        said = self._until_flush(deadline, words)
        if said == LEAVE:
            return
        stuck = self._stack_of_loop() if said is None else []
        with _logged():
            self._ending.flush(stuck=stuck)
        if self._exit_process is not None and self._outlives(deadline, blocked=said is None):
            code = 1
            with _logged():
                _kill_children()
            with _logged():
                code = self._ending.exit_code()
            self._exit_process(code)

    def _begin(self, deadline: Deadline) -> None:
        self._switch_s = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_S)
        if self._guard_gil:
            left_s = deadline.ends - time.monotonic() + GIL_SLACK_S
            faulthandler.dump_traceback_later(left_s, exit=True, file=STDERR_FD)

    def _wait(self, until: float | None) -> bytes:
        """Return the words said until the monotonic instant `until`; b"" when it came first."""
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        while True:
            left_s = None if until is None else max(0.0, until - time.monotonic())
            if left_s is not None:
                with _logged():
                    self._ending.waiting()
                left_s = min(left_s, self._waiting_s)
            if poll.poll(None if left_s is None else left_s * 1000):
                return os.read(self._read, 64)
            if until is not None and time.monotonic() >= until:
                return b""

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

    def _outlives(self, deadline: Deadline, *, blocked: bool) -> bool:
        """Return True when it is time to end the process, False where it left by itself."""
        at = deadline.exit_at
        if blocked:
            at = min(at, time.monotonic() + deadline.exit_at - deadline.flush_at)
        while words := self._wait(at):
            if LEAVE in words:
                return False
        return True

    def _stack_of_loop(self) -> list[str]:
        """Return where the loop's thread stands, innermost call last."""
        frame = sys._current_frames().get(self._loop_thread)  # pyright: ignore[reportPrivateUsage]
        lines = traceback.format_stack(frame)[-6:] if frame is not None else []
        return [line.strip().replace("\n", ": ") for line in lines] or ["the event loop's thread is gone"]


def _kill_children() -> None:
    """Kill the children of `multiprocessing`: its own hook, which would have ended them, does not run now."""
    processes: Any = sys.modules.get("multiprocessing.process")
    for child in processes.active_children() if processes is not None else ():
        child.kill()


@contextmanager
def _logged() -> Generator[None]:
    """Log whatever a step of the end raises; the next one is taken."""
    try:
        yield
    except BaseException:
        log.exception("drain.last_resort_failed")
