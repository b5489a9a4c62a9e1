"""Have OpenViking's own reindex make what is missing, each folder by itself, and follow its tasks to their end."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import anyio

from hotreload.openviking.accounts import acting, service
from hotreload.openviking.tree import Tree
from hotreload.recovery.findings import Findings, Making

log = logging.getLogger(__name__)
MODE: Final = "semantic_and_vectors"
LOCKED_S: Final = 60.0
"""How long a folder that somebody holds a lock on is tried again."""
RETRY_S: Final = 0.5
ATTEMPTS: Final = 3
"""How often a folder is queued: locks shared by event loops make OpenViking's own work fail now and then."""
BODIES: Final = frozenset({"placeholder", "empty"})
"""Faults of a body that is there: OpenViking may have it in its index as whole, and is told to make it all the same."""
TAKEN: Final = frozenset({"CONFLICT", "RESOURCE_LOCKED", "LOCKED", "ABORTED", "UNAVAILABLE", "RESOURCE_BUSY"})


@dataclass(frozen=True, slots=True)
class Fault:
    """A folder that lacks something."""

    account: str
    uri: str
    reason: str


@dataclass(slots=True)
class _Queued:
    """A folder that OpenViking was asked to reindex: its task, and what came of it once it ended."""

    fault: Fault
    task_id: str
    attempts: int = 1
    error: str | None = None
    ended: bool = False


class Remaking:
    """What one search asked OpenViking for."""

    def __init__(self, search_id: str, locked_s: float = LOCKED_S) -> None:
        self.search_id = search_id
        self._locked_s = locked_s
        self._queued: list[_Queued] = []
        self._refused: dict[str, str] = {}
        self._looking = anyio.Lock()

    async def queue(self, faults: Sequence[Fault], findings: Findings) -> None:
        """Queue the deepest folders first; those that are locked again and again for a minute.

        One that cannot be queued is told in the report, and counts as failed. Cancelled, what was queued stays so.
        """
        waiting = sorted(faults, key=lambda fault: -fault.uri.count("/"))
        ends = anyio.current_time() + self._locked_s
        while waiting:
            locked: list[Fault] = []
            for fault in waiting:
                try:
                    self._queued.append(_Queued(fault, await _reindex(fault)))
                    findings.queued += 1
                except Exception as error:  # noqa: BLE001 - a folder that cannot be queued keeps no other from it
                    if _taken(error) and anyio.current_time() < ends:
                        locked.append(fault)
                    else:
                        self._refused[fault.uri] = f"not queued: {error}"
                        findings.refuse(fault.uri, str(error))
            waiting = locked
            if waiting:
                await anyio.sleep(RETRY_S)

    async def progress(self) -> Making:
        """Return how far OpenViking is, having asked again for what failed; what could not be queued has failed."""
        async with self._looking:
            for each in self._queued:
                if not each.ended:
                    await _follow(each)
        failed = {each.fault.uri: each.error for each in self._queued if each.error is not None}
        left = sum(not each.ended for each in self._queued)
        return Making(left, len(self._queued) - left - len(failed), {**self._refused, **failed})


async def _reindex(fault: Fault, *, deep: bool = False) -> str:
    """Queue a folder, `deep` with what is below; return the id of its task.

    A folder by itself is made of what there is of its files and folders. Where an import failed there is nothing of
    them either, and it takes a deep one, which makes what is not in the index.
    """
    how = {"recursive": deep} | ({"force": True} if fault.reason in BODIES and not deep else {})
    context = acting(fault.account, fault.uri)
    made: Mapping[str, Any] = await service().reindex(uri=fault.uri, mode=MODE, wait=False, ctx=context, **how)
    return str(made["task_id"])


async def _follow(queued: _Queued) -> None:
    """Ask for the task; one that failed is queued again, twice at most: OpenViking gives up at the first failure."""
    ended, error = await _ended(queued)
    if not ended:
        return
    if error is not None and queued.attempts < ATTEMPTS:
        try:
            queued.task_id = await _reindex(queued.fault, deep=queued.attempts == ATTEMPTS - 1)
        except Exception as refused:  # noqa: BLE001 - told to whoever follows
            if _taken(refused):
                return  # at the next look
            error = f"{error}; not queued again: {refused}"
        else:
            log.warning("recovery.again uri=%s error=%s", queued.fault.uri, error)
            queued.attempts += 1
            return
    queued.ended, queued.error = True, error


async def _ended(queued: _Queued) -> tuple[bool, str | None]:
    """Say whether a task has ended, and what is wrong then: it may say that it is done and leave nothing."""
    from openviking.service.task_tracker import get_task_tracker

    fault = queued.fault
    context = acting(fault.account, fault.uri)
    owner = {"account_id": fault.account, "user_id": str(context.user.user_id)}
    try:
        task: Any = await get_task_tracker().get(queued.task_id, **owner)
        status = str(task.status.value) if task is not None else "completed"
        if status in ("pending", "running", "cancelling"):
            return False, None
        if status != "completed":
            return True, str(getattr(task, "error", None) or status)
        left = await Tree(service().viking_fs, context).fault(fault.uri)
    except Exception as error:  # noqa: BLE001 - told to whoever follows
        left = repr(error)
    return True, None if left is None else f"made, and still: {left}"


def _taken(error: Exception) -> bool:
    """Say whether somebody else is at a folder: a lock, or a reindex under way."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return "LockError" in kinds or str(getattr(error, "code", "")).upper() in TAKEN
