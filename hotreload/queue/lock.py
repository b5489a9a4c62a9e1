"""One owning process per store, by a lock of the operating system on a file beside it."""

from __future__ import annotations

import fcntl
import json
import os
import weakref
from collections.abc import Callable
from pathlib import Path

from hotreload.clock import iso, now_ms
from hotreload.errors import StoreOwned, StoreUnavailable


class StoreLock:
    """The lock of one store, held from the constructor to `release` or the end of the process, however it ends.

    The file stays when the lock is gone: removing it would let two processes lock two files of one name. Its
    text (JSON: `pid`, `since`) is for people, and tells one owner from another: `text` is that of this one, `before`
    that of the last, "" where nothing is known. A forked child closes its copy, so that it does not keep the lock.
    """

    def __init__(self, store: Path) -> None:
        """Take the lock; StoreOwned, naming the owner, where another process or queue holds it."""
        self.path = store.with_name(f"{store.name}.lock")
        self._fd = _open(self.path)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _owner(self._fd)
            self.release()
            raise StoreOwned(str(store), owner) from None
        self.before = os.pread(self._fd, 4096, 0).decode(errors="replace").strip()
        self.text = _sign(self._fd)
        forget = weakref.WeakMethod(self.release)
        os.register_at_fork(after_in_child=lambda: _call(forget))

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _open(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreUnavailable(f"{path}: the lock file cannot be opened: {error.strerror}") from error


def _sign(fd: int) -> str:
    """Say who holds the lock. A full disk keeps nobody from owning the store, so it only costs the name."""
    text = json.dumps({"pid": os.getpid(), "since": iso(now_ms())})
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{text}\n".encode(), 0)
    except OSError:
        return ""
    return text


def _owner(fd: int) -> str:
    try:
        said = json.loads(os.pread(fd, 4096, 0))
        return f"pid {int(said['pid'])} since {said['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _call(method: weakref.WeakMethod[Callable[[], None]]) -> None:  # pragma: no cover - runs in forked children only
    found = method()
    if found is not None:
        found()
