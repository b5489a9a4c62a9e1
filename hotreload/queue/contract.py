"""What a queue promises, whatever engine keeps it.

Durable means: on the disk when the call returns, SIGKILL and power loss included. Delivery is at least once;
within one queue claims go by priority, then by the time a job became ready, then by id. A write of a job
carries the fencing token of its claim; one that is no longer the newest is refused with LeaseLost and
changes nothing. Every asynchronous call is one unit: cancelled while it waits it may or may not have
happened, and calling it again is safe (enqueue by its dedupe key, the others by the token).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from hotreload.errors import LeaseLost
from hotreload.queue.job import Enqueued, JobRow, JobState, NewJob, Verdict


@dataclass(frozen=True, slots=True)
class Added:
    """What an enqueue did: of each job in the order given its id, or the job that has its dedupe key already."""

    jobs: Sequence[Enqueued]
    duplicates: Sequence[str] = field(default_factory=list[str])
    """The dedupe keys of those that were left out."""

    @property
    def ids(self) -> list[str]:
        """The ids of the new jobs, in the order given."""
        return [job.id for job in self.jobs if job.existing is None]


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What a cancel did: ids of waiting jobs that were removed, and the queues of running ones, by id.

    Those are `cancelled` and fenced; their code is still to be stopped.
    """

    removed: Sequence[str]
    running: Mapping[str, str]


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
class Put:
    """A document to keep, as a JSON text; of its kind the newest `keep` stay."""

    kind: str
    id: str
    body: str
    keep: int


@dataclass(frozen=True, slots=True)
class Document:
    """A JSON value kept under a kind and an id, `at_ms` when it was put."""

    kind: str
    id: str
    at_ms: int
    body: Any


@dataclass(frozen=True, slots=True)
class DrainMark:
    """What is known of a drain from its begin on; `since_ms` 0 stands for the moment it is written.

    `owner` is the text of the store's lock (`StoreLock.text`), needed where the mark was not kept in the store: one of
    an earlier process must not make a crash an interruption.
    """

    id: str = ""
    reason: str = ""
    since_ms: int = 0
    deadline_s: float = 0.0
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What `open` found: ids of jobs that ran when the last owner ended.

    `interrupted` by the `drain` that was cut, or `crashed` with the process; of the crashed, `suspects` run alone next
    and `parked` are dead. `checkpointed` are those of both with progress to resume from, `finished` those that were
    done since the drain began. `drain` is None where none had begun, or one ended in order.
    """

    interrupted: Sequence[str] = ()
    crashed: Sequence[str] = ()
    suspects: Sequence[str] = ()
    parked: Sequence[str] = ()
    checkpointed: Sequence[str] = ()
    finished: Sequence[str] = ()
    drain: DrainMark | None = None

    @property
    def draining_since_ms(self) -> int | None:
        """When the drain that was cut began (Unix ms)."""
        return self.drain.since_ms if self.drain else None


Report = Callable[[Recovered], Put]
"""Makes the report of a drain that was cut, as the document to keep."""


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One entry of a job's history: `failed`, `crashed`, `dead`, `retried` (by hand) or `cancelled`, and why."""

    at_ms: int
    event: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class JobView:
    """One job as it is shown. Times are Unix ms; `ended_at_ms` is None until it has ended.

    `payload`, `cursor` and `result` are JSON values, `reason` and `traceback` those of the last failure, `history`
    the last twenty events, the oldest first. In a page (`jobs`) payload, cursor, result, traceback and history are
    left out.
    """

    id: str
    queue: str
    state: JobState
    priority: int
    run_at_ms: int
    lease_seq: int
    attempts: int
    max_attempts: int
    interruptions: int
    crashes: int
    suspect: bool
    version: int
    enqueued_at_ms: int
    ended_at_ms: int | None
    dedupe_key: str | None
    reason: str | None
    payload: Any = None
    cursor: Any = None
    result: Any = None
    traceback: str | None = None
    history: Sequence[JobEvent] = ()


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The job that a dedupe key has already: unfinished, dead, or done not long ago."""

    id: str
    state: JobState

    @property
    def unfinished(self) -> bool:
        """True while the job will run, or runs."""
        return self.state in (JobState.READY, JobState.SCHEDULED, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class Exchanged:
    """What an exchange did: the state of each job that ended (LeaseLost: fenced, nothing changed), the jobs taken."""

    states: Sequence[JobState | LeaseLost]
    rows: Sequence[JobRow]


class Queue(Protocol):
    """Few verbs; see the module's promises."""

    async def enqueue(self, jobs: Sequence[NewJob], *, unless_done_since_ms: int | None = None) -> Added:
        """Add jobs, all or none, durable on return.

        A job whose dedupe key belongs to a job of the same queue that is ready, scheduled or running is a
        duplicate and left out; with `unless_done_since_ms` also one that was done at that time or later.
        """
        ...

    async def claim(self, queue: str, limit: int) -> list[JobRow]:
        """Take up to `limit` ready jobs, each with a new `lease_seq`; [] when none is ready or it is paused."""
        ...

    async def exchange(self, queue: str, limit: int, ended: Sequence[tuple[JobRow, Verdict]]) -> Exchanged:
        """Settle `ended` and then claim up to `limit`, in one transaction: what a pool does in its every turn."""
        ...

    async def checkpoint(
        self,
        row: JobRow,
        cursor: Any,
        *,
        step: tuple[str, Any] | None = None,
        within: Callable[[Any], object] | None = None,
    ) -> None:
        """Keep `cursor` (a JSON value) as the job's progress; durable on return. LeaseLost if fenced.

        `step` is the name and the result (a JSON value) of a finished step, kept beside those kept before: the next
        claims of the job have all of them. `within(connection)` writes rows of the job's own in the same transaction:
        both are durable or neither.
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
        """Call `listener(queue)` when there is reason to claim again, or to ask again for `next_due_ms`.

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
