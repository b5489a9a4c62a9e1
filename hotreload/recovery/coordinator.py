"""Searches for missing work, one at a time: the one after the start, and those that are asked for.

request → scan → compare with the queue → queue → report
"""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import anyio

from hotreload.config.secrets import mask_text
from hotreload.errors import SearchRefused
from hotreload.recovery.findings import Findings, Making, Wanted

log = logging.getLogger(__name__)
KEPT: Final = 20
WAITING: Final = 16


class Search(Protocol):
    """Who knows what should exist, and has it made."""

    async def search(self, wanted: Wanted, findings: Findings) -> None:
        """Look at everything once, keeping `findings` up to date; may be cancelled at any point.

        SearchRefused where what is wanted does not exist.
        """
        ...

    async def making(self, findings: Findings) -> Making:
        """Return how far the work is that a search found."""
        ...


class SearchTicket:
    """A search that was asked for."""

    def __init__(self, wanted: Wanted, scrub: Callable[[str], str] = mask_text) -> None:
        self.findings = Findings(uuid.uuid4().hex, wanted, scrub)
        self._ended = anyio.Event()

    def end(self, error: str | None) -> None:
        """Wake those who wait; `findings` are complete."""
        self.findings.end(error)
        self._ended.set()

    async def wait(self) -> Findings:
        """Return what was found once the search has ended; cancelled, the search goes on."""
        await self._ended.wait()
        return self.findings


class RecoveryCoordinator:
    """Runs searches in the order they are asked for; the reports of the last twenty are kept.

    What a search that fails says goes through `scrub` before anybody reads it.
    """

    def __init__(self, search: Search, scrub: Callable[[str], str] = mask_text) -> None:
        self._search = search
        self._scrub = scrub
        self._waiting: deque[SearchTicket] = deque()
        self._tickets: deque[SearchTicket] = deque(maxlen=KEPT)
        self._asked = anyio.Event()
        self._running: tuple[SearchTicket, anyio.CancelScope] | None = None
        self._stopped: str | None = None

    @property
    def reports(self) -> Sequence[dict[str, Any]]:
        """The figures of the last searches, newest first."""
        return [ticket.findings.summary() for ticket in reversed(self._tickets)]

    @property
    def busy(self) -> bool:
        """True while a search runs or waits."""
        return self._running is not None or bool(self._waiting)

    @property
    def full(self) -> bool:
        """True while so many searches wait that no further one should."""
        return len(self._waiting) >= WAITING

    @property
    def line(self) -> str | None:
        """The search that runs, in one line; None while none does."""
        return f"recovery: {self._running[0].findings.line()}" if self._running else None

    def submit(self, wanted: Wanted) -> SearchTicket:
        """Ask for a search; never waits. After `stop` it ends at once."""
        ticket = SearchTicket(wanted, self._scrub)
        self._tickets.append(ticket)
        if self._stopped is not None:
            ticket.end(self._stopped)
        else:
            self._waiting.append(ticket)
            self._asked.set()
        return ticket

    def find(self, search_id: str) -> SearchTicket | None:
        """Return one of the last searches."""
        return next((ticket for ticket in self._tickets if ticket.findings.id == search_id), None)

    async def making(self, ticket: SearchTicket) -> Making:
        """Return how far the work is that a search found."""
        return await self._search.making(ticket.findings)

    def cancel(self, reason: str, ticket: SearchTicket | None = None) -> None:
        """End one search, or all there are; what they queued stays queued."""
        for each in [each for each in self._waiting if ticket in (None, each)]:
            self._waiting.remove(each)
            each.end(reason)
        if self._running is not None and ticket in (None, self._running[0]):
            self._running[0].findings.error = reason
            self._running[1].cancel()

    def stop(self, reason: str) -> None:
        """End all searches and begin none any more."""
        self._stopped = reason
        self.cancel(reason)

    async def run(self) -> None:
        """Serve requests until cancelled."""
        while True:
            while self._waiting:
                await self._one(self._waiting.popleft())
            self._asked = anyio.Event()
            await self._asked.wait()

    async def _one(self, ticket: SearchTicket) -> None:
        findings = ticket.findings
        log.info("recovery.began id=%s uri=%s repair=%s", findings.id, findings.wanted.uri, findings.wanted.repair)
        try:
            with anyio.CancelScope() as scope:
                self._running = (ticket, scope)
                await self._search.search(findings.wanted, findings)
        except SearchRefused as error:
            findings.unknown, findings.error = True, str(error)
        except Exception as error:
            log.exception("recovery.failed id=%s", findings.id)
            findings.error = f"the search failed: {error!r}"
        finally:
            self._running = None
            findings.error = findings.error and self._scrub(findings.error)
            ticket.end(findings.error)
            log.info("recovery.ended id=%s %s error=%s", findings.id, findings.line(), findings.error)
