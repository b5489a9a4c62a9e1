"""Limits that can be moved while work runs under them: of one pool, and shared by several, here or over all nodes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol

MAX_LIMIT = 10_000
MAX_RATE = 1_000_000
MINUTE_S = 60.0


class Limit:
    """A whole number from 0 (paused) to 10,000; its listeners are called after each change.

    A plain number and not a semaphore: a pool that claims only `limit - running` jobs can never admit too
    many, whatever way and however often the limit moves (a flapping capacity limiter over-admitted 28 at 5).
    """

    most: ClassVar[int] = MAX_LIMIT

    def __init__(self, value: int) -> None:
        self._value = checked_limit(value, self.most)
        self._listeners: list[Callable[[], None]] = []

    @property
    def value(self) -> int:
        """The limit now."""
        return self._value

    def get(self) -> int:
        """Return the limit now."""
        return self._value

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` after each change."""
        self._listeners.append(listener)

    def set(self, value: int) -> None:
        """Move the limit; ValueError outside its range, and then nothing changed."""
        self._value = checked_limit(value, self.most)
        for listener in self._listeners:
            listener()


class Part(Protocol):
    """What this process may use of a limit that holds over several."""

    @property
    def usable(self) -> int:
        """How many places may be taken here now."""
        ...

    @property
    def permits(self) -> int:
        """How many count as this process' in the others' eyes; more than `usable` after the limit shrank."""
        ...

    def taken(self, missing: int) -> None:
        """Note that a pool took places, and so many fewer than it wanted."""
        ...

    def freed(self) -> None:
        """Note that a place got free."""
        ...


class SharedLimit(Limit):
    """A limit over the jobs of several pools together, given out fairly.

    While pools compete, the one that holds fewer goes first (max-min fairness); a pool that has nothing to
    claim competes for nothing. With a `part` the limit holds over several processes, and that is this one's.
    Belongs to the loop's thread.
    """

    def __init__(self, name: str, value: int) -> None:
        super().__init__(value)
        self.name = f"limits.{name}"
        self.part: Part | None = None
        self._held: dict[str, int] = {}
        self._wanting: dict[str, Callable[[], None]] = {}
        self._missing: dict[str, int] = {}

    @property
    def running(self) -> int:
        """How many places are taken."""
        return sum(self._held.values())

    @property
    def usable(self) -> int:
        """How many places there are here now, the taken ones included."""
        return self.value if self.part is None else self.part.usable

    @property
    def full(self) -> bool:
        """True where no place is free."""
        return self.running >= self.usable

    def missing(self, ready: Callable[[str], int]) -> int:
        """Return how many more places the pools that want some could use; `ready` jobs wait for each of them."""
        return sum(min(self._missing[pool], max(1, ready(pool))) for pool in self._wanting)

    def take(self, pool: str, wanted: int, wake: Callable[[], None]) -> int:
        """Take up to `wanted` places for `pool` and return how many; it is woken where it may get the rest."""
        self._wanting.pop(pool, None)
        taken, free = 0, self.usable - self.running
        while taken < min(wanted, free) and not self._behind(pool):
            self._held[pool] = self._held.get(pool, 0) + 1
            taken += 1
        if taken < wanted:
            if taken < free:  # left for those that hold fewer; where none is free, two would wake each other for ever
                self.wake_wanting()
            self._wanting[pool], self._missing[pool] = wake, wanted - taken
        if self.part is not None:
            self.part.taken(wanted - taken)
        return taken

    def give_back(self, pool: str, places: int) -> None:
        """Free places and wake who waits for one."""
        if places:
            self._held[pool] -= places
            self._freed()

    def began(self, pool: str) -> None:
        """Note that a job began with a place `pool` took."""

    def ended(self, pool: str) -> None:
        """Note that this job ended."""
        self.give_back(pool, 1)

    def content(self, pool: str) -> None:
        """Say that `pool` wants nothing now: the others need not wait for it."""
        if self._wanting.pop(pool, None) is not None:
            self.wake_wanting()

    def _behind(self, pool: str) -> bool:
        """Say whether another pool that wants places holds fewer than this one."""
        held = self._held.get(pool, 0)
        return any(self._held.get(other, 0) < held for other in self._wanting)

    def wake_wanting(self) -> None:
        """Wake the pools that want a place."""
        for wake in self._wanting.values():
            wake()

    def _freed(self) -> None:
        self.wake_wanting()
        if self.part is not None:
            self.part.freed()


class Rate(SharedLimit):
    """How many jobs of several pools together may begin in any 60 seconds, from 0 to 1,000,000; given out fairly.

    A place is taken by the start of a job, and free again a minute later. The window is exact: no burst exceeds it,
    and a lower value counts what began before. It begins empty with each process.
    """

    most: ClassVar[int] = MAX_RATE

    def __init__(self, name: str, value: int) -> None:
        super().__init__(name, value)
        self.name = f"rates.{name}"
        self._began: deque[tuple[float, str]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def began(self, pool: str) -> None:
        """Have the place given back in a minute."""
        loop = asyncio.get_running_loop()
        self._began.append((loop.time() + MINUTE_S, pool))
        if self._timer is None:
            self._timer = loop.call_at(self._began[0][0], self._passed)

    def ended(self, pool: str) -> None:
        """Keep the place taken: what counts is when the job began."""

    def _passed(self) -> None:
        loop = asyncio.get_running_loop()
        while self._began and self._began[0][0] <= loop.time():
            self._held[self._began.popleft()[1]] -= 1
        self._timer = loop.call_at(self._began[0][0], self._passed) if self._began else None
        self._freed()


class Places:
    """The places one pool has in all the limits it shares: taken, given back and forgone in each at once."""

    def __init__(self, pool: str, shared: Sequence[SharedLimit], wake: Callable[[], None]) -> None:
        self._pool = pool
        self._shared = shared
        self._wake = wake

    @property
    def bound_by(self) -> str | None:
        """Name the limit that is full, None where none is."""
        return next((shared.name for shared in self._shared if shared.full), None)

    def take(self, wanted: int) -> int:
        """Take up to `wanted` and return how many; the pool is woken where it may get the rest."""
        if wanted <= 0:
            self.content()
            return 0
        for place, shared in enumerate(self._shared):
            taken = shared.take(self._pool, wanted, self._wake)
            for before in self._shared[:place]:
                before.give_back(self._pool, wanted - taken)
            wanted = taken
        return wanted

    def give_back(self, places: int) -> None:
        """Free places."""
        for shared in self._shared:
            shared.give_back(self._pool, places)

    def began(self) -> None:
        """Note that a job began with a place taken."""
        for shared in self._shared:
            shared.began(self._pool)

    def ended(self) -> None:
        """Note that a job ended."""
        for shared in self._shared:
            shared.ended(self._pool)

    def content(self) -> None:
        """Say that the pool wants nothing now."""
        for shared in self._shared:
            shared.content(self._pool)


def checked_limit(value: object, most: int = MAX_LIMIT) -> int:
    """Return `value` where it is a whole number (an `int`) from 0 to `most`; ValueError where not."""
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"a limit is a whole number from 0 to {most:,}, not {value!r}")
    return value


def checked_rate(value: object) -> int:
    """Return `value` where it is a whole number from 0 to 1,000,000; ValueError where not."""
    return checked_limit(value, MAX_RATE)
