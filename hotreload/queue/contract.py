"""What a queue promises, whatever engine keeps it.

Durable means: on the disk when the call returns, SIGKILL and power loss included. Delivery is at least once;
within one queue claims go by priority, then by the time a job became ready, then by id. A write of a job
carries the fencing token of its claim; one that is no longer the newest is refused with LeaseLost and
changes nothing. Every asynchronous call is one unit: cancelled while it waits it may or may not have
happened, and calling it again is safe (enqueue by its dedupe key, the others by the token).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from hotreload.errors import LeaseLost
from hotreload.queue.documents import Put
from hotreload.queue.job import JobRow, JobState, NewJob, Verdict


@dataclass(frozen=True, slots=True)
class Enqueued:
    """What an enqueue did: ids of new jobs in the order given, and the dedupe keys that were in hand already."""

    ids: Sequence[str]
    duplicates: Sequence[str]


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """The depth of one queue, from counters kept with the rows (no count over the table)."""

    name: str
    ready: int
    scheduled: int
    running: int
    dead: int
    paused: bool


@dataclass(frozen=True, slots=True)
class Requeued:
    """What a requeue of everything running put back; `checkpointed` are those with progress kept."""

    ids: Sequence[str]
    checkpointed: Sequence[str]


@dataclass(frozen=True, slots=True)
class PutBack:
    """What a last flush did: `requeued` as interrupted, and the state in which each job asked for is now.

    A job asked for that is in no state was removed.
    """

    requeued: Requeued
    states: Mapping[str, JobState]


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What an exchange did: the state of each job that ended (LeaseLost: fenced, nothing changed), the jobs taken."""

    states: Sequence[JobState | LeaseLost]
    rows: Sequence[JobRow]


class Queue(Protocol):
    """Few verbs; see the module's promises."""

    async def enqueue(self, jobs: Sequence[NewJob], *, unless_done_since_ms: int | None = None) -> Enqueued:
        """Add jobs, all or none, durable on return.

        A job whose dedupe key belongs to a job of the same queue that is ready, scheduled, running or dead is a
        duplicate and left out; with `unless_done_since_ms` also one that was done at that time or later.
        """
        ...

    async def claim(self, queue: str, limit: int) -> list[JobRow]:
        """Take up to `limit` ready jobs, each with a new `lease_seq`; [] when none is ready or it is paused."""
        ...

    async def exchange(self, queue: str, limit: int, ended: Sequence[tuple[JobRow, Verdict]]) -> Exchanged:
        """Settle `ended` and then claim up to `limit`, in one transaction: what a pool does in its every turn."""
        ...

    async def checkpoint(self, row: JobRow, cursor: Any, *, within: Callable[[Any], object] | None = None) -> None:
        """Keep `cursor` (a JSON value) as the job's progress; durable on return. LeaseLost if fenced.

        `within(connection)` writes rows of the job's own in the same transaction: both are durable or neither.
        """
        ...

    async def settle(self, row: JobRow, verdict: Verdict) -> JobState:
        """End the claim with a verdict and return the state the job is in now. LeaseLost if fenced."""
        ...

    async def next_due_ms(self, queue: str) -> int | None:
        """Return when the next scheduled job becomes ready (Unix ms), None without one or while it is paused."""
        ...

    def depths(self) -> list[QueueDepth]:
        """Return the depths of all queues; cheap, from any thread."""
        ...

    def on_ready(self, listener: Callable[[str], None]) -> None:
        """Call `listener(queue)` when there is reason to claim anew, or to ask anew for `next_due_ms`.

        Jobs became ready, one is due sooner than those known, a pause ended. From the writer's thread, so it must
        only wake others.
        """
        ...

    def requeue_running(
        self, queues: Sequence[str], timeout_s: float, *, ended: Sequence[tuple[JobRow, Verdict]] = ()
    ) -> Requeued:
        """Settle `ended`, then put every running job of `queues` back, as interrupted and fenced: one transaction.

        Of `ended`, what was settled or fenced before stays as it is. It overtakes no call made before. From
        any thread, no loop needed. TimeoutError after `timeout_s`: it may happen yet, and calling again is safe.
        """
        ...

    def flush(
        self,
        queues: Sequence[str],
        timeout_s: float,
        report: Callable[[PutBack], Put] | None = None,
        *,
        ended: Sequence[tuple[JobRow, Verdict]] = (),
        asked: Sequence[str] = (),
    ) -> PutBack:
        """End the work of this process: settle `ended`, put back what runs in `queues`, keep the report; or nothing.

        Nothing is claimed any more from the call on, so nothing comes after it. `report` is called in the transaction
        with what came of it, the states of the jobs `asked` for included. Where it raises nothing of it happened
        (TimeoutError after `timeout_s`: it may happen yet). From any thread, no loop needed.
        """
        ...
