"""The last applied file, kept byte for byte, so that a start on a broken one has something to run on."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

log = logging.getLogger(__name__)
NAME = "last-known-good.json"


class LastKnownGood:
    """A copy in the state folder: atomic (temporary file, fsync, rename, fsync of the folder), mode 0600.

    It is never more readable than `original`, where that is given.
    """

    def __init__(self, state_dir: Path, original: Path | None = None) -> None:
        self.path = state_dir / NAME
        self._original = original

    def keep(self, raw: bytes) -> None:
        """Replace the copy; killed half-way the old one stays whole. A failure is logged: it must not stop a reload."""
        try:
            mode = self._mode()
            if not self._is_kept(raw, mode):
                self._write(raw, mode)
        except OSError as error:
            log.error("last_known_good.not_kept path=%s error=%s", self.path, error)

    def read(self) -> bytes:
        """Return the copy; OSError where it cannot be read, FileNotFoundError without one."""
        return self.path.read_bytes()

    def _mode(self) -> int:
        if self._original is None:
            return 0o600
        try:
            return stat.S_IMODE(self._original.stat().st_mode) & 0o600 | 0o400
        except FileNotFoundError:
            return 0o600

    def _is_kept(self, raw: bytes, mode: int) -> bool:
        """Tell whether the copy is this one already, is our own file and no more readable than it may be."""
        try:
            kept = self.path.lstat()
            ours = stat.S_ISREG(kept.st_mode) and kept.st_uid == os.geteuid()
            return ours and not stat.S_IMODE(kept.st_mode) & ~mode and self.read() == raw
        except (FileNotFoundError, PermissionError):
            return False

    def _write(self, raw: bytes, mode: int) -> None:
        temporary = self.path.with_name(f".{NAME}.new")  # one process owns the folder: what a killed one left goes
        temporary.unlink(missing_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(temporary, self.path)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
