"""A tiny process beside this one: it keeps a drain's deadline where no Python code of this one can run.

C code that never gives the GIL back may hold it already when SIGTERM arrives: no handler, thread or timer of Python
runs then. But the interpreter's own C handler writes the signal's number to the wake-up descriptor (signal(7),
`signal.set_wakeup_fd`), and that is the pipe the sentinel reads. It kills this process with SIGKILL shortly after the
deadline, and leaves a note where a drain was cut, by it or by anybody, for the next start to make the report from.

    this process                      shared: deadline_s · arrived · ends · flushed                  sentinel
    signal ──(C handler)──→ pipe ─────────────────────────────────────────────────→ arrived = now, waits for ends

Run as a script (`sentinel.py PIPE SHARED PID NOTE`) it is the sentinel: standard library only, isolated, a few MB.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import time
from contextlib import suppress

SLACK_S = 0.04
"""Later than `faulthandler` in this process, which tells the stacks where it was armed."""
DOUBLE = struct.Struct("d")
DEADLINE_S, ARRIVED, ENDS, FLUSHED = range(0, 32, 8)
REASONS = {0: "request", int(signal.SIGTERM): "SIGTERM", int(signal.SIGINT): "SIGINT"}


class Shared:
    """Four numbers both processes see, each written by one side."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, 32)

    def get(self, place: int) -> float:
        """Read one; 0.0 where nothing was written."""
        return DOUBLE.unpack_from(self._map, place)[0]

    def put(self, place: int, value: float) -> None:
        """Write one."""
        DOUBLE.pack_into(self._map, place, value)


class Sentinel:
    """This process' side.

    Without Linux' memfd and pidfd, outside the main thread, or where somebody has the wake-up descriptor already,
    nothing is started and every call does nothing.
    """

    def __init__(self, note: os.PathLike[str]) -> None:
        self._note = os.fspath(note)
        self._shared: Shared | None = None
        self._pipe = -1
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, deadline_s: float) -> None:
        """Start the process; a drain asked for by a signal has `deadline_s` until `expect` says otherwise."""
        with suppress(OSError, ValueError, AttributeError):
            self._start(deadline_s)

    def _start(self, deadline_s: float) -> None:
        reads, pipe = os.pipe()
        os.set_blocking(pipe, False)
        before = signal.set_wakeup_fd(pipe, warn_on_full_buffer=False)
        if before != -1:
            signal.set_wakeup_fd(before)
            os.close(reads)
            os.close(pipe)
            return
        fd = os.memfd_create("hotreload-drain")
        os.ftruncate(fd, 32)
        shared = Shared(fd)
        shared.put(DEADLINE_S, deadline_s)
        script = [sys.executable, "-I", "-S", __file__, str(reads), str(fd), str(os.getpid()), self._note]
        self._process = subprocess.Popen(script, pass_fds=(reads, fd), stdin=subprocess.DEVNULL, start_new_session=True)
        os.close(reads)
        os.close(fd)
        self._shared, self._pipe = shared, pipe

    def expect(self, deadline_s: float) -> None:
        """Set what the next signal has."""
        if self._shared is not None:
            self._shared.put(DEADLINE_S, deadline_s)

    def arrived(self) -> float | None:
        """Return when the first signal arrived (monotonic), which may be long before anybody could hear it."""
        return (self._shared.get(ARRIVED) or None) if self._shared is not None else None

    def arm(self, ends: float) -> None:
        """Have the process ended after `ends`; safe in a signal handler."""
        if self._shared is not None:
            self._shared.put(ENDS, ends)
            with suppress(OSError):
                os.write(self._pipe, b"\0")

    def flushed(self) -> None:
        """Say that everything is durable and the report kept: whatever happens now, there is nothing to note."""
        if self._shared is not None:
            self._shared.put(FLUSHED, 1.0)

    def close(self) -> None:
        """Let the sentinel end."""
        if self._shared is not None:
            self._shared = None
            with suppress(ValueError):
                signal.set_wakeup_fd(-1)
            os.close(self._pipe)
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.5)


def watch(pipe: int, shared: Shared, pid: int, note: str) -> None:
    """Be the sentinel until the process is gone, or closes the pipe."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:  # gone before this one began: it never served
        return
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    poll.register(process, select.POLLIN)
    reason, since_ms = "", 0
    while True:
        armed = shared.get(ARRIVED)
        heard = shared.get(ENDS)  # else no Python ran since the signal, and none will tell the stacks
        left_s = (heard + SLACK_S if heard else armed + shared.get(DEADLINE_S)) - time.monotonic()
        ready = dict(poll.poll(max(0.0, left_s * 1000) if armed else None))
        words = os.read(pipe, 512) if pipe in ready else b""
        if process in ready or (pipe in ready and not words):
            break
        asked = [REASONS[word] for word in words if word in REASONS]
        if asked and not armed:
            shared.put(ARRIVED, time.monotonic())
            reason, since_ms = asked[0], int(time.time() * 1000)
        elif armed and not ready:
            leave_note(note, reason, since_ms, shared)
            signal.pidfd_send_signal(process, signal.SIGKILL)
            return
    if shared.get(ARRIVED):
        leave_note(note, reason, since_ms, shared)


def leave_note(note: str, reason: str, since_ms: int, shared: Shared) -> None:
    """Write what is known of a drain that was cut."""
    if shared.get(FLUSHED):
        return
    deadline_s = shared.get(ENDS) - shared.get(ARRIVED) if shared.get(ENDS) else shared.get(DEADLINE_S)
    with open(f"{note}.new", "w", encoding="utf-8") as file:
        json.dump({"reason": reason, "since_ms": since_ms, "deadline_s": round(deadline_s, 3)}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(f"{note}.new", note)


if __name__ == "__main__":
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    with suppress(OSError):
        os.nice(-10)  # where it may: code that keeps the GIL keeps a processor as well
    watch(int(sys.argv[1]), Shared(int(sys.argv[2])), int(sys.argv[3]), sys.argv[4])
    os._exit(0)
