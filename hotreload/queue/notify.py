"""Tells listeners that a claim may find something now, after the commit that made it so."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hotreload.queue.contract import QueueDepth

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """One queue as of the last commit; `suspects` are unfinished, `next_due_ms` is that of the scheduled."""

    name: str
    ready: int = 0
    scheduled: int = 0
    running: int = 0
    done: int = 0
    dead: int = 0
    suspects: int = 0
    paused: bool = False
    next_due_ms: int | None = None

    def depth(self) -> QueueDepth:
        """Return the part that is shown."""
        return QueueDepth(self.name, self.ready, self.scheduled, self.running, self.dead, self.paused)


class Notify:
    """Calls the listeners with the name of each queue that has more to claim, or something sooner."""

    def __init__(self) -> None:
        self.listeners: list[Callable[[str], None]] = []

    def committed(self, before: Mapping[str, Standing], written: Mapping[str, Standing]) -> None:
        """Tell what a commit changed; `written` holds the queues it touched.

        A suspect may wait for another one in another queue, so the end of any run wakes every queue that has suspects.
        """
        woken = {name for name, now in written.items() if _better(before.get(name, Standing(name)), now)}
        if any(now.running < before[name].running for name, now in written.items() if name in before):
            woken |= {name for name, now in {**before, **written}.items() if now.suspects and now.ready}
        for name in sorted(woken):
            self._wake(name)

    def _wake(self, queue: str) -> None:
        for listener in self.listeners:
            try:
                listener(queue)
            except Exception:
                log.exception("queue.listener_failed queue=%s", queue)


def _better(was: Standing, now: Standing) -> bool:
    """Say whether a caller that found nothing to claim, or waits for the next job that is due, should look again."""
    if now.paused:
        return False
    sooner = now.next_due_ms is not None and (was.next_due_ms is None or now.next_due_ms < was.next_due_ms)
    return was.paused or now.ready > was.ready or sooner
