"""Read the depths of OpenViking's queues now and then: QueueFS tells them when asked, which takes a round trip."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import anyio

from hotreload.queue.contract import QueueDepth

log = logging.getLogger(__name__)
SAMPLE_S = 1.0


async def check_status() -> Mapping[str, Any]:
    """Ask OpenViking for the status of each queue."""
    from openviking.storage.queuefs.queue_manager import get_queue_manager

    return await get_queue_manager().check_status()


class QueueDepths:
    """The depths as last seen. A look that fails leaves them as they are: they are shown, nothing rests on them."""

    def __init__(self, look: Callable[[], Awaitable[Mapping[str, Any]]] = check_status) -> None:
        self.latest: Sequence[QueueDepth] = ()
        self._look = look
        self._failing = False

    async def sample(self, every_s: float = SAMPLE_S) -> None:
        """Look again and again until cancelled; the first failure of a series is logged."""
        while True:
            try:
                statuses = await self._look()
            except Exception as error:  # noqa: BLE001 - whatever a store raises does not end the server
                self._failed(error)
            else:
                self._failing = False
                self.latest = [
                    QueueDepth(name, status.pending, 0, status.in_progress, 0, False)
                    for name, status in statuses.items()
                ]
            await anyio.sleep(every_s)

    def _failed(self, error: Exception) -> None:
        if not self._failing:
            log.warning("queues.depths_unknown the last known ones are shown: %r", error)
        self._failing = True
