"""The last applied file, kept byte for byte, so that a start on a broken one has something to run on."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)
NAME = "last-known-good.json"


class LastKnownGood:
    """A copy in the state folder: atomic (temporary file, fsync, rename, fsync of the folder), mode 0600.

    It is never more readable than `original_mode` says that the file was when it was read (None: it does not know).
    The file itself is not looked at: its file system may not answer, and what else is written must not wait for it.
    """

    def __init__(self, state_dir: Path, original_mode: Callable[[], int | None] = lambda: None) -> None:
        self.path = state_dir / NAME
        self._original_mode = original_mode

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
        mode = self._original_mode()
        return 0o600 if mode is None else stat.S_IMODE(mode) & 0o600 | 0o400

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
