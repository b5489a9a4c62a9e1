"""Limits over all nodes on a store: this node's part of each, and the one task that asks the store for it.

    a pool finds no place ──→ ask ──→ grant ──→ the pool is woken
    every `LOOK_S` while anything is held or wanted: what is not needed goes back, what others freed is taken

A node uses a part only for as long as no other node can have taken it over, so one that was stopped or cut off begins
nothing when it goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import anyio

from hotreload.errors import StoreUnavailable
from hotreload.queue.fleet import Ask, Grant
from hotreload.workers.limits import MINUTE_S, Rate, SharedLimit

log = logging.getLogger(__name__)
LOOK_S: Final = 0.25
SHORT_S: Final = 0.05
"""How soon it is asked again while others hold what is this node's part."""
APART_S: Final = 0.02
"""The least time between two asks."""
RETRY_STORE_S: Final = 1.0


class Shares(Protocol):
    """A store that divides limits over its nodes."""

    @property
    def lease_s(self) -> float:
        """For how many seconds after its last write no other node takes over what this one has."""
        ...

    async def share(self, asks: Sequence[Ask]) -> Sequence[Grant | None]:
        """Answer each ask; None: ask again soon. StoreUnavailable where the store cannot be written."""
        ...


class FleetPart:
    """This node's part of one limit or rate over all nodes. Meets `Part`; belongs to the loop's thread.

    `ready(pool)` is how many jobs a pool could claim now: no more is wanted than there is work for.
    """

    def __init__(self, limit: SharedLimit, ready: Callable[[str], int], monotonic: Callable[[], float]) -> None:
        self.limit = limit
        self._ready = ready
        self._monotonic = monotonic
        self._wake: Callable[[], None] = lambda: None
        self._usable = 0
        self._until = float("-inf")
        self._granted = Grant(0, 0, short=False)
        self._wants = self._value = 0
        self._high = self._base = 0
        self._spare = 0
        """What is kept beyond what runs: as much as was used since the last ask, halved with each that used less."""
        limit.part = self
        limit.listen(self._moved)

    def on_need(self, wake: Callable[[], None]) -> None:
        """Call `wake` where it should be asked for now."""
        self._wake = wake

    @property
    def usable(self) -> int:
        """How many places may be taken here now."""
        return self._usable if self._monotonic() < self._until else 0

    @property
    def permits(self) -> int:
        """How many are counted as this node's."""
        return self._granted.permits

    @property
    def idle(self) -> bool:
        """True while nothing is held and nothing wanted."""
        return not (self._granted.permits or self._wants)

    @property
    def short(self) -> bool:
        """True while other nodes hold what is this node's part, or this one holds what is theirs."""
        return self._granted.short or self._granted.permits > max(self._usable, self.limit.running)

    def taken(self, missing: int) -> None:
        """Note what a pool took; where places were missing they are asked for, unless the store knows of it."""
        self._high = max(self._high, self.limit.running)
        if missing and self._needs() > self._wants:
            self._wake()

    def freed(self) -> None:
        """Note that a place got free; what is another node's part goes back at once."""
        if self._granted.permits > max(self._usable, self.limit.running):
            self._wake()

    def _moved(self) -> None:
        """Begin nothing until the other nodes know of the new value."""
        self._usable = min(self._usable, self.limit.running)
        self._wake()

    def _needs(self) -> int:
        return min(self.limit.value, self.limit.running + self.limit.missing(self._ready))

    def ask(self) -> Ask:
        """Say what is needed, with some to spare for what comes next, and stop using the rest."""
        running, rate = self.limit.running, isinstance(self.limit, Rate)
        used = 4 * (self._high - self._base) if rate else self._high - running
        self._spare = max(used, self._spare // 2)
        self._wants = max(running, self._needs(), min(self.limit.value, running + self._spare))
        self._usable = min(self._usable, self._wants)
        self._value, self._base, self._high = self.limit.value, running, running
        keep_s = MINUTE_S if rate else 0.0
        return Ask(self.limit.name, self.limit.value, max(running, self._usable), self._wants, keep_s)

    def granted(self, grant: Grant, until: float) -> None:
        """Use what was granted, until then at most; wake the pools that want more where there is more."""
        moved = self.limit.value != self._value  # meanwhile: the other nodes do not know of it yet
        usable = min(self._usable, grant.usable) if moved else grant.usable
        more = usable > self._usable or self._monotonic() >= self._until
        self._granted, self._usable, self._until = grant, usable, until
        if more:
            self.limit.wake_wanting()


class FleetLimits:
    """Asks a store for the parts of all limits over its nodes together."""

    def __init__(self, store: Shares, parts: Sequence[FleetPart], monotonic: Callable[[], float]) -> None:
        self._store = store
        self._parts = parts
        self._monotonic = monotonic
        self._needed = anyio.Event()
        for part in parts:
            part.on_need(self._wake)

    def _wake(self) -> None:
        self._needed.set()

    async def run(self) -> None:
        """Keep the parts up to date until cancelled; what is held then is freed with the node."""
        while True:
            self._needed = anyio.Event()
            pause_s = await self._exchange()
            await anyio.sleep(APART_S)
            with anyio.move_on_after(pause_s):
                await self._needed.wait()

    async def _exchange(self) -> float | None:
        """Ask once; return when to ask again, None where only a need is a reason to."""
        asks, asked_at = [part.ask() for part in self._parts], self._monotonic()
        try:
            grants = await self._store.share(asks)
        except StoreUnavailable:  # the store itself logs that it is in trouble, and that it is back
            return RETRY_STORE_S
        for part, grant in zip(self._parts, grants, strict=True):
            if grant is not None:
                part.granted(grant, asked_at + self._store.lease_s)
        if None in grants:
            return 0.0
        if any(part.short for part in self._parts):
            return SHORT_S
        return None if all(part.idle for part in self._parts) else LOOK_S


def divided(limits: Sequence[SharedLimit], store: Shares, ready: Callable[[str], int]) -> FleetLimits:
    """Have these limits hold over all nodes on the store; nothing begins under them before `run`.

    `ready(queue)` is how many jobs of a queue could be claimed; it is to be cheap.
    """
    parts = [FleetPart(limit, lambda pool: ready(pool.removeprefix("workers.")), time.monotonic) for limit in limits]
    return FleetLimits(store, parts, time.monotonic)
