"""What the end of the last owner left behind: rows still running are its own, as only one process owns the store."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import apsw

from hotreload.queue.documents import Put, put
from hotreload.queue.job import Interrupted, JobRow, JobState, Transition, after_crash, decide
from hotreload.queue.ledger import Ledger
from hotreload.queue.marking import DrainMark, known, marked, unmark
from hotreload.queue.rows import AS_JSON, MOVED, filled, of_transition, padded, rows_of
from hotreload.queue.sql import Binding, atomically, one, run

LAST_ID: Final = "last_id"
PUT_FACT: Final = "INSERT INTO hotreload_facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
_BACK: Final = f"""
UPDATE hotreload_jobs AS job SET lease_seq = lease_seq + 1,
    {", ".join(f"{column} = new.column{place}" for place, column in enumerate(MOVED, 3))}
FROM ({{values}}) AS new WHERE job.id = new.column1
"""


_DONE_SINCE: Final = """
SELECT json_group_array(id) FROM hotreload_jobs WHERE state = 'done' AND ended_at_ms >= ?
"""


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


def fact(connection: apsw.Connection, name: str) -> int | None:
    """Return a number kept under `name`, None where there is none."""
    return one(connection, "SELECT value FROM hotreload_facts WHERE name = ?", (name,))


def recover(
    connection: apsw.Connection,
    ledger: Ledger,
    now_ms: int,
    *,
    cut: DrainMark | None = None,
    report: Report | None = None,
) -> Recovered:
    """Put back or park every running job, count why, fence the old claims, end the mark of a drain: one transaction.

    `cut` stands for a mark that could not be made, of the last owner. Where a drain was cut, what `report` makes of it
    is kept in the same transaction. Cut half-way nothing happened, and the next open finds the same. Run twice, the
    second finds nothing.
    """
    with atomically(connection):
        drain = marked(connection) or (None if cut is None or known(connection, cut) else cut)
        rows = rows_of(one(connection, f"{AS_JSON} FROM hotreload_jobs WHERE state = 'running'"))
        moves = [(row, _decided(row, now_ms, interrupted=drain is not None)) for row in rows]
        _write(connection, ledger, moves, now_ms)
        found = _found(connection, moves, drain)
        unmark(connection)
        if drain is not None and report is not None:
            put(connection, report(found), now_ms)
    ledger.load(connection)
    return found


def _found(
    connection: apsw.Connection, moves: Sequence[tuple[JobRow, Transition]], drain: DrainMark | None
) -> Recovered:
    ids = [row.id for row, _ in moves]
    done: list[int] = json.loads(one(connection, _DONE_SINCE, (drain.since_ms,))) if drain else []
    return Recovered(
        interrupted=ids if drain else [],
        crashed=[] if drain else ids,
        suspects=[row.id for row, to in moves if to.suspect],
        parked=[row.id for row, to in moves if to.state is JobState.DEAD],
        checkpointed=[row.id for row, _ in moves if row.cursor is not None],
        finished=[str(job_id) for job_id in done],
        drain=drain,
    )


def _decided(row: JobRow, now_ms: int, *, interrupted: bool) -> Transition:
    return decide(row, Interrupted(), now_ms) if interrupted else after_crash(row)


def _write(
    connection: apsw.Connection, ledger: Ledger, moves: Sequence[tuple[JobRow, Transition]], now_ms: int
) -> None:
    if not moves:
        return
    rows: list[tuple[Binding, ...]] = []
    for row, to in moves:
        dead = to.state is JobState.DEAD
        rows.append(of_transition(row, to, None, now_ms if dead else None))
        ledger.add(row.queue, "running", -1)
        ledger.add(row.queue, "dead" if dead else "ready", 1)
        ledger.add(row.queue, "suspects", int(to.suspect) - int(row.suspect))
    for size, bindings in padded(rows):
        run(connection, filled(_BACK, len(rows[0]), size), bindings)
    ledger.write(connection)
