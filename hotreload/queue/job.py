"""PURE: what a job is, and what each verdict does to it. Engines ask here; they decide nothing themselves.

    scheduled ──due──→ ready ──claim──→ running ──done──→ done
        ↑                ↑                 │
        └───── failed, attempts left ──────┤
                         └── interrupted, crashed ──┤
                                           └── failed for good, crashed alone 3 times ──→ dead

Failures, interruptions and crashes are counted apart: only a failure uses an attempt. A crash is the end of the
process while the job ran and no drain had begun. Nobody knows which of the running jobs ended the process, so
all of them are suspected: after `CRASHES_TO_SUSPECT` crashes without progress a job is a suspect and runs alone;
after `CRASHES_ALONE_TO_PARK` crashes without progress in which it was alone it is parked. Progress is a
checkpoint whose cursor differs from the one before.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, assert_never

CRASHES_TO_SUSPECT: Final = 2
CRASHES_ALONE_TO_PARK: Final = 3


class JobState(StrEnum):
    """Where a job is; `scheduled` is a ready job whose time has not come."""

    READY = "ready"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    DONE = "done"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to enqueue: `payload` is a JSON value, `version` that of its type, `run_at_ms` Unix ms or None for now.

    Lower `priority` is claimed first. `dedupe_key` is unique among the unfinished jobs of its queue.
    """

    queue: str
    payload: Any
    dedupe_key: str | None = None
    priority: int = 0
    run_at_ms: int | None = None
    max_attempts: int = 5
    version: int = 1


@dataclass(frozen=True, slots=True)
class JobRow:
    """A claimed job as the store has it. `cursor` is the last checkpoint (None: none); counters are apart.

    `attempts` counts failures, so the first run has 0. `stalled_crashes` and `alone_crashes` count crashes since
    the last progress, in all and as a suspect. A `suspect` is the only job that runs while it runs.
    """

    id: str
    queue: str
    payload: Any
    cursor: Any
    lease_seq: int
    attempts: int
    max_attempts: int
    interruptions: int
    crashes: int
    dedupe_key: str | None
    priority: int
    version: int
    enqueued_at_ms: int
    run_at_ms: int = 0
    stalled_crashes: int = 0
    alone_crashes: int = 0
    suspect: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """The job finished; `result` is a JSON value, kept for a time."""

    result: Any = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The job raised: it uses an attempt; `delay_s` overrides the backoff, `for_good` skips further attempts."""

    error: str
    traceback: str | None = None
    delay_s: float | None = None
    for_good: bool = False


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The service stopped the job: it goes back as it is and uses no attempt, not before `delay_s` seconds."""

    delay_s: float = 0.0


Verdict = Done | Failed | Interrupted


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long a failed job waits: `first_s`, then `factor` times more after each failure, up to `most_s`."""

    first_s: float = 1.0
    factor: float = 2.0
    most_s: float = 3600.0

    def delay_ms(self, failures: int, jitter: float) -> int:
        """Return the wait after the `failures`-th failure (from 1): half of it fixed, half times `jitter` in [0, 1].

        Equal jitter, as in Brooker, "Exponential Backoff and Jitter": jobs that failed together do not come
        back together, and none comes back at once.
        """
        try:
            whole_s = min(self.most_s, self.first_s * self.factor ** (failures - 1))
        except OverflowError:
            whole_s = self.most_s
        return int(whole_s * 1000 * (0.5 + 0.5 * jitter))


@dataclass(frozen=True, slots=True)
class Transition:
    """What becomes of a job whose claim ended: every field is the new value, as it is to be written.

    `reason` and `traceback` say why the job failed last (None: it did not); `result` is a JSON value, of a done
    job only. `run_at_ms` orders the ready and is the due time of the scheduled.
    """

    state: JobState
    attempts: int
    interruptions: int
    crashes: int
    run_at_ms: int
    reason: str | None = None
    traceback: str | None = None
    result: Any = None
    stalled_crashes: int = 0
    alone_crashes: int = 0
    suspect: bool = False


def decide(
    row: JobRow, verdict: Verdict, now_ms: int, *, jitter: float = 0.5, backoff: Backoff | None = None
) -> Transition:
    """Return what a verdict makes of a running job; `jitter` in [0, 1] is the caller's random number.

    A done or failed suspect is none any more: it ended without taking the process with it. An interrupted one
    stays a suspect, because it was not run to its end. An interrupted job keeps its place in the order, unless it
    is to wait.
    """
    match verdict:
        case Done(result=result):
            return _ended(row, JobState.DONE, row.attempts, row.run_at_ms, result=result)
        case Failed():
            return _after_failure(row, verdict, now_ms, jitter, backoff or Backoff())
        case Interrupted(delay_s=delay_s):
            to = replace(_back(row), interruptions=row.interruptions + 1)
            return to if delay_s <= 0 else replace(to, state=JobState.SCHEDULED, run_at_ms=now_ms + int(delay_s * 1000))
        case _:
            assert_never(verdict)


def after_crash(row: JobRow) -> Transition:
    """Return what the end of the process, with no drain begun, makes of a job that was running.

    `row` has the counters as stored: a checkpoint with a new cursor has set `stalled_crashes` and `alone_crashes`
    to 0 since. The job keeps its place in the order and uses no attempt.
    """
    crashes = row.crashes + 1
    stalled = row.stalled_crashes + 1
    alone = row.alone_crashes + 1 if row.suspect else 0
    parked = alone >= CRASHES_ALONE_TO_PARK
    return replace(
        _back(row),
        state=JobState.DEAD if parked else JobState.READY,
        crashes=crashes,
        stalled_crashes=stalled,
        alone_crashes=alone,
        suspect=stalled >= CRASHES_TO_SUSPECT and not parked,
        reason=f"parked: the process crashed {alone} times while this job ran alone, without progress"
        if parked
        else None,
    )


def _back(row: JobRow) -> Transition:
    return Transition(
        state=JobState.READY,
        attempts=row.attempts,
        interruptions=row.interruptions,
        crashes=row.crashes,
        run_at_ms=row.run_at_ms,
        stalled_crashes=row.stalled_crashes,
        alone_crashes=row.alone_crashes,
        suspect=row.suspect,
    )


def _after_failure(row: JobRow, failed: Failed, now_ms: int, jitter: float, backoff: Backoff) -> Transition:
    attempts = row.attempts + 1
    if failed.for_good or attempts >= row.max_attempts:
        return _ended(row, JobState.DEAD, attempts, row.run_at_ms, reason=failed.error, traceback=failed.traceback)
    delay_ms = backoff.delay_ms(attempts, jitter) if failed.delay_s is None else max(0, int(failed.delay_s * 1000))
    state = JobState.SCHEDULED if delay_ms else JobState.READY
    return _ended(row, state, attempts, now_ms + delay_ms, reason=failed.error, traceback=failed.traceback)


def _ended(
    row: JobRow,
    state: JobState,
    attempts: int,
    run_at_ms: int,
    *,
    reason: str | None = None,
    traceback: str | None = None,
    result: Any = None,
) -> Transition:
    return Transition(
        state=state,
        attempts=attempts,
        interruptions=row.interruptions,
        crashes=row.crashes,
        run_at_ms=run_at_ms,
        reason=reason,
        traceback=traceback,
        result=result,
    )
