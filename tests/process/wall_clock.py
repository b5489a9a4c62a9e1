"""A wall clock of a process's own, which a test sets while the process runs; its monotonic clock is the machine's."""

from __future__ import annotations

from pathlib import Path


class WallClock:
    """Shown by Debian's libfaketime to each process with `environment`, from the state of `file` within a second."""

    def __init__(self, file: Path) -> None:
        library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
        assert library is not None, "no libfaketime: install Debian's faketime"
        self._file = file
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.set(0)

    def set(self, ahead_s: int) -> None:
        """Put it so far ahead of the machine's, or behind it."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead_s:+d}\n")
        new.rename(self._file)
