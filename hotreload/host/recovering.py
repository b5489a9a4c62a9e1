"""The search for missing work in the life of one process: after READY, after a change of its setting, on demand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from hotreload.config.masking import mask_text
from hotreload.recovery.coordinator import RecoveryCoordinator, Search, SearchTicket
from hotreload.recovery.findings import Wanted
from hotreload.reload.report import Outcome, ReloadReport

PER_S: Final = 5_000.0
"""Entries a second that a search in the background looks at, at most."""
FIELD: Final = "hotreload.recovery"


class Recovering:
    """Carries the searches of one process; with no `search` it does nothing. `mode` is `hotreload.recovery`."""

    def __init__(self, search: Search | None, mode: Callable[[], str], scrub: Callable[[str], str] = mask_text) -> None:
        self.searches = None if search is None else RecoveryCoordinator(search, scrub)
        self._mode = mode
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
        """Serve searches until cancelled."""
        if self.searches is not None:
            await self.searches.run()

    async def after_start(self) -> None:
        """Look for what is missing as the setting says, and return when that has ended."""
        self._look()
        if self._background is not None:
            await self._background.wait()

    def heard(self, report: ReloadReport) -> None:
        """Follow a reload that changed the setting: begin a search in the background, or end the one that runs."""
        if report.outcome is Outcome.APPLIED and self._seen not in (None, self._mode()):
            self._look()

    def stop(self) -> None:
        """End the searches: the process drains."""
        if self.searches is not None:
            self.searches.stop("the service is draining")

    def _look(self) -> None:
        if self.searches is None:
            return
        if self._background is not None and not self._background.findings.ended:
            self.searches.cancel(f"{FIELD} was changed", self._background)
        self._background, self._seen = None, self._mode()
        if self._seen != "off":
            wanted = Wanted(repair=self._seen == "repair", per_s=PER_S)
            self._background = self.searches.submit(wanted)
