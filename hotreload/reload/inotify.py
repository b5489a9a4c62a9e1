"""inotify(7) as a small object: which of the named entries changed, and what the kernel did not tell.

A library between would be shorter, but those at hand pass over what a configuration watch must know: that the
queue overflowed, which folder a path stands for now, and above all that a writer has not closed the file yet: one
that writes over the old bytes leaves a mixture that parses. They also wake up 200 times a second to be as quick.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Mapping
from contextlib import suppress
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


class Inotify:
    """Watches one route at a time; `failure` says why nothing is told, None where all is well.

    `overflows` counts how often the kernel dropped events.
    """

    def __init__(self) -> None:
        self.failure: str | None = None
        self.overflows = 0
        self._descriptor = -1
        self._names: dict[int, frozenset[str]] = {}
        self._writing: set[tuple[int, str]] = set()
        self._woken = anyio.Event()

    @property
    def writing(self) -> bool:
        """True while a named file was modified and its writer has not closed it."""
        return bool(self._writing)

    def arm(self, route: Route) -> bool:
        """Watch exactly this; returns False where something else was watched before: a watch had gone deaf.

        What is watched already goes on without a gap. What fails shows in `failure` and is tried again by the next
        call.
        """
        names: dict[int, frozenset[str]] = {}
        try:
            if route and self._descriptor < 0:
                self._descriptor = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
            for path, wanted in route.items():
                if (watch := self._add(path)) is not None:
                    names[watch] = names.get(watch, frozenset()) | wanted
            self.failure = None
        except OSError as error:
            self.failure = str(error)
        before, self._names = self._names, names
        for old in before.keys() - names.keys():
            _libc.inotify_rm_watch(self._descriptor, old)
        self._writing = {(watch, name) for watch, name in self._writing if watch in names}
        return before.keys() == names.keys()

    def _add(self, path: Path) -> int | None:
        """Return the watch of a path, None where it is gone; OSError where it cannot be watched."""
        try:
            return _checked(_libc.inotify_add_watch(self._descriptor, os.fsencode(path), WATCHED))
        except FileNotFoundError:
            return None

    async def wait(self, within_s: float) -> bool:
        """Return True as soon as a named entry or a watch itself changed or `wake` was called, False after `within_s`.

        What happens between two calls is told by the next; a cancellation loses nothing.
        """
        ends = anyio.current_time() + within_s
        while not (told := self._read() or self._woken.is_set()) and anyio.current_time() < ends:
            with anyio.move_on_after(ends - anyio.current_time()):
                await self._readable_or_woken()
        if self._woken.is_set():
            self._woken = anyio.Event()
        return told

    async def _readable_or_woken(self) -> None:
        async with anyio.create_task_group() as waiting:
            waiting.start_soon(_cancel_after, self._woken, waiting.cancel_scope)
            if self._descriptor < 0:
                await anyio.sleep_forever()
            await anyio.wait_readable(self._descriptor)
            waiting.cancel_scope.cancel()

    def wake(self) -> None:
        """Have `wait` return."""
        self._woken.set()

    def close(self) -> None:
        """Watch nothing more and give the descriptor back. `arm` opens it again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1
        self._names = {}
        self._writing = set()

    def _read(self) -> bool:
        """Take what is there, never waiting; True where some of it matters."""
        told = False
        with suppress(BlockingIOError):
            while self._descriptor >= 0:
                told |= self._take(os.read(self._descriptor, _READ_BYTES))
        return told

    def _take(self, raw: bytes) -> bool:
        told = False
        offset = 0
        while offset < len(raw):
            watch, mask, _cookie, length = _EVENT.unpack_from(raw, offset)
            start = offset + _EVENT.size
            offset = start + length
            if mask & OVERFLOW:
                self.overflows += 1
                told = True
            elif watch in self._names:
                name = os.fsdecode(raw[start:offset].rstrip(b"\0"))
                told |= self._matters(watch, mask, name)
        return told

    def _matters(self, watch: int, mask: int, name: str) -> bool:
        if name not in self._names[watch]:
            return bool(mask & GONE)
        if mask & MODIFY:
            self._writing.add((watch, name))
        elif not mask & (ATTRIB | CREATE):
            self._writing.discard((watch, name))
        return True


async def _cancel_after(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"inotify: {os.strerror(number)}")
    return result
