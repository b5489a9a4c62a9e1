"""What the end of the last owner left behind: rows still running are its own, as only one process owns the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import apsw

from hotreload.queue.job import Interrupted, JobRow, JobState, Transition, after_crash, decide
from hotreload.queue.ledger import Ledger
from hotreload.queue.rows import AS_JSON, MOVED, filled, of_transition, padded, rows_of
from hotreload.queue.sql import Binding, atomically, one, run

DRAINING_SINCE: Final = "draining_since_ms"
LAST_ID: Final = "last_id"
PUT_FACT: Final = "INSERT INTO hotreload_facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
_BACK: Final = f"""
UPDATE hotreload_jobs AS job SET lease_seq = lease_seq + 1,
    {", ".join(f"{column} = new.column{place}" for place, column in enumerate(MOVED, 3))}
FROM ({{values}}) AS new WHERE job.id = new.column1
"""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What `open` found: ids of jobs that ran when the last owner ended.

    `interrupted` by a drain that was cut (`draining_since_ms` says when it began) or `crashed` with the process;
    of the crashed, `suspects` run alone next and `parked` are dead. `checkpointed` are those of both with
    progress to resume from. `draining_since_ms` is None where no drain had begun, or one ended in order.
    """

    interrupted: Sequence[str] = ()
    crashed: Sequence[str] = ()
    suspects: Sequence[str] = ()
    parked: Sequence[str] = ()
    checkpointed: Sequence[str] = ()
    draining_since_ms: int | None = None


def fact(connection: apsw.Connection, name: str) -> int | None:
    """Return a number kept under `name`, None where there is none."""
    return one(connection, "SELECT value FROM hotreload_facts WHERE name = ?", (name,))


def recover(connection: apsw.Connection, ledger: Ledger, now_ms: int, cut_since_ms: int | None = None) -> Recovered:
    """Put back or park every running job, count why, fence the old claims, end the mark of a drain: one transaction.

    `cut_since_ms` stands for a mark that could not be made. Cut half-way nothing happened, and the next open finds
    the same. Run twice, the second finds nothing.
    """
    with atomically(connection):
        since_ms = fact(connection, DRAINING_SINCE) or cut_since_ms
        rows = rows_of(one(connection, f"{AS_JSON} FROM hotreload_jobs WHERE state = 'running'"))
        moves = [(row, _decided(row, since_ms, now_ms)) for row in rows]
        _write(connection, ledger, moves, now_ms)
        run(connection, "DELETE FROM hotreload_facts WHERE name = ?", (DRAINING_SINCE,))
    ledger.load(connection)
    ids = [row.id for row in rows]
    return Recovered(
        interrupted=ids if since_ms is not None else [],
        crashed=ids if since_ms is None else [],
        suspects=[row.id for row, to in moves if to.suspect],
        parked=[row.id for row, to in moves if to.state is JobState.DEAD],
        checkpointed=[row.id for row in rows if row.cursor is not None],
        draining_since_ms=since_ms,
    )


def _decided(row: JobRow, draining_since_ms: int | None, now_ms: int) -> Transition:
    return after_crash(row) if draining_since_ms is None else decide(row, Interrupted(), now_ms)


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
