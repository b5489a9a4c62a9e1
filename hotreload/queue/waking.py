"""Who is told that a claim may find something now."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from hotreload.queue.alone import Alone
from hotreload.queue.ledger import Standing

log = logging.getLogger(__name__)


class Waking:
    """Calls the listeners after a commit that gave a queue more to claim, or sooner; or ended the run of a suspect."""

    def __init__(self, alone: Alone) -> None:
        self._alone = alone
        self._standings: Mapping[str, Standing] = {}
        self.listeners: list[Callable[[str], None]] = []

    def committed(self, before: Mapping[str, Standing], written: Mapping[str, Standing]) -> None:
        """Tell of what a commit changed; `written` holds the queues it touched."""
        self._standings = {**before, **written}
        for name, now in written.items():
            if _better(before.get(name, Standing(name)), now):
                self._wake(name)
        left = any(now.running < before[name].running for name, now in written.items() if name in before)
        if left and self._alone.refused:
            self.everyone()

    def blocked(self) -> bool:
        """True where claims were refused for the sake of a suspect, and nothing runs whose end would wake them."""
        return self._alone.refused and not any(standing.running for standing in self._standings.values())

    def everyone(self) -> None:
        """Wake every queue that has something to claim."""
        self._alone.refused = False
        for name, standing in self._standings.items():
            if standing.claimable:
                self._wake(name)

    def _wake(self, queue: str) -> None:
        for listener in self.listeners:
            try:
                listener(queue)
            except Exception:
                log.exception("queue.listener_failed queue=%s", queue)


def _better(was: Standing, now: Standing) -> bool:
    """Say whether who found nothing to claim, or waits for the next that is due, has reason to look anew."""
    if now.paused:
        return False
    sooner = now.next_due_ms is not None and (was.next_due_ms is None or now.next_due_ms < was.next_due_ms)
    return was.paused or now.ready > was.ready or sooner
