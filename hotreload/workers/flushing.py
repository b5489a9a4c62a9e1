"""The last thing pools do: what they still hold goes to the store in one transaction, with the report of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hotreload.lifecycle import Flushed
from hotreload.queue.contract import Put, PutBack
from hotreload.queue.job import JobRow, JobState, Verdict
from hotreload.queue.store import Store
from hotreload.workers.active import ActiveJob


@dataclass(frozen=True, slots=True)
class Held:
    """What the pool of `queue` gives up: jobs that ended and are not settled, those whose code still runs.

    `had` is all it had since the drain began, `settled` are those of `had` that the store has settled already.
    """

    queue: str
    ended: Sequence[tuple[JobRow, Verdict]]
    left: Sequence[ActiveJob]
    had: frozenset[str]
    settled: frozenset[str]


def flush(
    queue: Store | None, held: Sequence[Held], timeout_s: float, report: Callable[[Flushed], Put] | None = None
) -> Flushed:
    """Settle what ended, put back the rest and keep the report, all or nothing; from any thread.

    Late writes are fenced. Raises as `Store.flush`. Without a queue only the report is made.
    """
    if queue is None:
        if report is not None:
            report(Flushed())
        return Flushed()
    back = queue.flush(
        [part.queue for part in held],
        timeout_s,
        None if report is None else lambda back: report(_flushed(back, held)),
        ended=[one for part in held for one in part.ended],
        asked=[job_id for part in held for job_id in part.had],
    )
    return _flushed(back, held)


def _flushed(back: PutBack, held: Sequence[Held]) -> Flushed:
    """Say where each job is: the store knows; memory only tells whose code still runs."""
    requeued = frozenset(back.requeued.ids)
    had = [job_id for part in held for job_id in sorted(part.had - requeued, key=int)]
    again = [job_id for job_id in had if back.states.get(job_id) in (JobState.READY, JobState.SCHEDULED)]
    left = [entry for part in held for entry in part.left if entry.row.id in requeued]
    gone = {job_id for job_id in had if job_id not in back.states}
    return Flushed(
        finished=[job_id for job_id in had if back.states.get(job_id) is JobState.DONE],
        failed=[job_id for job_id in had if back.states.get(job_id) is JobState.DEAD],
        checkpointed=back.requeued.checkpointed,
        requeued=[*back.requeued.ids, *again],
        abandoned=[entry.row.id for entry in left],
        stuck=[entry.stuck() for entry in left],
        lost=len(gone.difference(*(part.settled for part in held))),  # what was settled may have been removed since
    )
