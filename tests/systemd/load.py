"""The clients of a box, as a test meets them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from subprocess import Popen

from tests.systemd.box import Box

APP = "/opt/hotreload/app"
PYTHON = "/opt/hotreload/bin/python"


@dataclass(frozen=True)
class Load:
    """Clients that ask all the time."""

    _process: Popen[str]

    def round(self) -> dict[str, int]:
        """Return what was counted so far, once each client was answered again."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@contextmanager
def load(box: Box, port: int, path: str, *, pause_s: float = 0.05, answers: int = 5, each: int = 16) -> Iterator[Load]:
    """Have `each` clients ask on new connections, as many on kept ones, and one that thinks for a second in between."""
    process = box.start(PYTHON, f"{APP}/clients.py", *map(str, (port, path, pause_s, answers, each)))
    try:
        yield Load(process)
        process.communicate("", timeout=60)
    finally:
        process.kill()
        process.wait()
