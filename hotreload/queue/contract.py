"""What the store is given and what it answers: values, the same on every engine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hotreload.errors import LeaseLost
from hotreload.queue.job import Enqueued, JobRow, JobState


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
