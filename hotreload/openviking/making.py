"""Have OpenViking's own reindex make what is missing, each folder by itself, and follow its tasks to their end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import anyio

from hotreload.openviking.accounts import acting, service
from hotreload.openviking.tree import Tree
from hotreload.recovery.findings import Findings, Making

MODE: Final = "semantic_and_vectors"
LOCKED_S: Final = 60.0
"""How long a folder that somebody holds a lock on is tried again."""
RETRY_S: Final = 0.5
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

    account: str
    task_id: str
    uri: str
    error: str | None = None
    ended: bool = False


class Remaking:
    """What one search asked OpenViking for."""

    def __init__(self, search_id: str, locked_s: float = LOCKED_S) -> None:
        self.search_id = search_id
        self._locked_s = locked_s
        self._queued: list[_Queued] = []
        self._refused: dict[str, str] = {}

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
                    self._queued.append(await _reindex(fault))
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
        """Return how far OpenViking is; what could not be queued has failed."""
        for each in self._queued:
            if not each.ended:
                await _follow(each)
        failed = {each.uri: each.error for each in self._queued if each.error is not None}
        left = sum(not each.ended for each in self._queued)
        return Making(left, len(self._queued) - left - len(failed), {**self._refused, **failed})


async def _reindex(fault: Fault) -> _Queued:
    forced = {"force": True} if fault.reason in BODIES else {}
    context = acting(fault.account, fault.uri)
    made: Mapping[str, Any] = await service().reindex(
        uri=fault.uri, mode=MODE, wait=False, recursive=False, ctx=context, **forced
    )
    return _Queued(fault.account, str(made["task_id"]), fault.uri)


async def _follow(queued: _Queued) -> None:
    """Ask for the task; when it says it is done, look whether it is true: it may have left a placeholder."""
    from openviking.service.task_tracker import get_task_tracker

    context = acting(queued.account, queued.uri)
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
        left = await Tree(service().viking_fs, context).fault(queued.uri)
    except Exception as error:  # noqa: BLE001 - told to whoever follows
        left = repr(error)
    queued.error = None if left is None else f"made, and still: {left}"


def _taken(error: Exception) -> bool:
    """Say whether somebody else is at a folder: a lock, or a reindex under way."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return "LockError" in kinds or str(getattr(error, "code", "")).upper() in TAKEN
