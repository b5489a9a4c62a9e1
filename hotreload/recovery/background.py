"""The search for missing work in the life of one process: after READY, every so often, on demand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import anyio

from hotreload.config.secrets import mask_text
from hotreload.recovery.coordinator import RecoveryCoordinator, Search, SearchTicket
from hotreload.recovery.findings import Wanted

TICK_S: Final = 1.0
PER_S: Final = 5_000.0
"""Entries a second that a search in the background looks at, at most."""
FIELD: Final = "hotreload.recovery"


class BackgroundRecovery:
    """Carries the searches of one process; with no `search` it does nothing. `mode` is `hotreload.recovery`."""

    def __init__(
        self,
        search: Search | None,
        mode: Callable[[], str],
        scrub: Callable[[str], str] = mask_text,
        *,
        every_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.searches = None if search is None else RecoveryCoordinator(search, scrub)
        self._mode = mode
        self._every_s = every_s
        self._looked_at: float | None = None
        self._background: SearchTicket | None = None
        self._seen: str | None = None

    @property
    def reports(self) -> Sequence[dict[str, Any]]:
        """The figures of the last searches, newest first."""
        return () if self.searches is None else self.searches.reports

    @property
    def line(self) -> str | None:
        """The search that runs, in one line; None while none does."""
        return None if self.searches is None else self.searches.line

    async def run(self) -> None:
        """Serve searches until cancelled, and begin one every `hotreload.recovery_every_s` after the first."""
        if self.searches is None:
            return
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.searches.run)
            while True:
                await anyio.sleep(TICK_S)
                if self._is_due():
                    self._look()

    def again(self) -> None:
        """Look once more, as what kept work from being made is mended; where one looks already, it goes on."""
        if self._looked_at is not None and not self._is_looking:
            self._look()

    @property
    def _is_looking(self) -> bool:
        return self._background is not None and not self._background.findings.ended

    def _is_due(self) -> bool:
        every_s = self._every_s()
        if self._looked_at is None or not every_s or self._is_looking:
            return False
        return anyio.current_time() - self._looked_at >= every_s

    async def after_start(self) -> None:
        """Look for what is missing as the setting says, and return when that has ended."""
        self._look()
        if self._background is not None:
            await self._background.wait()

    def reloaded(self) -> None:
        """Follow a change of the setting: begin a search in the background, or end the one that runs."""
        if self._seen not in (None, self._mode()):
            self._look()

    def stop(self) -> None:
        """End the searches: the process drains."""
        if self.searches is not None:
            self.searches.stop("the service is draining")

    def _look(self) -> None:
        if self.searches is None:
            return
        self._looked_at = anyio.current_time()
        if self._is_looking and self._background is not None:
            self.searches.cancel(f"{FIELD} was changed", self._background)
        self._background, self._seen = None, self._mode()
        if self._seen != "off":
            wanted = Wanted(repair=self._seen == "repair", per_s=PER_S)
            self._background = self.searches.submit(wanted)
