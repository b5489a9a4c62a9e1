"""Which keys a queue holds, and how far jobs are: read beside the writer, for those who look for missing work."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import apsw

from hotreload.queue.job import JobState
from hotreload.queue.people import number
from hotreload.queue.sql import run

NAMED: Final = 1_000
"""Dead jobs told by name."""
_UNFINISHED: Final = """
SELECT dedupe_key, id, state FROM hotreload_jobs
WHERE queue = ? AND state <> 'done' AND dedupe_key IN (SELECT value FROM json_each(?))
"""
_DONE_SINCE: Final = """
SELECT dedupe_key, max(id), state FROM hotreload_jobs
WHERE queue = ? AND state = 'done' AND ended_at_ms >= ? AND dedupe_key IN (SELECT value FROM json_each(?))
GROUP BY dedupe_key
"""
_STATES: Final = """
SELECT state, count(*) FROM json_each(?) AS range CROSS JOIN hotreload_jobs
WHERE hotreload_jobs.id BETWEEN range.value ->> 0 AND range.value ->> 1 GROUP BY state
"""
_DEAD: Final = """
SELECT coalesce(dedupe_key, hotreload_jobs.id), coalesce(reason, '')
FROM json_each(?) AS range CROSS JOIN hotreload_jobs
WHERE hotreload_jobs.id BETWEEN range.value ->> 0 AND range.value ->> 1 AND state = 'dead' LIMIT ?
"""

_QUEUES: Final = """
SELECT queue, count(*) FROM hotreload_jobs WHERE id IN (SELECT value FROM json_each(?)) GROUP BY queue
"""


@dataclass(frozen=True, slots=True)
class Holding:
    """The job that a key has: unfinished, dead, or done not long ago."""

    id: str
    state: JobState

    @property
    def unfinished(self) -> bool:
        """True while the job will run, or runs."""
        return self.state not in (JobState.DONE, JobState.DEAD)


def holding(connection: apsw.Connection, queue: str, keys: Sequence[str], since_ms: int) -> Mapping[str, Holding]:
    """Return the keys that have an unfinished or dead job, or one that was done at `since_ms` or later."""
    asked = json.dumps(keys)
    done = run(connection, _DONE_SINCE, (queue, since_ms, asked)).fetchall()
    unfinished = run(connection, _UNFINISHED, (queue, asked)).fetchall()
    return {key: Holding(str(job_id), JobState(state)) for key, job_id, state in [*done, *unfinished]}


def making(connection: apsw.Connection, ranges: Sequence[tuple[int, int]]) -> tuple[int, int, Mapping[str, str]]:
    """Return of the jobs in these ranges of ids: how many are unfinished, how many there are, the dead and why."""
    asked = json.dumps(ranges)
    states = dict(run(connection, _STATES, (asked,)).fetchall())
    dead = dict(run(connection, _DEAD, (asked, NAMED)).fetchall()) if states.get("dead") else {}
    unfinished = sum(count for state, count in states.items() if state not in ("done", "dead"))
    return unfinished, sum(states.values()), dead


def queues_of(connection: apsw.Connection, ids: Sequence[str]) -> Mapping[str, int]:
    """Return how many of these jobs each queue has."""
    return dict(run(connection, _QUEUES, (json.dumps([number(job_id) for job_id in ids]),)).fetchall())
