"""Find the L0, L1, vectors and file summaries that OpenViking should have and has not, and have its reindex make them.

Its tree says what there is, its queues what it is at; a folder counts as missing only if no queue is about it
before and after the look. Tasks that nothing works on are ended before that: OpenViking refuses to reindex a folder
that it believes to be at. Each folder is reindexed by itself, so that the model is called for what is missing only.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final

import anyio

from hotreload.errors import SearchRefused
from hotreload.openviking import messages, zombies
from hotreload.openviking.accounts import accounts, acting, service
from hotreload.openviking.making import AGAIN_FIRST_S, LOCKED_S, Fault, Remaking, is_worked_on, still
from hotreload.openviking.messages import PendingWork
from hotreload.openviking.tree import SIDECARS, Part, Tree
from hotreload.recovery.findings import Findings, Making, Wanted
from hotreload.recovery.scan import Pace

log = logging.getLogger(__name__)
KEPT: Final = 20
FOLLOW_S: Final = 2.0
LOOKS: Final = 8
"""Folders looked at at once."""


class TreeSearch:
    """Looks through every account of the running OpenViking. Meets `recovery.coordinator.Search`.

    `look` tells what the queues are about; what was queued is followed every `follow_s`.
    """

    def __init__(
        self,
        started_at_s: float,
        *,
        locked_s: float = LOCKED_S,
        again_s: float = AGAIN_FIRST_S,
        follow_s: float = FOLLOW_S,
        look: Callable[[], Awaitable[PendingWork]] = messages.look,
    ) -> None:
        self._started_at_s = started_at_s
        self._again_s = again_s
        self._locked_s = locked_s
        self._follow_s = follow_s
        self._pending = look
        self._works: deque[Remaking] = deque(maxlen=KEPT)

    async def search(self, wanted: Wanted, findings: Findings) -> None:
        """Look at every folder once; with `repair` end tasks nothing works on and have what is missing made.

        SearchRefused where no account has the folder asked for.
        """
        places = await _places(wanted)
        look = _Look(wanted, findings)
        before = await self._pending()
        faults = [fault for account in places for fault in await look.through(account)]
        after = await self._pending()
        busy = [fault for fault in faults if any(is_worked_on(fault, work) for work in (before, after))]
        findings.already_queued = len(busy)
        free = [fault for fault in faults if fault not in busy and await still(fault)]
        for fault in free:
            findings.miss(fault.uri, fault.reason)
        dead = await zombies.find(places, before, after, self._started_at_s, findings)
        if wanted.repair:
            await zombies.settle(dead, findings)
            work = self._remaking(findings, busy)
            self._works.append(work)
            await work.queue(free, findings)

    def _remaking(self, findings: Findings, busy: Sequence[Fault] = ()) -> Remaking:
        return Remaking(findings.id, self._locked_s, busy=busy, again_s=self._again_s, look=self._pending)

    async def follow(self) -> None:
        """Look after what searches queued, until cancelled: what failed is queued again whether anybody asks or not."""
        while True:
            await anyio.sleep(self._follow_s)
            for work in list(self._works):
                await work.progress()
                await work.try_again()

    def given_up(self) -> dict[str, str]:
        """Return what could not be made and waits to be tried again, by URI, with the error."""
        return {uri: error for work in self._works for uri, error in work.given_up.items()}

    async def making(self, findings: Findings) -> Making:
        """Return how far OpenViking is with what a search asked it for."""
        work = next((work for work in self._works if work.search_id == findings.id), None)
        return await (work or self._remaking(findings)).progress()


class _Look:
    """One search's look through the trees, at one pace over all of them, bodies counted as well."""

    def __init__(self, wanted: Wanted, findings: Findings) -> None:
        self._wanted = wanted
        self._findings = findings
        self._pace = Pace(wanted.per_s)
        self._looked = 0

    async def through(self, account: str) -> list[Fault]:
        """Return the folders and files of one account that lack something."""
        tree = Tree(service().viking_fs, acting(account))
        faults: list[Fault] = []
        await self._count(0)
        async for part in tree.read(self._wanted.uri, self._findings.pass_over):
            self._findings.scanned += len(part.entries)
            await self._count(len(part.entries))
            uris = [uri for uri in part.suspicious if self._wanted.covers(uri)]
            reasons = await self._reasons(tree, uris)
            faults += [Fault(account, uri, reason) for uri in uris if (reason := reasons.get(uri)) is not None]
            if part.entries:
                faults += await self._unindexed(tree, account, part)
        first = {fault.uri: fault for fault in reversed(faults)}
        return list(first.values())

    async def _unindexed(self, tree: Tree, account: str, part: Part) -> list[Fault]:
        """Return what of a part the index lacks."""
        files = {str(entry["uri"]) for entry in part.entries if not entry.get("isDir")}
        try:
            lacking = await tree.lacking(part.root, part.entries)
        except Exception as error:  # noqa: BLE001 - an index that cannot be asked is reported, never fatal
            self._findings.pass_over(part.root, f"{type(error).__name__}: {error}")
            return []
        wanted = [(uri, reason) for uri, reason in lacking.items() if self._wanted.covers(uri)]
        return [Fault(account, uri, reason, file=uri in files) for uri, reason in wanted]

    async def _reasons(self, tree: Tree, uris: Sequence[str]) -> dict[str, str | None]:
        """Look at folders, several at a time."""
        found: dict[str, str | None] = {}

        async def look(some: Iterator[str]) -> None:
            for uri in some:
                await self._count(len(SIDECARS))
                found[uri] = await self._fault(tree, uri)

        waiting = iter(uris)
        async with anyio.create_task_group() as tasks:
            for _ in range(LOOKS):
                tasks.start_soon(look, waiting)
        return found

    async def _fault(self, tree: Tree, uri: str) -> str | None:
        try:
            return await tree.fault(uri)
        except Exception as error:  # noqa: BLE001 - a folder that cannot be read is reported, never fatal
            self._findings.pass_over(uri, f"{type(error).__name__}: {error}")
            return None

    async def _count(self, looked: int) -> None:
        self._looked += looked
        await self._pace.keep(self._looked)


async def _places(wanted: Wanted) -> list[str]:
    """Return the accounts to look through: the one asked for, and only those that have the folder asked for."""
    every = await accounts()
    places = [account for account in every if wanted.account in (None, account)]
    if not places and wanted.account is not None:
        raise SearchRefused(f"no such account: {wanted.account}")
    if wanted.uri is not None:
        uri = wanted.uri
        places = [account for account in places if await Tree(service().viking_fs, acting(account)).has(uri)]
        if not places:
            raise SearchRefused(f"no such folder: {uri}")
    return places
