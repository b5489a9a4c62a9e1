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
        left_ms = None if ends is None else max(0.0, (ends - time.monotonic()) * 1000)
        ready = dict(poll.poll(left_ms))
        words = os.read(pipe, 512) if pipe in ready else b""
        if process in ready or (pipe in ready and not words):
            break
        asked = [REASONS[word] for word in words if word in REASONS]
        if asked and not shared.get(ARRIVED):
            shared.put(ARRIVED, time.monotonic())
            note.reason, note.since_ms = asked[0], int(time.time() * 1000)
        ends = _ends(shared)  # a signal that was somebody else's is forgotten meanwhile
        if not ready and ends is not None and time.monotonic() >= ends:
            note.leave(shared)
            signal.pidfd_send_signal(process, signal.SIGKILL)
            return
    if shared.get(ARRIVED):
        note.leave(shared)


def _ends(shared: Shared) -> float | None:
    """Return when to end the process; None where nothing was asked of it."""
    if not shared.get(ARRIVED):
        return None
    heard = shared.get(ENDS)  # else no Python ran since the signal, and none will tell the stacks
    return heard + SLACK_S if heard else shared.get(ARRIVED) + shared.get(DEADLINE_S)


class Note:
    """What is known of a drain that was cut."""

    def __init__(self, path: str, about: dict[str, str]) -> None:
        self._path = path
        self._about = about
        self.reason = ""
        self.since_ms = 0

    def leave(self, shared: Shared) -> None:
        """Write it, durable on return; not where the drain went through."""
        if shared.get(FLUSHED):
            return
        deadline_s = shared.get(ENDS) - shared.get(ARRIVED) if shared.get(ENDS) else shared.get(DEADLINE_S)
        said = {"reason": self.reason, "since_ms": self.since_ms, "deadline_s": round(deadline_s, 3), **self._about}
        with open(f"{self._path}.new", "w", encoding="utf-8") as file:
            json.dump(said, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(f"{self._path}.new", self._path)
        folder = os.open(os.path.dirname(self._path), os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(folder)


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
