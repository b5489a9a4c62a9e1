"""The store's files: who owns them, and whether they still are what bears the store's names.

Another hand may remove, replace, truncate or overwrite them while they are open, and SQLite would go on writing into
files that no start ever finds. And the locks that SQLite takes are POSIX locks: they belong to the process, any code in
it that opens and closes the file drops them all, and the next program that looks at the store takes itself for the
last user and removes the live WAL. So the connection keeps its locks in memory (`unix-excl`), and the lock on the file
is one of an open file description, which only its own close drops and which keeps out SQLite in this process too.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import struct
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Final

import apsw

from hotreload.clock import iso, now_ms
from hotreload.errors import StoreLost, StoreOwned, StoreUnavailable

log = logging.getLogger(__name__)
LOCKED_BYTES: Final = (0x4000_0000, 512)  # sqlite.org/src/file/src/os.h: PENDING_BYTE, RESERVED_BYTE, SHARED_FIRST …
MAGIC: Final = b"SQLite format 3\0"  # sqlite.org/fileformat2.html
WAL_HEADER: Final = 32  # sqlite.org/fileformat2.html#walformat
FRAME_HEADER: Final = 24
SALT_OF_WAL, SALT_OF_FRAME = slice(16, 24), slice(8, 16)


class StoreLock:
    """The lock of one store, held from the constructor to `release` or the end of the process, however it ends.

    The file stays when the lock is gone: removing it would let two processes lock two files of one name. Its
    text (JSON: `pid`, `since`, `boot`) is for people, and tells one owner from another: `text` is that of this one,
    `before` that of the last, "" where nothing is known; `machine_ended` where the machine was started again since.
    """

    def __init__(self, store: Path, *, signs: bool = True) -> None:
        """Take the lock; StoreOwned, naming the owner, where another process or queue holds it.

        Without `signs` the text of the last owner stays: for a process that only looks.
        """
        self._store = store
        self.path = store.with_name(f"{store.name}.lock")
        self._fd, self.before = self._take()
        self.machine_ended = _boot_of(self.before) not in (None, _boot())
        self.text = _sign(self._fd) if signs else self.before

    def renew(self) -> None:
        """Where the lock file was removed or replaced, take that of its name now; StoreOwned if taken."""
        if not _same(self._fd, self.path):
            fd, _ = self._take()
            os.close(self._fd)
            self._fd = fd
            self.text = _sign(fd)
            log.warning("store.lock_renewed path=%s", self.path)

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _take(self) -> tuple[int, str]:
        fd = _open_lock(self.path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            owner = _owner(fd)
            os.close(fd)
            if isinstance(error, BlockingIOError):
                raise StoreOwned(str(self._store), owner) from None
            raise StoreUnavailable(f"{self.path}: this file system has no locks: {error.strerror}") from error
        return fd, os.pread(fd, 4096, 0).decode(errors="replace").strip()


class StoreFiles:
    """The files of one open store. In the writer's thread, but for the lock.

    `hold` begins with a connection that is open, `let_go` ends before it is closed. In between `prove` says whether
    what was committed is in the files that have the store's names. A forked child closes its copies of what is held.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock; StoreOwned, naming the owner, where another process or queue holds it."""
        self.path = path
        self.wal_path = path.with_name(f"{path.name}-wal")
        self.lock = StoreLock(path)
        self._guard = self._wal = -1
        self._page_size = 4096
        self._inode: tuple[int, int] | None = None
        self._wal_inode = (0, 0)
        self._made: tuple[int, int] | None = None
        self._stamp = self._wal_stamp = (0, 0)
        self._frames = 0
        self._last_frame = b""
        self._written: int | None = None
        forget = weakref.WeakMethod(self.release)
        os.register_at_fork(after_in_child=lambda: _call(forget))

    def hold(self, page_size: int) -> None:
        """Keep every other program out, and note what the files are; after the connection took its own locks.

        StoreOwned where another program got in between, StoreUnavailable where the file is not the one held before.
        """
        self.let_go()
        self._page_size = page_size
        self._guard = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        self._wal = os.open(self.wal_path, os.O_RDONLY | os.O_CLOEXEC)
        inode = _inode(os.fstat(self._guard))
        if self._inode not in (None, inode):
            raise StoreUnavailable(f"{self.path}: the file was replaced by another one")
        if self._made not in (None, _stamp(os.fstat(self._guard))):
            raise self._overwritten(self.path)
        os.close(os.open(self.path, os.O_RDONLY | os.O_CLOEXEC))  # drops the POSIX lock of this process
        wanted = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, *LOCKED_BYTES, 0)
        try:
            fcntl.fcntl(self._guard, fcntl.F_OFD_SETLK, wanted)
        except BlockingIOError:
            raise StoreOwned(str(self.path), "another program that reads or writes it") from None
        except OSError as error:
            raise StoreUnavailable(f"{self.path}: this file system has no locks: {error.strerror}") from error
        self._inode, self._wal_inode = inode, _inode(os.fstat(self._wal))
        self._frames, self._last_frame, self._written, self._made = 0, b"", None, None
        self.noted()

    def let_go(self) -> None:
        """Let other programs in; a second call does nothing."""
        for fd in (self._guard, self._wal):
            if fd >= 0:
                os.close(fd)
        self._guard = self._wal = -1

    def release(self) -> None:
        """Give everything back, the lock of the store too."""
        self.let_go()
        self.lock.release()

    def noted(self) -> None:
        """Take the files as they are for what this process made of them: after it wrote outside of a commit."""
        if self._guard >= 0:
            self._stamp = _stamp(os.fstat(self._guard))
            self._wal_stamp = _stamp(os.fstat(self._wal))

    def untouched(self) -> None:
        """StoreUnavailable where another program wrote to the WAL since this process did: before a commit hides it.

        By size and time of change, so a write within the kernel's clock tick (some ms) of one of ours is not seen.
        """
        if self._wal >= 0 and _stamp(os.fstat(self._wal)) != self._wal_stamp:
            raise self._overwritten(self.wal_path)

    def folded(self) -> None:
        """Take the database as it is now that the WAL was folded in; StoreUnavailable where that changed meanwhile."""
        self.untouched()
        self.noted()

    def wrote(self, frames: int) -> None:
        """Note a commit; the WAL has so many frames now."""
        self._written = frames

    def prove(self) -> bool:
        """Return whether something was committed since the last call; StoreUnavailable where it is not in the files.

        A few system calls for each commit: each file is the one that was opened, only this process wrote to the
        database, the WAL begins as this commit's frames say, and the frame before them is the one written before.
        """
        frames, self._written = self._written, None
        wal = self._moved()
        if frames is None:
            return False
        header, last = os.pread(self._wal, WAL_HEADER, 0), self._frame(frames)
        begun_again = self._last_frame[SALT_OF_FRAME] != last[SALT_OF_FRAME]  # as after all of it was folded in
        lasting = begun_again or self._frame(self._frames) == self._last_frame
        if wal.st_size < self._end(frames) or header[SALT_OF_WAL] != last[SALT_OF_FRAME] or not lasting:
            raise self._overwritten(self.wal_path)
        self._frames, self._last_frame, self._wal_stamp = frames, last, _stamp(wal)
        return True

    def look(self, *, own: bool = False) -> None:
        """As `prove` without a commit, and renew the lock; with `own` this process may have written the WAL."""
        if self._guard < 0:  # the connection is closed, to be opened again
            return
        wal = self._moved()
        torn = self._frames and self._frame(self._frames) != self._last_frame
        if torn or (not own and _stamp(wal) != self._wal_stamp):
            raise self._overwritten(self.wal_path)
        try:
            self.lock.renew()
        except StoreOwned:  # by a process that is about to start, and finds the database locked
            return

    def _moved(self) -> os.stat_result:
        try:
            database, wal = os.stat(self.path), os.stat(self.wal_path)
        except OSError as error:
            raise StoreUnavailable(f"{error.filename}: the file was removed") from error
        if _inode(database) != self._inode or _inode(wal) != self._wal_inode:
            raise StoreUnavailable(f"{self.path}: the file or its WAL was replaced by another one")
        if _stamp(database) != self._stamp:
            raise self._overwritten(self.path)
        return wal

    @staticmethod
    def _overwritten(path: Path) -> StoreUnavailable:
        return StoreUnavailable(f"{path}: the file was overwritten by another program")

    def _end(self, frames: int) -> int:
        return WAL_HEADER + frames * (FRAME_HEADER + self._page_size)

    def _frame(self, number: int) -> bytes:
        """Return the header of a frame, counted from 1; it has the page, the salts and the checksums up to here."""
        return os.pread(self._wal, FRAME_HEADER, self._end(number - 1))

    def replace(self, connection: apsw.Connection, whole: Callable[[apsw.Connection], bool]) -> None:
        """Bring what `connection` sees back under the store's name: copied, checked, on the disk, moved into place.

        `whole(copy)` says whether the copy is what it should be. StoreLost where it is not, or where another process
        owns the store by now; StoreUnavailable where it cannot be written. A database that another program put there
        is kept beside it as `….replaced`.
        """
        made = self.path.with_name(f"{self.path.name}.restored")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.lock.renew()
            copy(connection, made, whole)
            if self.path.exists() and not _same(self._guard, self.path):
                os.replace(self.path, self.path.with_name(f"{self.path.name}.replaced"))
            self.wal_path.unlink(missing_ok=True)  # it belongs to another database, or is part of the copy
            status = os.stat(made)
            os.replace(made, self.path)
            sync_folder(self.path.parent)
        except (StoreOwned, apsw.CorruptError, apsw.NotADBError) as error:
            raise StoreLost(f"{self.path}: it cannot be brought back: {error}") from error
        except (OSError, apsw.Error) as error:
            raise StoreUnavailable(f"{self.path}: it cannot be brought back now: {error}") from error
        self._inode, self._made = _inode(status), _stamp(status)


def copy(connection: apsw.Connection, into: Path, whole: Callable[[apsw.Connection], bool] = lambda _: True) -> None:
    """Write a consistent copy of an open database into the file `into`, readable by its owner only, on the disk."""
    into.unlink(missing_ok=True)
    os.close(os.open(into, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    made = apsw.Connection(str(into))
    try:
        with made.backup("main", connection, "main") as backup:
            backup.step(-1)
        if not whole(made):
            raise StoreLost(f"{into}: what is left of the store is damaged")
    finally:
        made.close(True)
    fd = os.open(into, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def refuse_to_replace(path: Path) -> None:
    """Raise ValueError where a path holds anything but a database or an empty file: a device, a folder, other data."""
    if not path.exists():
        return
    if not path.is_file():
        raise ValueError(f"{path}: is not a regular file, and the copy would replace it")
    with path.open("rb") as file:
        if file.read(len(MAGIC)) not in (b"", MAGIC):
            raise ValueError(f"{path}: is not a copy of a store, which a copy may replace; name another file")


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed or removed in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _stamp(status: os.stat_result) -> tuple[int, int]:
    return status.st_size, status.st_mtime_ns


def _inode(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _same(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False


def _open_lock(path: Path) -> int:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreUnavailable(f"{path}: the lock file cannot be opened: {error.strerror}") from error


def _sign(fd: int) -> str:
    """Say who holds the lock. On a full disk the store can be owned all the same, so it only costs the name."""
    text = json.dumps({"pid": os.getpid(), "since": iso(now_ms()), "boot": _boot()})
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{text}\n".encode(), 0)
    except OSError:
        return ""
    return text


def _boot() -> str | None:
    """Return what tells one start of this machine from another, None where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("utf-8").strip()
    except (OSError, ValueError):
        return None


def _boot_of(text: str) -> str | None:
    try:
        return json.loads(text).get("boot")
    except (ValueError, AttributeError):
        return None


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
