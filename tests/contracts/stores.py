"""What the tests of the store share: a clock that is set by hand, and the check that the counters tell the truth."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import apsw

NOW_MS = 1_800_000_000_000


@dataclass
class HandClock:
    """Unix ms as the test says."""

    now_ms: int = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


def counters_agree(path: Path) -> bool:
    """Compare the counters of every queue with a count over the rows, and the file with SQLite's own check."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        counted = Counter(
            {
                (queue, state): count
                for queue, state, count in connection.execute(
                    "SELECT queue, state, count(*) FROM hotreload_jobs GROUP BY queue, state"
                )
            }
        )
        suspects = Counter(
            dict(connection.execute("SELECT queue, count(*) FROM hotreload_jobs WHERE suspect = 1 GROUP BY queue"))
        )
        kept = connection.execute(
            "SELECT name, ready, scheduled, running, done, dead, suspects FROM hotreload_queues"
        ).fetchall()
        same = all(
            list(numbers)
            == [counted[name, state] for state in ("ready", "scheduled", "running", "done", "dead")] + [suspects[name]]
            for name, *numbers in kept
        )
        known = {name for name, *_ in kept} >= {queue for queue, _ in counted}
        return same and known and connection.execute("PRAGMA integrity_check").get == "ok"
    finally:
        connection.close()
