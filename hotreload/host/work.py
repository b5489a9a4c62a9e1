"""What a host carries: the one place where a service, or a foreign server, is joined to the flows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import anyio
from anyio.abc import TaskGroup

from hotreload.admin.control import Jobs
from hotreload.drain.stages import Drainable
from hotreload.host.status import PoolFigures
from hotreload.lifecycle import Flushed
from hotreload.queue.contract import Put, QueueDepth
from hotreload.recovery.coordinator import Search
from hotreload.reload.apply import Reloadable
from hotreload.workers.active import JobEnd

Ended = Callable[[JobEnd], None]
"""Told of each end of a job: its queue and `done`, `failed`, `dead`, `interrupted` or `fenced`."""
Keep = Callable[[Flushed], Put]
"""Makes the drain's report of what became of the work, as the document to keep."""


class Work(Protocol):
    """The work of one process. What has a body here may be left as it is.

    `reloadables` and `drainables` take part in the order given. `search` looks for what is missing, in the background
    after READY and on demand. `jobs` is the queue for people. `leave_s` is what it needs to leave after its drain, in
    seconds taken from the grace.
    """

    version: str
    reloadables: Sequence[Reloadable]
    drainables: Sequence[Drainable]
    search: Search | None = None
    jobs: Jobs | None = None
    leave_s: float = 0.0
    serving: anyio.Event | None = None
    """Set once the outside can reach it: READY waits for that. None: it can from the start on."""

    @property
    def impaired(self) -> str | None:
        """Say what the process lacks now, None where nothing."""
        return None

    async def start(self, tasks: TaskGroup, ended: Ended) -> None:
        """Bring the work to life in `tasks` and return when it runs; raises where it cannot."""
        ...

    def flush(self, timeout_s: float, keep: Keep) -> None:
        """Put back what did not finish and keep the report of it; both durable on return, or it raises.

        Called in a thread, and the event loop may be blocked.
        """
        ...

    async def close(self, within_s: float) -> None:
        """End what work shares, after the flush or a failure: to its end, but for what takes longer than `within_s`."""

    def pools(self) -> Sequence[PoolFigures]:
        """Return the pools now."""
        ...

    def limits(self) -> Sequence[PoolFigures]:
        """Return the limits that several pools share."""
        return ()

    def queues(self) -> Sequence[QueueDepth]:
        """Return the queues now."""
        ...

    def generations(self) -> Sequence[int]:
        """Return the generation that each running job reads."""
        return ()

    def hung_up(self) -> None:
        """SIGHUP has come: open again what another program may have moved, as logrotate does."""

    def more(self) -> dict[str, Any]:
        """Return further keys of the status document."""
        return {}

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the configuration file."""
        ...

    def restarts(self) -> bool:
        """Tell whether the process comes back in place after its drain."""
        return False
