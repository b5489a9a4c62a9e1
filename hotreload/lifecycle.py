"""PURE: the phases of one process and the moves between them, shared by reload and drain; what work says of itself.

    starting ──→ running ──→ quiescing ──→ grace ──→ interrupting ──→ flushing ──→ stopped
        └────────────────────────↑ └──────────┴───────────↑─────────────↑

A drain never goes back. Phases may be passed over: an idle service has no grace to give and nothing to
interrupt. A reload, dry run or not, is refused from the first moment of a drain.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Phase(StrEnum):
    """Where a process stands between its start and its end."""

    STARTING = "starting"
    RUNNING = "running"
    QUIESCING = "quiescing"
    GRACE = "grace"
    INTERRUPTING = "interrupting"
    FLUSHING = "flushing"
    STOPPED = "stopped"


MOVES: dict[Phase, frozenset[Phase]] = {
    Phase.STARTING: frozenset({Phase.RUNNING, Phase.QUIESCING}),
    Phase.RUNNING: frozenset({Phase.QUIESCING}),
    Phase.QUIESCING: frozenset({Phase.GRACE, Phase.INTERRUPTING, Phase.FLUSHING}),
    Phase.GRACE: frozenset({Phase.INTERRUPTING, Phase.FLUSHING}),
    Phase.INTERRUPTING: frozenset({Phase.FLUSHING}),
    Phase.FLUSHING: frozenset({Phase.STOPPED}),
    Phase.STOPPED: frozenset(),
}
ORDER: tuple[Phase, ...] = tuple(Phase)


class IllegalMove(Exception):
    """A phase was to follow one it cannot follow: a defect here, never a user's mistake."""


@dataclass(frozen=True, slots=True)
class Window:
    """What a drain leaves to running work, as monotonic instants: who needs it may go on until `cut_at`."""

    grace_ends: float
    cut_at: float


class Lifecycle:
    """The current phase of one process; listeners hear each move, in the order they asked.

    `window` is set before a drain's first move, None before.
    """

    def __init__(self) -> None:
        self.window: Window | None = None
        self._phase = Phase.STARTING
        self._listeners: list[Callable[[Phase], None]] = []

    @property
    def phase(self) -> Phase:
        """The phase now."""
        return self._phase

    @property
    def draining(self) -> bool:
        """True from the first moment of a drain to the end of the process."""
        return ORDER.index(self._phase) >= ORDER.index(Phase.QUIESCING)

    def listen(self, listener: Callable[[Phase], None]) -> None:
        """Call `listener` with the new phase after each move; it must not raise or block."""
        self._listeners.append(listener)

    def move(self, to: Phase) -> None:
        """Enter `to`; IllegalMove where the drawing has no such arrow."""
        if to not in MOVES[self._phase]:
            raise IllegalMove(f"{self._phase} → {to}")
        self._phase = to
        for listener in self._listeners:
            listener(to)


@dataclass(frozen=True, slots=True)
class Remaining:
    """One piece of work that still runs; `waiting` means it only waits for others and gets no grace of its own.

    `why` tells people what it is left for, "" where there is nothing to tell.
    """

    id: str
    what: str
    waiting: bool = False
    why: str = ""


@dataclass(frozen=True, slots=True)
class Flushed:
    """Where the work is once it is durable, as the store says it: lists of job ids.

    `requeued` is every job back in the queue, those included that failed and are tried again; `checkpointed` those of
    them that were interrupted with progress to resume from; `abandoned` those of them whose code did not stop (its late
    writes are fenced off). `finished` were done, and `failed` for good, after the drain began. `lost` counts what is
    nowhere; it must be 0. `stuck` has a line for each of the abandoned: which it is, and where it stands.
    """

    finished: Sequence[str] = field(default_factory=tuple)
    failed: Sequence[str] = field(default_factory=tuple)
    checkpointed: Sequence[str] = field(default_factory=tuple)
    requeued: Sequence[str] = field(default_factory=tuple)
    abandoned: Sequence[str] = field(default_factory=tuple)
    lost: int = 0
    stuck: Sequence[str] = field(default_factory=tuple)
