"""The last applied file, kept byte for byte, so that a start on a broken one has something to run on."""

from __future__ import annotations

import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)
NAME = "last-known-good.json"


class LastKnownGood:
    """A copy in the state folder: atomic (temporary file, fsync, rename, fsync of the folder), mode 0600."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / NAME

    def keep(self, raw: bytes) -> None:
        """Replace the copy; killed half-way the old one stays whole. A failure is logged: it must not stop a reload."""
        try:
            if self.read() != raw:
                self._write(raw)
        except OSError as error:
            log.error("last_known_good.not_kept path=%s error=%s", self.path, error)

    def _write(self, raw: bytes) -> None:
        temporary = self.path.with_name(f".{NAME}.new")  # one process owns the folder: what a killed one left goes
        temporary.unlink(missing_ok=True)
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.path)
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def read(self) -> bytes | None:
        """Return the copy, None without one."""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return None
