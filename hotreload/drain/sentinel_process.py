"""The script a sentinel runs, `sentinel_process.py PIPE SHARED PID NOTE [KEY VALUE]…`: see `hotreload.drain.sentinel`.

Standard library only and isolated: it needs a few MB and some tens of milliseconds to start.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import struct
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


def watch(pipe: int, shared: Shared, pid: int, note: Note) -> None:
    """Be the sentinel until the process is gone, or closes the pipe."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:  # gone before this one began: it never served
        return
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    poll.register(process, select.POLLIN)
    while True:
        ends = _ends(shared)
        if ends is None:
            note.forget()
        left_ms = None if ends is None else max(0.0, (ends - time.monotonic()) * 1000)
        ready = dict(poll.poll(left_ms))
        words = os.read(pipe, 512) if pipe in ready else b""
        if process in ready or (pipe in ready and not words):
            break
        asked = [REASONS[word] for word in words if word in REASONS]
        if asked and not shared.get(ARRIVED):
            shared.put(ARRIVED, time.monotonic())
            note.leave(asked[0], shared)
        ends = _ends(shared)  # a signal meant for others is forgotten meanwhile
        if not ready and ends is not None and time.monotonic() >= ends:
            signal.pidfd_send_signal(process, signal.SIGKILL)
            break
    if shared.get(FLUSHED) or not shared.get(ARRIVED):
        note.forget()
    else:
        note.sync()


def _ends(shared: Shared) -> float | None:
    """Return when to end the process; None where nothing was asked of it."""
    if not shared.get(ARRIVED):
        return None
    heard = shared.get(ENDS)  # else no Python ran since the signal, and none will tell the stacks
    return heard + SLACK_S if heard else shared.get(ARRIVED) + shared.get(DEADLINE_S)


class Note:
    """What is known of a drain, for the next start to find where it is cut: there from the signal on.

    Not before the kill: the disk may take longer than the deadline allows. And not after it: the next start may come
    at once.
    """

    def __init__(self, path: str, about: dict[str, str]) -> None:
        self._path = path
        self._about = about
        self._left = False

    def leave(self, reason: str, shared: Shared) -> None:
        """Write it; it is seen at once, and durable with `sync`."""
        deadline_s = shared.get(ENDS) - shared.get(ARRIVED) if shared.get(ENDS) else shared.get(DEADLINE_S)
        since_ms = int(time.time() * 1000)
        said = {"reason": reason, "since_ms": since_ms, "deadline_s": round(deadline_s, 3), **self._about}
        with suppress(OSError):
            with open(f"{self._path}.new", "w", encoding="utf-8") as file:
                json.dump(said, file)
            os.replace(f"{self._path}.new", self._path)
            self._left = True

    def sync(self) -> None:
        """Make it durable."""
        for path, flags in ((self._path, os.O_RDONLY), (os.path.dirname(self._path), os.O_RDONLY | os.O_DIRECTORY)):
            with suppress(OSError):  # the next start has it already
                os.fsync(os.open(path, flags))

    def forget(self) -> None:
        """Take it back: there is nothing to report any more."""
        if self._left:
            self._left = False
            with suppress(OSError):
                os.unlink(self._path)


if __name__ == "__main__":
    for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    with suppress(OSError):
        os.nice(-10)  # where it may: code that keeps the GIL keeps a processor as well
    *numbers, path = sys.argv[1:5]
    pipe_fd, shared_fd, pid_of = map(int, numbers)
    about = dict(zip(sys.argv[5::2], sys.argv[6::2], strict=True))
    watch(pipe_fd, Shared(shared_fd), pid_of, Note(path, about))
    os._exit(0)
