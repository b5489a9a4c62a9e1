"""Settle tasks that say they run and have no worker behind them: their process was killed between two steps."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from hotreload.openviking.in_hand import InHand

log = logging.getLogger(__name__)
ACTIVE: Final = frozenset({"pending", "running", "cancelling"})
INTERRUPTED: Final = "interrupted: the process that ran it is gone; what it had not made yet is looked for"


async def settle(accounts: Sequence[str], before: InHand, after: InHand, started_at_s: float) -> list[str]:
    """End, as failed, the tasks of earlier processes that no message is about; returns their ids."""
    from openviking.service.task_tracker import get_task_tracker

    tracker: Any = get_task_tracker()
    ended: list[str] = []
    for account in accounts:
        for task in await tracker.list_tasks(limit=None, account_id=account):
            if await _is_zombie(tracker, task, before, after, started_at_s):
                await tracker.fail(task.task_id, INTERRUPTED, account_id=task.account_id, user_id=task.user_id)
                log.warning("recovery.zombie_settled task=%s type=%s", task.task_id, task.task_type)
                ended.append(str(task.task_id))
    return ended


async def _is_zombie(tracker: Any, task: Any, before: InHand, after: InHand, started_at_s: float) -> bool:
    """Say whether nobody works on a task; one that began in this process is left alone."""
    if task.status.value not in ACTIVE or task.created_at >= started_at_s:
        return False
    if before.mentions(task.task_id) or after.mentions(task.task_id) or tracker.has_active_producer(task.task_id):
        return False
    return not await tracker.has_work(task.task_id, account_id=task.account_id, user_id=task.user_id)
