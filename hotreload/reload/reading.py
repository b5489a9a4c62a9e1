"""One look at one file: its bytes, or why there are none, and whether a process is writing it."""

from __future__ import annotations

import fcntl
import math
import os
import signal
import stat
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final, cast

from hotreload.config.document import MAX_BYTES
from hotreload.errors import Problem
from hotreload.folder import content_of
from hotreload.reload.mounts import mount_of

NOT_THERE: Final = (FileNotFoundError, NotADirectoryError)

Version = tuple[object, ...]
"""What tells one version of a file from another; () for a file that is not there."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one look found; `identity` begins with device and inode, `changed_at` is wall clock, s.

    `torn`: it changed while it was read. `writer`: whether a process has it open for writing, None where the system
    does not tell. `entered_last`: its folder changed after its content did, as by a rename.
    """

    identity: Version
    changed_at: float = -math.inf
    raw: bytes | None = field(default=None, repr=False)
    problem: Problem | None = None
    absent: bool = False
    torn: bool = False
    writer: bool | None = None
    entered_last: bool = False
    content: Version = field(init=False, repr=False)
    """The version that was read; a stat alone misses a rewrite within one tick of the clock."""

    def __post_init__(self) -> None:
        digest = None if self.raw is None else sha256(self.raw).digest()
        content = () if self.absent else (*self.identity, digest, self.problem)
        object.__setattr__(self, "content", content)

    @property
    def mode(self) -> int | None:
        """Its type and permissions, None where it could not be read."""
        return cast("int", self.identity[-1]) if self.raw is not None and self.identity else None

    @property
    def unfinished(self) -> bool:
        """Whether it is certainly being written."""
        return self.torn or self.writer is True

    @property
    def version(self) -> Version:
        """The version, marked where it is unfinished: the same bytes are another one once their writer is gone."""
        return (*self.content, "unfinished") if self.unfinished else self.content


def read_file(path: Path) -> Reading:
    """Read a regular file of at most `MAX_BYTES`; blocks as its file system does, never raises for what is wrong."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        return _refused(path, error)
    try:
        return _read_open(path, descriptor)
    except OSError as error:
        return _refused(path, error)
    finally:
        os.close(descriptor)


def _read_open(path: Path, descriptor: int) -> Reading:
    before = os.fstat(descriptor)
    if not stat.S_ISREG(before.st_mode):
        return _wrong(path, before, "is not a regular file")
    if before.st_size > MAX_BYTES:
        return _wrong(path, before, f"is larger than {MAX_BYTES} bytes")
    with _leased(descriptor) as writer, open(descriptor, "rb", closefd=False) as file:
        raw = content_of(file, MAX_BYTES + 1)
        after = os.fstat(descriptor)
    torn = _identity(before) != _identity(after) or len(raw) != after.st_size or _replaced(path, after)
    folder = os.stat(Path(os.path.realpath(path)).parent)
    entered_last = folder.st_mtime_ns >= after.st_mtime_ns
    return Reading(_identity(after), _changed_at(after), raw, torn=torn, writer=writer, entered_last=entered_last)


@contextmanager
def _leased(descriptor: int) -> Generator[bool | None]:
    """Hold a read lease (fcntl(2)): False where it was granted: no process has the file open for writing, or will.

    True where a process has, None where the system does not tell: the file is another user's and we lack CAP_LEASE,
    or the file system is none that knows. A process that opens it for writing meanwhile waits until the end, and the
    kernel sends us a signal, SIGIO by default: that kills. So it is one that nothing heeds.
    """
    granted, writer = False, None
    if mount_of(descriptor).local:
        try:
            fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            granted, writer = True, False
        except BlockingIOError:
            writer = True
        except OSError:
            pass
    try:
        yield writer
    finally:
        if granted:
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def _replaced(path: Path, read: os.stat_result) -> bool:
    now = path.stat()
    return (now.st_dev, now.st_ino) != (read.st_dev, read.st_ino)


def _identity(status: os.stat_result) -> Version:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode


def _changed_at(status: os.stat_result) -> float:
    # the change time cannot be set back, the modification time can (cp -p, rsync, touch -d)
    return max(status.st_mtime, status.st_ctime)


def _wrong(path: Path, status: os.stat_result, message: str) -> Reading:
    return Reading(_identity(status), _changed_at(status), problem=Problem("", message, file=path.name))


def _refused(path: Path, error: OSError) -> Reading:
    if isinstance(error, NOT_THERE):
        problem = Problem("", f"{path} does not exist", file=path.name)
        return Reading((), problem=problem, absent=True)
    if not isinstance(error, PermissionError):
        return Reading((), problem=Problem("", f"cannot be read: {error.strerror}", file=path.name))
    try:
        status = path.stat()
    except OSError:
        message = f"permission denied to uid {os.geteuid()} by a folder above {path}"
        return Reading((), problem=Problem("", message, file=path.name))
    mode, owner = stat.S_IMODE(status.st_mode), status.st_uid
    problem = Problem(
        "",
        f"permission denied: uid {os.geteuid()} may not read {path} (mode {mode:04o}, owner uid {owner})",
        file=path.name,
        hint="the running configuration stays in force",
    )
    return Reading((*_identity(status), mode, owner), _changed_at(status), problem=problem)
