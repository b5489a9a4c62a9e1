"""Have OpenViking's own reindex make what is missing, each folder or file by itself, and follow it to its end."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import anyio

from hotreload.openviking import messages
from hotreload.openviking.accounts import acting, service
from hotreload.openviking.messages import PendingWork, parents
from hotreload.openviking.tree import NO_SUMMARY, NO_VECTOR, Tree, skill_of
from hotreload.recovery.findings import Findings, Making

log = logging.getLogger(__name__)
MODE: Final = "semantic_and_vectors"
VECTORS: Final = "vectors_only"
LOCKED_S: Final = 60.0
"""How long a locked folder is tried again."""
RETRY_S: Final = 0.5
ATTEMPTS: Final = 3
"""How often a folder is queued: locks shared by event loops make OpenViking's own work fail now and then."""
AGAIN_FIRST_S: Final = 300.0
AGAIN_MOST_S: Final = 6 * 3600.0
"""How long what was given up waits until it is tried again, a time that doubles with each."""
BODIES: Final = frozenset({"placeholder", "empty"})
"""Faults of a body that is there: OpenViking may have it in its index as whole, and is told to make it all the same."""
UNINDEXED: Final = frozenset({NO_VECTOR, NO_SUMMARY})
"""Faults of the index, which work on vectors may be about to mend."""
TAKEN: Final = frozenset({"CONFLICT", "RESOURCE_LOCKED", "LOCKED", "ABORTED", "UNAVAILABLE", "RESOURCE_BUSY"})


@dataclass(frozen=True, slots=True)
class Fault:
    """A folder that lacks something, or a file that lacks its vector or summary."""

    account: str
    uri: str
    reason: str
    file: bool = False


@dataclass(slots=True)
class _Queued:
    """What OpenViking was asked to reindex: its task, None before there is one, and what came of it once it ended."""

    fault: Fault
    task_id: str | None = None
    attempts: int = 1
    error: str | None = None
    ended: bool = False
    given_up: int = 0
    """How often it was given up."""
    again_at: float = 0.0
    """When it is tried again once it was given up, by the loop's clock."""


class Remaking:
    """What one search asked OpenViking for, and the folders that work of others was about when it looked.

    `again_s` is how long what was given up waits at first until it is tried again; `look` tells what the queues are
    about.
    """

    def __init__(
        self,
        search_id: str,
        locked_s: float = LOCKED_S,
        *,
        busy: Sequence[Fault] = (),
        again_s: float = AGAIN_FIRST_S,
        look: Callable[[], Awaitable[PendingWork]] = messages.look,
    ) -> None:
        self.search_id = search_id
        self._locked_s = locked_s
        self._again_s = again_s
        self._pending = look
        self._busy = list(busy)
        self._left_so: dict[str, str] = {}
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
        """Return how far OpenViking is, having asked again for what failed; what could not be queued has failed, and
        so has what others worked on and left as it was.
        """
        async with self._looking:
            for each in self._queued:  # grows meanwhile
                if not each.ended:
                    await self._follow(each)
            await self._look_at_busy()
        failed = {each.fault.uri: each.error for each in self._queued if each.error is not None}
        left = sum(not each.ended for each in self._queued)
        done = len(self._queued) - left - len(failed)
        return Making(left + len(self._busy), done, {**self._refused, **self._left_so, **failed})

    @property
    def given_up(self) -> dict[str, str]:
        """What was given up and is not being tried again now, by URI, with the error."""
        return {each.fault.uri: each.error for each in self._queued if each.error is not None}

    async def try_again(self) -> None:
        """Queue again what was given up, each once its time has come; what is whole by now is done."""
        async with self._looking:
            for each in self._queued:
                if each.error is not None and each.again_at <= anyio.current_time():
                    await self._begin_again(each)

    async def _begin_again(self, queued: _Queued) -> None:
        queued.again_at = anyio.current_time() + self._again_in_s(queued)
        if not await still(queued.fault):
            queued.error = None
            return
        try:
            queued.task_id = await _reindex(queued.fault, deep=True)
        except Exception as error:  # noqa: BLE001 - it is tried again later
            queued.error = f"not queued: {error}"
            return
        log.info("recovery.again uri=%s given_up=%d", queued.fault.uri, queued.given_up)
        queued.attempts, queued.error, queued.ended = ATTEMPTS, None, False

    def _again_in_s(self, queued: _Queued) -> float:
        return min(self._again_s * 2.0 ** min(max(queued.given_up - 1, 0), 20), AGAIN_MOST_S)

    async def _look_at_busy(self) -> None:
        """Settle the folders that others worked on once no message is about them any more."""
        if not self._busy:
            return
        work = await self._pending()
        free = [fault for fault in self._busy if not is_worked_on(fault, work)]
        self._busy = [fault for fault in self._busy if fault not in free]
        for fault in free:
            if await still(fault):
                self._left_so[fault.uri] = f"left by work that was under way: {fault.reason}"

    async def _follow(self, queued: _Queued) -> None:
        """Ask for the task; one that failed is queued again, twice at most: OpenViking tries once."""
        ended, error = await self._ended(queued)
        if not ended:
            return
        if error is not None and queued.attempts < ATTEMPTS:
            try:
                queued.task_id = await _reindex(queued.fault, deep=queued.attempts == ATTEMPTS - 1)
            except Exception as refused:  # noqa: BLE001 - told to the one who follows
                if _taken(refused):
                    return  # at the next look
                error = f"{error}; not queued again: {refused}"
            else:
                log.warning("recovery.again uri=%s error=%s", queued.fault.uri, error)
                queued.attempts += 1
                return
        queued.ended, queued.error = True, error
        if error is not None:
            queued.given_up += 1
            again_s = self._again_in_s(queued)
            queued.again_at = anyio.current_time() + again_s
            log.error("recovery.given_up uri=%s, tried again in %.0f s: %s", queued.fault.uri, again_s, error)
        elif not queued.fault.file:
            await self._go_on_in(queued.fault)

    async def _go_on_in(self, made: Fault) -> None:
        """Have the files of a folder made that the index lacks now that it has the folder."""
        known = {each.fault.uri for each in self._queued}
        try:
            lacking = await Tree(service().viking_fs, acting(made.account)).lacking_in(made.uri)
        except Exception as error:  # noqa: BLE001 - the next search looks again
            log.debug("recovery.unreadable_now uri=%s error=%r", made.uri, error)
            return
        for uri, reason in lacking.items():
            if uri not in known:
                self._queued.append(_Queued(Fault(made.account, uri, reason, file=True)))

    async def _ended(self, queued: _Queued) -> tuple[bool, str | None]:
        """Say whether a task has ended, and what is wrong then: it may say that it is done and leave nothing."""
        from openviking.service.task_tracker import get_task_tracker

        fault = queued.fault
        context = acting(fault.account, fault.uri)
        owner = {"account_id": fault.account, "user_id": str(context.user.user_id)}
        try:
            if queued.task_id is None:
                queued.task_id = await _reindex(fault)
            task: Any = await get_task_tracker().get(queued.task_id, **owner)
            status = str(task.status.value) if task is not None else "completed"
            if status in ("pending", "running", "cancelling"):
                return False, None
            if status != "completed":
                return True, str(getattr(task, "error", None) or status)
            left = await _left(fault, Tree(service().viking_fs, context))
            if left in UNINDEXED and (await self._pending()).holds_vectors(fault.account, fault.uri):
                return False, None
        except Exception as error:  # noqa: BLE001 - told to the one who follows
            if queued.task_id is None and _taken(error):
                return False, None
            left = repr(error)
        return True, None if left is None else f"made, and still: {left}"


def is_worked_on(fault: Fault, work: messages.PendingWork) -> bool:
    """Say whether a message is about what lacks."""
    if work.holds(fault.account, fault.uri):
        return True
    if fault.file and work.holds(fault.account, next(parents(fault.uri))):
        return True
    return fault.reason in UNINDEXED and work.holds_vectors(fault.account, fault.uri)


async def still(fault: Fault) -> bool:
    """Look at a folder or file again: work that was under way when the tree was read may have ended since."""
    try:
        tree = Tree(service().viking_fs, acting(fault.account))
        if fault.file:
            return await tree.file_fault(fault.uri) is not None
        if fault.reason == NO_VECTOR:
            return fault.uri in await tree.lacking_in(fault.uri)
        return await tree.fault(fault.uri) is not None
    except Exception as error:  # noqa: BLE001 - it could be read a moment ago, and is gone or damaged now
        log.debug("recovery.unreadable_now uri=%s error=%r", fault.uri, error)
        return False


async def _left(fault: Fault, tree: Tree) -> str | None:
    """Return what a folder or file lacks once it was made, None where nothing."""
    if fault.file:
        return await tree.file_fault(fault.uri)
    return await tree.fault(fault.uri) or (await tree.lacking_in(fault.uri)).get(fault.uri)


async def _reindex(fault: Fault, *, deep: bool = False) -> str:
    """Queue a folder, `deep` with what is below; return the id of its task.

    A folder by itself is made of what there is of its files and folders. Where an import failed there is nothing of
    them either, and it takes a deep one, which makes what is not in the index.
    """
    if fault.reason == NO_SUMMARY:
        return await _asked(fault, MODE, {"force": True})
    if fault.reason == NO_VECTOR:
        return await _asked(fault, VECTORS, {"recursive": deep})
    how = {"recursive": deep} | ({"force": True} if fault.reason in BODIES and not deep else {})
    return await _asked(fault, MODE, how)


async def _asked(fault: Fault, mode: str, how: Mapping[str, Any]) -> str:
    context = acting(fault.account, fault.uri)
    uri = (skill_of(fault.uri) if fault.file else None) or fault.uri
    made: Mapping[str, Any] = await service().reindex(uri=uri, mode=mode, wait=False, ctx=context, **how)
    return str(made["task_id"])


def _taken(error: Exception) -> bool:
    """Say whether a folder is taken by others: a lock, or a reindex under way."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return "LockError" in kinds or str(getattr(error, "code", "")).upper() in TAKEN
