"""inotify(7) as a small object: which of the named entries changed, and what the kernel did not tell.

A library between would be shorter here, but those at hand pass over what a configuration watch must know: that
the queue overflowed, that a watched folder was moved away, and that a writer closed the file it wrote.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio

MODIFY: Final = 0x2
ATTRIB: Final = 0x4
CLOSE_WRITE: Final = 0x8
MOVED_FROM: Final = 0x40
MOVED_TO: Final = 0x80
CREATE: Final = 0x100
DELETE: Final = 0x200
DELETE_SELF: Final = 0x400
MOVE_SELF: Final = 0x800
UNMOUNT: Final = 0x2000
OVERFLOW: Final = 0x4000
IGNORED: Final = 0x8000
WATCHED: Final = MODIFY | ATTRIB | CLOSE_WRITE | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF
GONE: Final = DELETE_SELF | MOVE_SELF | UNMOUNT | IGNORED

_EVENT: Final = struct.Struct("iIII")
_READ_BYTES: Final = 256 * 1024
_libc: Final = ctypes.CDLL(None, use_errno=True)

Route = Mapping[Path, frozenset[str]]
"""What to watch: each folder with the names in it that matter, and each file by itself with the name `""`."""


@dataclass(slots=True)
class Heard:
    """What the kernel told since the last time: a named entry changed, a watch is gone, events were dropped."""

    changed: bool = False
    gone: bool = False
    overflow: bool = False

    def __bool__(self) -> bool:
        return self.changed or self.gone or self.overflow


class Inotify:
    """One inotify descriptor and its watches; OSError where the system has none left."""

    def __init__(self) -> None:
        self.descriptor = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self.whole = False
        self._names: dict[int, frozenset[str]] = {}
        self._writing: set[tuple[int, str]] = set()

    @property
    def watches(self) -> int:
        """How many watches there are."""
        return len(self._names)

    @property
    def writing(self) -> bool:
        """True while a named file was modified and its writer has not closed it."""
        return bool(self._writing)

    def arm(self, route: Route) -> bool:
        """Watch exactly this; returns False where something else was watched before: a watch had gone deaf.

        What is watched already goes on without a gap. `whole` tells whether all of it could be watched.
        """
        names: dict[int, frozenset[str]] = {}
        self.whole = True
        for path, wanted in route.items():
            watch = _libc.inotify_add_watch(self.descriptor, os.fsencode(path), WATCHED)
            if watch >= 0:
                names[watch] = names.get(watch, frozenset()) | wanted
            elif path.exists():
                self.whole = False
        before, self._names = self._names, names
        for old in before.keys() - names.keys():
            _libc.inotify_rm_watch(self.descriptor, old)
        self._writing = {(watch, name) for watch, name in self._writing if watch in names}
        return before.keys() == names.keys()

    async def wait(self) -> Heard:
        """Return at the first report that concerns a named entry or the watch itself."""
        while True:
            await anyio.wait_readable(self.descriptor)
            if heard := self.read():
                return heard

    def read(self) -> Heard:
        """Return what is there; never waits."""
        heard = Heard()
        with suppress(BlockingIOError):
            while True:
                self._take(os.read(self.descriptor, _READ_BYTES), heard)
        return heard

    def close(self) -> None:
        """Give the descriptor back. A second call does nothing."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _take(self, raw: bytes, heard: Heard) -> None:
        offset = 0
        while offset < len(raw):
            watch, mask, _cookie, length = _EVENT.unpack_from(raw, offset)
            start = offset + _EVENT.size
            offset = start + length
            if mask & OVERFLOW:
                heard.overflow = True
            elif watch in self._names:
                name = os.fsdecode(raw[start:offset].rstrip(b"\0"))
                self._note(watch, mask, name, heard)

    def _note(self, watch: int, mask: int, name: str, heard: Heard) -> None:
        heard.gone |= bool(mask & GONE)
        if name not in self._names[watch]:
            return
        heard.changed = True
        if mask & MODIFY:
            self._writing.add((watch, name))
        elif not mask & (ATTRIB | CREATE):
            self._writing.discard((watch, name))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"inotify: {os.strerror(number)}")
    return result
