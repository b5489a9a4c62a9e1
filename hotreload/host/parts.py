"""What a host carries: the one place where a service, or a foreign server, is joined to the flows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from anyio.abc import TaskGroup

from hotreload.admin.control import Control, Jobs
from hotreload.drain.quiesce import Drainable
from hotreload.host.documents import PoolFigures
from hotreload.lifecycle import Flushed
from hotreload.queue.contract import QueueDepth
from hotreload.queue.documents import Put
from hotreload.recovery.coordinator import Search
from hotreload.reload.apply import Reloadable

Ended = Callable[[str, str], None]
"""Told of each end of a job: its queue and `done`, `failed`, `dead`, `interrupted` or `fenced`."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What a host carries. `start` brings the work to life in the host's task group and returns when it runs.

    `serving` returns once the outside can reach it (READY waits for that); `leave_s` is what the process needs to
    leave after its drain, taken from the grace. `search` looks for what is missing, in the background after READY and
    on demand. `flush` puts back what did not finish and keeps the report it is given a maker of, both durable on
    return; it is called from a thread, and the loop may be blocked. `jobs` is the queue for people. `impaired` says
    what this process lacks for as long as it lives, `restarts` whether it comes back in place after its drain.
    `reloadables` and `drainables` take part in the order given.
    """

    version: str
    reloadables: Sequence[Reloadable]
    drainables: Sequence[Drainable]
    flush: Callable[[float, Callable[[Flushed], Put]], object]
    pools: Callable[[], Sequence[PoolFigures]]
    queues: Callable[[], Sequence[QueueDepth]]
    generations: Callable[[], Sequence[int]]
    start: Callable[[TaskGroup, Ended], Awaitable[None]]
    schema: Callable[[], dict[str, Any]]
    serving: Callable[[], Awaitable[None]] | None = None
    leave_s: float = 0.0
    search: Search | None = None
    jobs: Jobs | None = None
    impaired: str | None = None
    restarts: Callable[[], bool] = lambda: False
    met: Callable[[Control], None] | None = None
    """Told once of the process as callers see it, before it opens."""
    limits: Callable[[], Sequence[PoolFigures]] = tuple
    """Those that several pools share."""
