"""What is remembered beyond this process: the last reloads, the last drain."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio

from hotreload.drain.report import DrainReport
from hotreload.queue.contract import Put
from hotreload.queue.engines import Store
from hotreload.reload.report import ReloadReport

log = logging.getLogger(__name__)
RELOADS, DRAINS = "reload", "drain"
KEPT_DRAINS = 20
WRITE_S = 5.0


class Records:
    """Reload reports are readable at once and written behind, in order; a drain report is written by the flush.

    Without a store they last as long as the process.
    """

    def __init__(self, store: Store | None, *, keep: Callable[[], int]) -> None:
        self._store = store
        self._keep = keep
        reloads = store.documents(RELOADS, keep()) if store is not None else ()
        drains = store.documents(DRAINS, 1) if store is not None else ()
        self._reloads: deque[dict[str, Any]] = deque(kept.body for kept in reloads)
        self._last_drain: dict[str, Any] | None = next((kept.body for kept in drains), None)
        self._behind = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hotreload-records")
        self._closed = False

    @property
    def reloads(self) -> list[dict[str, Any]]:
        """The reports kept, newest first, those of earlier processes included."""
        return list(self._reloads)

    @property
    def last_reload(self) -> dict[str, Any] | None:
        """The newest report kept, of this process or of an earlier one."""
        return self._reloads[0] if self._reloads else None

    @property
    def last_drain(self) -> dict[str, Any] | None:
        """The report of the last drain there was, of an earlier process or of this one."""
        return self._last_drain

    def keep_reload(self, report: ReloadReport) -> None:
        """Remember a report; never waits. A disk that refuses it is logged, the verdict stands."""
        document, keep = report.to_dict(), self._keep()
        self._reloads.appendleft(document)
        while len(self._reloads) > keep:
            self._reloads.pop()
        store = self._store
        if store is not None:
            self.write_behind(
                lambda: store.put_document_sync(RELOADS, report.id, document, keep=keep, timeout_s=WRITE_S)
            )

    def drained(self, report: DrainReport) -> Put:
        """Return a drain's report as the document to keep; called in the store's thread."""
        self._last_drain = report.to_dict()
        return drained(report)

    def write_behind(self, write: Callable[[], None]) -> None:
        """Do `write` after those asked for before, off the loop; nothing once `close` has been called."""
        if self._closed:
            log.warning("records.not_kept: the process is about to end")
        else:
            self._behind.submit(_logged, write)

    async def close(self) -> None:
        """Finish what was written behind. What is asked for later, by a hangup in the last moments, is not kept."""
        self._closed = True
        await anyio.to_thread.run_sync(self._behind.shutdown)


def drained(report: DrainReport) -> Put:
    """Return a drain's report as the document to keep."""
    return Put(DRAINS, report.id, json.dumps(report.to_dict()), KEPT_DRAINS)


def _logged(write: Callable[[], None]) -> None:
    try:
        write()
    except Exception:
        log.exception("records.not_kept")
