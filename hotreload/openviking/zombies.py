"""Settle tasks that say they run and have no worker behind them: their process was killed between two steps."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from hotreload.openviking.messages import PendingWork
from hotreload.recovery.findings import Findings

log = logging.getLogger(__name__)
ACTIVE: Final = frozenset({"pending", "running", "cancelling"})
INTERRUPTED: Final = "interrupted: the process that ran it is gone; what it had not made yet is looked for"


async def find(
    accounts: Sequence[str], before: PendingWork, after: PendingWork, started_at_s: float, findings: Findings
) -> list[Any]:
    """Return the active tasks of earlier processes that no message is about, and name them in the report.

    An account whose tasks cannot be listed is told as passed over.
    """
    tracker = _tracker()
    found: list[Any] = []
    for account in accounts:
        try:
            tasks = await tracker.list_tasks(limit=None, account_id=account)
        except Exception as error:  # noqa: BLE001 - damage is reported, never fatal
            findings.pass_over(f"tasks of {account}", f"{type(error).__name__}: {error}")
            continue
        for task in tasks:
            if await _is_zombie(tracker, task, before, after, started_at_s):
                findings.bury(str(task.task_id), f"{task.task_type} {task.resource_id or ''}".rstrip())
                found.append(task)
    return found


async def settle(dead: Sequence[Any], findings: Findings) -> None:
    """End them, as failed."""
    for task in dead:
        try:
            await _tracker().fail(task.task_id, INTERRUPTED, account_id=task.account_id, user_id=task.user_id)
        except Exception as error:  # noqa: BLE001 - one that cannot be written keeps no other from its end
            findings.pass_over(f"task {task.task_id}", f"{type(error).__name__}: {error}")
        else:
            log.warning("recovery.zombie_settled task=%s type=%s", task.task_id, task.task_type)


async def _is_zombie(tracker: Any, task: Any, before: PendingWork, after: PendingWork, started_at_s: float) -> bool:
    """Say whether nothing works on a task; one that began in this process is left alone."""
    if task.status.value not in ACTIVE or task.created_at >= started_at_s:
        return False
    return not (before.mentions(task.task_id) or after.mentions(task.task_id) or await _worked_on(tracker, task))


async def _worked_on(tracker: Any, task: Any) -> bool:
    """Say whether this process has work of a task. 0.5.0 tells it at once, of every task."""
    if not hasattr(tracker, "has_active_producer"):
        return bool(tracker.has_work(task.task_id))
    if tracker.has_active_producer(task.task_id):
        return True
    return bool(await tracker.has_work(task.task_id, account_id=task.account_id, user_id=task.user_id))


def _tracker() -> Any:
    from openviking.service.task_tracker import get_task_tracker

    return get_task_tracker()
