"""Whether the store can be written now; told when that changes, not at each call that fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from hotreload.errors import StoreUnavailable

log = logging.getLogger(__name__)
PROBE_S: Final = 1.0


class Health:
    """Set by the writer's thread, read by any. While there is trouble the writer tries by itself when it is `due`."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._since = self._tried = 0.0
        self.trouble: str | None = None
        """Why the last write failed, None where it did not."""

    def failed(self, error: BaseException) -> None:
        """Note what a write failed with; an error that is the caller's own says nothing of the store."""
        self._tried = self._monotonic()
        if not isinstance(error, StoreUnavailable):
            return
        if self.trouble is None:
            self._since = self._tried
            log.error("store.unavailable error=%s", error)
        self.trouble = str(error)

    def worked(self) -> None:
        """Note that something was written and is on the disk."""
        if self.trouble is not None:
            self.trouble = None
            log.warning("store.available after_s=%.1f", self._monotonic() - self._since)

    def wait_s(self) -> float | None:
        """Return how long the writer may wait until it tries by itself, None where it need not."""
        return None if self.trouble is None else max(0.0, self._tried + PROBE_S - self._monotonic())
