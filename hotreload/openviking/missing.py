"""Find the L0 and L1 that OpenViking should have and has not, and have its own reindex make them.

Its tree says what there is, its queues what it is at; a folder counts as missing only if no queue is about it
before and after the look. Each folder is reindexed by itself, so that the model is called for what is missing only.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import anyio

from hotreload.openviking import in_hand
from hotreload.openviking.tree import Tree
from hotreload.openviking.zombies import settle
from hotreload.recovery.findings import Findings, Making, Wanted
from hotreload.recovery.scan import Pace

log = logging.getLogger(__name__)
MODE: Final = "semantic_and_vectors"
LOCKED_S: Final = 60.0
"""How long a folder that somebody holds a lock on is tried again."""
RETRY_S: Final = 0.5
KEPT: Final = 20
LOOKS: Final = 8
"""Folders looked at at once."""
TAKEN: Final = frozenset({"CONFLICT", "RESOURCE_LOCKED", "LOCKED", "ABORTED", "UNAVAILABLE", "RESOURCE_BUSY"})


@dataclass(slots=True)
class Queued:
    """Folders that OpenViking was asked to reindex: their task, and what came of it once it ended."""

    account: str
    task_id: str
    uri: str
    error: str | None = None
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """A folder that lacks something."""

    account: str
    uri: str
    reason: str


@dataclass(slots=True)
class _Work:
    search_id: str
    queued: list[Queued] = field(default_factory=list[Queued])


class TreeSearch:
    """Looks through every account of the running OpenViking. Meets `recovery.coordinator.Search`."""

    def __init__(self, started_at_s: float) -> None:
        self._started_at_s = started_at_s
        self._works: deque[_Work] = deque(maxlen=KEPT)

    async def search(self, wanted: Wanted, findings: Findings) -> None:
        """Look at every folder once; with `repair` have what is missing made, and settle tasks nobody works on."""
        before = await in_hand.look()
        faults: list[Fault] = []
        accounts = [account for account in await _accounts() if wanted.account in (None, account)]
        for account in accounts:
            faults += await self._look_through(account, wanted, findings)
        after = await in_hand.look()
        free = [f for f in faults if not before.holds(f.account, f.uri) and not after.holds(f.account, f.uri)]
        findings.in_hand = len(faults) - len(free)
        free = [fault for fault in free if await self._still(fault)]
        for fault in free:
            findings.miss(fault.uri, fault.reason)
        if wanted.repair:
            await self._repair(free, findings)
            await settle(accounts, before, after, self._started_at_s)

    async def making(self, findings: Findings) -> Making:
        """Return how far OpenViking is with what a search asked it for."""
        work = next((work for work in self._works if work.search_id == findings.id), _Work(findings.id))
        queued = work.queued
        for each in queued:
            if not each.ended:
                await _follow(each)
        failed = {each.uri: each.error for each in queued if each.error is not None}
        left = sum(not each.ended for each in queued)
        return Making(left, len(queued) - left - len(failed), failed)

    async def _look_through(self, account: str, wanted: Wanted, findings: Findings) -> list[Fault]:
        tree = Tree(_service().viking_fs, _context(account))
        pace = Pace(wanted.per_s)

        def seen(entries: int) -> None:
            findings.scanned += entries

        async for _ in tree.read(seen, findings.pass_over):
            await pace.keep(findings.scanned)
        uris = [uri for uri in tree.suspicious() if wanted.covers(uri)]
        reasons = await _faults(tree, uris, findings)
        return [Fault(account, uri, reason) for uri in uris if (reason := reasons.get(uri)) is not None]

    async def _still(self, fault: Fault) -> bool:
        """Look again: work that was in hand when the tree was read may have ended before the queues were."""
        tree = Tree(_service().viking_fs, _context(fault.account))
        return await _fault(tree, fault.uri, None) is not None

    async def _repair(self, faults: list[Fault], findings: Findings) -> None:
        """Queue the deepest folders first; those that are locked again and again for a minute."""
        work = _Work(findings.id)
        self._works.append(work)
        waiting = sorted(faults, key=lambda fault: -fault.uri.count("/"))
        ends = anyio.current_time() + LOCKED_S
        while waiting:
            locked: list[Fault] = []
            for fault in waiting:
                try:
                    work.queued.append(await _reindex(fault))
                    findings.queued += 1
                except Exception as error:  # noqa: BLE001 - a folder that cannot be queued keeps no other from it
                    if _taken(error) and anyio.current_time() < ends:
                        locked.append(fault)
                    else:
                        findings.pass_over(fault.uri, f"not queued: {error}")
            waiting = locked
            if waiting:
                await anyio.sleep(RETRY_S)


async def _faults(tree: Tree, uris: Sequence[str], findings: Findings) -> dict[str, str | None]:
    """Look at folders, several at a time."""
    found: dict[str, str | None] = {}

    async def look(some: Iterator[str]) -> None:
        for uri in some:
            found[uri] = await _fault(tree, uri, findings)

    waiting = iter(uris)
    async with anyio.create_task_group() as tasks:
        for _ in range(LOOKS):
            tasks.start_soon(look, waiting)
    return found


async def _fault(tree: Tree, uri: str, findings: Findings | None) -> str | None:
    try:
        return await tree.fault(uri)
    except Exception as error:  # noqa: BLE001 - a folder that cannot be read is reported, never fatal
        if findings is not None:
            findings.pass_over(uri, f"{type(error).__name__}: {error}")
        return None


async def _reindex(fault: Fault) -> Queued:
    made: Mapping[str, Any] = await _service().reindex(
        uri=fault.uri, mode=MODE, wait=False, recursive=False, ctx=_context(fault.account, fault.uri)
    )
    return Queued(fault.account, str(made["task_id"]), fault.uri)


async def _follow(queued: Queued) -> None:
    """Ask for the task; when it says it is done, look whether it is true: it may have left a placeholder."""
    from openviking.service.task_tracker import get_task_tracker

    context = _context(queued.account, queued.uri)
    task: Any = await get_task_tracker().get(
        queued.task_id, account_id=queued.account, user_id=str(context.user.user_id)
    )
    status = str(task.status.value) if task is not None else "completed"
    if status in ("pending", "running", "cancelling"):
        return
    queued.ended = True
    if status != "completed":
        queued.error = str(getattr(task, "error", None) or status)
        return
    try:
        left = await Tree(_service().viking_fs, context).fault(queued.uri)
    except Exception as error:  # noqa: BLE001 - told to whoever follows
        left = repr(error)
    queued.error = None if left is None else f"made, and still: {left}"


def _taken(error: Exception) -> bool:
    """Say whether somebody else is at a folder: a lock, or a reindex under way."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return "LockError" in kinds or str(getattr(error, "code", "")).upper() in TAKEN


def _service() -> Any:
    from openviking.server.dependencies import get_service

    return get_service()


async def _accounts() -> list[str]:
    """Return the accounts that have files."""
    agfs: Any = _service().viking_fs._async_agfs
    names = [str(entry["name"]) for entry in await agfs.ls("/local") if entry.get("isDir", entry.get("is_dir"))]
    return sorted(name for name in names if not name.startswith((".", "_")))


def _context(account: str, uri: str = "") -> Any:
    """Return who acts: root, in the name of the user whose files they are."""
    from openviking.server.identity import RequestContext, Role
    from openviking_cli.session.user_id import UserIdentifier

    parts = uri.removeprefix(in_hand.SCHEME).split("/")
    user = parts[1] if parts[0] == "user" and len(parts) > 1 else "default"
    root: Any = Role.ROOT
    return RequestContext(user=UserIdentifier(account, user), role=root, bypass_acl=True)
