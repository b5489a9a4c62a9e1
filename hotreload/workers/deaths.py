"""A death is heard: a line at ERROR, and the hooks of the service, each death once and one after the other."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import anyio

from hotreload.errors import describe
from hotreload.queue.job import Failed, JobRow, Verdict

log = logging.getLogger(__name__)
HOOK_S: Final = 30.0
WAITING_MOST: Final = 10_000
_LARGE: Final = object()
"""Stands for a payload that is only in the store."""

Hook = Callable[["DeadJob", Any], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class DeadJob:
    """A job that will not be tried again: `payload` is the stored JSON value, `reason` that of its last failure."""

    id: str
    queue: str
    payload: Any
    key: str | None
    attempts: int
    reason: str
    traceback: str | None = None


class Deaths:
    """Hears of deaths on the loop's thread, and calls the hooks from `run`; more than 10,000 waiting are dropped."""

    def __init__(
        self, hooks: Sequence[Hook], settings: Callable[[], Any], payload_of: Callable[[str], Awaitable[Any]]
    ) -> None:
        self._hooks = hooks
        self._settings = settings
        self._payload_of = payload_of
        self._send, self._receive = anyio.create_memory_object_stream[DeadJob](WAITING_MOST)

    def heard(self, row: JobRow, verdict: Verdict) -> None:
        """Log a death and have the hooks called."""
        failed = verdict if isinstance(verdict, Failed) else Failed("")
        attempts = row.attempts + 1
        payload = row.payload if row.payload_json else _LARGE
        self.tell(DeadJob(row.id, row.queue, payload, row.dedupe_key, attempts, failed.error, failed.traceback))

    def tell(self, dead: DeadJob) -> None:
        """Log a death and have the hooks called."""
        log.error(
            "job.dead job=%s queue=%s attempt=%d reason=%s\n%s",
            *(dead.id, dead.queue, dead.attempts, dead.reason, dead.traceback or ""),
        )
        if self._hooks:
            try:
                self._send.send_nowait(dead)
            except anyio.WouldBlock:
                log.error("job.dead_unheard job=%s: %d deaths wait for the hook already", dead.id, WAITING_MOST)

    async def run(self) -> None:
        """Call the hooks until cancelled."""
        async for dead in self._receive:
            for hook in self._hooks:
                await self._call(hook, dead)

    async def _call(self, hook: Hook, dead: DeadJob) -> None:
        try:
            if dead.payload is _LARGE:
                dead = replace(dead, payload=await self._payload_of(dead.id))
            with anyio.fail_after(HOOK_S):
                await hook(dead, self._settings())
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a user's hook raises
            log.error("job.on_dead_failed job=%s error=%s", dead.id, describe(error))
