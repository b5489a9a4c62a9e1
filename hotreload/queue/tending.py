"""What people do to a queue (retry, discard, pause), and the documents kept beside it; in the writer's transaction."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import apsw

from hotreload.queue.documents import Put, put
from hotreload.queue.ledger import Column, Ledger
from hotreload.queue.marking import DrainMark, mark, unmark
from hotreload.queue.people import number
from hotreload.queue.recover import LAST_ID, PUT_FACT, fact
from hotreload.queue.sql import one, run

_ASKED: Final = "id IN (SELECT value FROM json_each(?))"
_DEAD_OF: Final = (
    f"SELECT json_group_array(json_array(id, queue)) FROM hotreload_jobs WHERE state = 'dead' AND {_ASKED}"
)
_RETRY: Final = f"""
UPDATE hotreload_jobs SET state = 'ready', attempts = 0, stalled_crashes = 0, alone_crashes = 0, run_at_ms = ?,
    ended_at_ms = NULL WHERE {_ASKED}
"""
_DISCARDED: Final = f"""
SELECT json_group_array(json_array(id, queue, state, suspect)) FROM hotreload_jobs WHERE state <> 'running' AND {_ASKED}
"""
_PAUSE: Final = """
INSERT INTO hotreload_queues (name, paused) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET paused = excluded.paused
"""


@dataclass(frozen=True, slots=True)
class Pause:
    """Whether a queue is to be paused."""

    queue: str
    paused: bool


class Tending:
    """The verbs over one ledger and one clock."""

    def __init__(self, ledger: Ledger, now_ms: Callable[[], int]) -> None:
        self._ledger = ledger
        self._now_ms = now_ms

    def retry(self, connection: apsw.Connection, calls: Sequence[Sequence[str]]) -> Sequence[list[str]]:
        """Make dead jobs ready, with all their attempts and their cursor; return the ids of those that were dead."""
        return [self._retry(connection, ids) for ids in calls]

    def _retry(self, connection: apsw.Connection, ids: Sequence[str]) -> list[str]:
        found: list[tuple[int, str]] = json.loads(one(connection, _DEAD_OF, (_numbers(ids),)))
        run(connection, _RETRY, (self._now_ms(), str([job_id for job_id, _ in found])))
        for queue, count in Counter(queue for _, queue in found).items():
            self._ledger.add(queue, "dead", -count)
            self._ledger.add(queue, "ready", count)
        return [str(job_id) for job_id, _ in found]

    def discard(self, connection: apsw.Connection, calls: Sequence[Sequence[str]]) -> Sequence[list[str]]:
        """Remove jobs that do not run; return the ids of those removed."""
        return [self._discard(connection, ids) for ids in calls]

    def _discard(self, connection: apsw.Connection, ids: Sequence[str]) -> list[str]:
        found: list[tuple[int, str, Column, int]] = json.loads(one(connection, _DISCARDED, (_numbers(ids),)))
        if not found:
            return []
        gone = [job_id for job_id, *_ in found]
        run(connection, PUT_FACT, (LAST_ID, max([*gone, fact(connection, LAST_ID) or 0])))
        run(connection, f"DELETE FROM hotreload_jobs WHERE {_ASKED}", (str(gone),))
        for _, queue, state, suspect in found:
            self._ledger.add(queue, state, -1)
            if suspect:
                self._ledger.add(queue, "suspects", -1)
        return [str(job_id) for job_id in gone]

    def pause(self, connection: apsw.Connection, calls: Sequence[Pause]) -> Sequence[None]:
        """Set whether each queue is paused; the last word on a queue counts."""
        for call in calls:
            run(connection, _PAUSE, (call.queue, int(call.paused)))
            self._ledger.add(call.queue, "ready", 0)
        return [None] * len(calls)

    def put(self, connection: apsw.Connection, calls: Sequence[Put]) -> Sequence[None]:
        """Keep documents, remove the oldest of their kind."""
        for call in calls:
            put(connection, call, self._now_ms())
        return [None] * len(calls)

    def mark_draining(self, connection: apsw.Connection, calls: Sequence[DrainMark]) -> Sequence[None]:
        """Record that a drain began; the first moment stays."""
        for call in calls:
            mark(connection, call, self._now_ms())
        return [None] * len(calls)

    def unmark_draining(self, connection: apsw.Connection, calls: Sequence[None]) -> Sequence[None]:
        """Forget that a drain began: it went through."""
        unmark(connection)
        return [None] * len(calls)


def _numbers(ids: Sequence[str]) -> str:
    return json.dumps([number(job_id) for job_id in ids])
