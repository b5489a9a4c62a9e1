"""Find the L0 and L1 that OpenViking should have and has not, and have its own reindex make them.

Its tree says what there is, its queues what it is at; a folder counts as missing only if no queue is about it
before and after the look. Tasks that nobody works on are ended before that: OpenViking refuses to reindex a folder
that it believes to be at. Each folder is reindexed by itself, so that the model is called for what is missing only.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final

import anyio

from hotreload.errors import SearchRefused
from hotreload.openviking import in_hand, zombies
from hotreload.openviking.accounts import accounts, acting, service
from hotreload.openviking.making import LOCKED_S, Fault, Remaking
from hotreload.openviking.tree import SIDECARS, Tree
from hotreload.recovery.findings import Findings, Making, Wanted
from hotreload.recovery.scan import Pace

log = logging.getLogger(__name__)
KEPT: Final = 20
FOLLOW_S: Final = 2.0
LOOKS: Final = 8
"""Folders looked at at once."""


class TreeSearch:
    """Looks through every account of the running OpenViking. Meets `recovery.coordinator.Search`."""

    def __init__(self, started_at_s: float, *, locked_s: float = LOCKED_S) -> None:
        self._started_at_s = started_at_s
        self._locked_s = locked_s
        self._works: deque[Remaking] = deque(maxlen=KEPT)

    async def search(self, wanted: Wanted, findings: Findings) -> None:
        """Look at every folder once; with `repair` end tasks nobody works on and have what is missing made.

        SearchRefused where no account has the folder asked for.
        """
        places = await _places(wanted)
        look = _Look(wanted, findings)
        before = await in_hand.look()
        faults = [fault for account in places for fault in await look.through(account)]
        after = await in_hand.look()
        free = [f for f in faults if not before.holds(f.account, f.uri) and not after.holds(f.account, f.uri)]
        findings.in_hand = len(faults) - len(free)
        free = [fault for fault in free if await _still(fault)]
        for fault in free:
            findings.miss(fault.uri, fault.reason)
        dead = await zombies.find(places, before, after, self._started_at_s, findings)
        if wanted.repair:
            await zombies.settle(dead, findings)
            work = Remaking(findings.id, self._locked_s)
            self._works.append(work)
            await work.queue(free, findings)

    async def follow(self) -> None:
        """Look after what searches queued, until cancelled: what failed is queued again whether anybody asks or not."""
        while True:
            await anyio.sleep(FOLLOW_S)
            for work in list(self._works):
                await work.progress()

    async def making(self, findings: Findings) -> Making:
        """Return how far OpenViking is with what a search asked it for."""
        work = next((work for work in self._works if work.search_id == findings.id), None)
        return await (work or Remaking(findings.id)).progress()


class _Look:
    """One search's look through the trees, at one pace over all of them, bodies counted as well."""

    def __init__(self, wanted: Wanted, findings: Findings) -> None:
        self._wanted = wanted
        self._findings = findings
        self._pace = Pace(wanted.per_s)
        self._looked = 0

    async def through(self, account: str) -> list[Fault]:
        """Return the folders of one account that lack something."""
        tree = Tree(service().viking_fs, acting(account))
        faults: list[Fault] = []
        await self._count(0)
        async for part in tree.read(self._wanted.uri, self._findings.pass_over):
            self._findings.scanned += part.entries
            await self._count(part.entries)
            uris = [uri for uri in part.suspicious if self._wanted.covers(uri)]
            reasons = await self._reasons(tree, uris)
            faults += [Fault(account, uri, reason) for uri in uris if (reason := reasons.get(uri)) is not None]
        return faults

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


async def _still(fault: Fault) -> bool:
    """Look again: work that was in hand when the tree was read may have ended before the queues were."""
    try:
        return await Tree(service().viking_fs, acting(fault.account)).fault(fault.uri) is not None
    except Exception as error:  # noqa: BLE001 - it could be read a moment ago, and is gone or damaged now
        log.debug("recovery.unreadable_now uri=%s error=%r", fault.uri, error)
        return False
