"""Stage 1: read the file, and tell "being written" from "broken".

One save is many events, and a writer may pause between them. A file that does not parse is therefore refused
only once it has been quiet for `settle_s`: the same file with the same content for so long by the monotonic
clock. The times in the inode are only a hint, that a file broken long ago is refused at once.
"""

from __future__ import annotations

import math
import os
import stat
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread

from hotreload.config.document import MAX_BYTES, Document, Duplicates, parse
from hotreload.errors import ConfigError, ConfigUnreadable, Problem

SETTLE_S: Final = 0.7
DEADLINE_S: Final = 5.0
CONFIRM_S: Final = 0.05
OLD_S: Final = 10.0
NOT_THERE: Final = (FileNotFoundError, NotADirectoryError)


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at the file: its bytes or why there are none, who it is, and when it last changed (wall clock, s).

    `torn` is true where the file changed while it was read.
    """

    identity: tuple[object, ...]
    changed_at: float | None = None
    raw: bytes | None = field(default=None, repr=False)
    problem: Problem | None = None
    absent: bool = False
    torn: bool = False

    @property
    def version(self) -> tuple[object, ...]:
        """What tells one version of the file from another, () for none: a stat alone misses a rewrite in one tick."""
        digest = None if self.raw is None else sha256(self.raw).digest()
        return () if self.absent else (*self.identity, digest, self.problem, self.torn)


Read = Callable[[Path], Awaitable[Reading]]


async def load(
    path: Path,
    *,
    duplicates: Duplicates = "error",
    absent_s: float = 0.0,
    twice: bool = True,
    settle_s: float = SETTLE_S,
    deadline_s: float = DEADLINE_S,
    read: Read | None = None,
    wall: Callable[[], float] = time.time,
) -> Document:
    """Return the document of a file that nobody is writing any more; nothing of it is taken for defaults.

    ConfigInvalid for a quiet file that is empty or no configuration; ConfigUnreadable for one that cannot be
    read, is no regular file, is absent for `absent_s`, or is still changing (or hanging) after `deadline_s`.
    With `twice` a file written this moment is looked at again; somebody who asks after writing needs no such wait.
    A cancellation leaves a reading thread behind at most. `read` and `wall` are seams for tests.
    """
    quiet = Quiet(settle_s, wall)
    looks = _Looks(path, duplicates, read or read_in_thread, deadline_s)
    began = since = anyio.current_time()
    absent = False
    while True:
        reading = await looks.take()
        outcome = looks.judge(reading)
        now = anyio.current_time()
        if reading.absent != absent:
            absent, since = reading.absent, now
        over = now - since >= (absent_s if absent else deadline_s) or now - began >= absent_s + deadline_s
        if isinstance(outcome, Document):
            if not quiet.is_fresh(reading, twice=twice) or (over and not reading.torn):
                return outcome
        elif over if absent else quiet.is_settled(reading):
            raise outcome
        if over:
            raise _never_quiet(path, deadline_s, outcome)
        await anyio.sleep(CONFIRM_S)


class Quiet:
    """Watches for how long the file has looked the same."""

    def __init__(self, settle_s: float, wall: Callable[[], float]) -> None:
        self._settle_s, self._wall = settle_s, wall
        self._last: tuple[object, ...] | None = None
        self._since = 0.0

    def is_settled(self, reading: Reading) -> bool:
        """Tell whether what is wrong with the file will stay so."""
        now = anyio.current_time()
        if reading.torn or self._key(reading) != self._last:
            self._last, self._since = self._key(reading), now
        return not reading.torn and (now - self._since >= self._settle_s or self._age(reading) >= OLD_S)

    def is_fresh(self, reading: Reading, *, twice: bool) -> bool:
        """Tell whether a file that parses changed under the read, or was written this moment and not yet seen twice."""
        seen, self._last = self._last, self._key(reading)
        return reading.torn or (twice and self._last != seen and 0 <= self._age(reading) < CONFIRM_S)

    def rests(self, reading: Reading, *, twice: bool) -> bool:
        """Tell whether a file that says nothing of its own end may be taken as it is."""
        if reading.absent:
            return True
        return not self.is_fresh(reading, twice=twice) if reading.raw else self.is_settled(reading)

    def _age(self, reading: Reading) -> float:
        return self._wall() - (math.inf if reading.changed_at is None else reading.changed_at)

    @staticmethod
    def _key(reading: Reading) -> tuple[object, ...]:
        digest = None if reading.raw is None else sha256(reading.raw).digest()
        return (*reading.identity, digest, reading.problem)


@dataclass(frozen=True, slots=True)
class _Looks:
    """How one file is read and judged."""

    path: Path
    duplicates: Duplicates
    read: Read
    limit_s: float

    async def take(self) -> Reading:
        with anyio.move_on_after(self.limit_s):
            return await self.read(self.path)
        problem = Problem("", f"reading it took longer than {self.limit_s:g} s", file=self.path.name)
        raise ConfigUnreadable([problem])

    def judge(self, reading: Reading) -> Document | ConfigError:
        if reading.raw is None:
            return ConfigUnreadable([reading.problem or Problem("", "cannot be read", file=self.path.name)])
        try:
            return parse(self.path, reading.raw, duplicates=self.duplicates)
        except ConfigError as error:
            return error


async def read_in_thread(path: Path) -> Reading:
    """Read in a thread that is left behind where the file system hangs."""
    return await anyio.to_thread.run_sync(read_file, path, abandon_on_cancel=True)


def read_file(path: Path) -> Reading:
    """Read a regular file of at most `MAX_BYTES`; never raises for what is wrong with it."""
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
    with open(descriptor, "rb", closefd=False) as file:
        raw = file.read(MAX_BYTES + 1)
    after = os.fstat(descriptor)
    torn = _identity(before) != _identity(after) or len(raw) != after.st_size or _replaced(path, after)
    return Reading(_identity(after), _changed_at(after), raw, torn=torn)


def _replaced(path: Path, read: os.stat_result) -> bool:
    now = path.stat()
    return (now.st_dev, now.st_ino) != (read.st_dev, read.st_ino)


def _identity(status: os.stat_result) -> tuple[object, ...]:
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


def _never_quiet(path: Path, deadline_s: float, outcome: Document | ConfigError) -> ConfigUnreadable:
    last = () if isinstance(outcome, Document) else outcome.problems
    problem = Problem(
        "", f"still being written after {deadline_s:g} s", file=path.name, hint="reload when it is complete"
    )
    return ConfigUnreadable([problem, *last])
