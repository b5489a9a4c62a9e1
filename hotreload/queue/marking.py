"""The mark of a drain: there from its first moment until it is reported, so that whatever ends it has interrupted jobs.

It is a document of its own kind; the transaction that puts everything back and keeps the report ends it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Final

import apsw

from hotreload.queue.documents import Put, put
from hotreload.queue.sql import run

MARK: Final = "draining"


@dataclass(frozen=True, slots=True)
class DrainMark:
    """What is known of a drain from its begin on; `since_ms` 0 stands for the moment it is written.

    `owner` is what the lock of the store said of its process (`StoreLock.text`), needed where the mark comes from
    elsewhere than the store: one of an earlier process must not make a crash an interruption.
    """

    id: str = ""
    reason: str = ""
    since_ms: int = 0
    deadline_s: float = 0.0
    owner: str = ""


def mark(connection: apsw.Connection, drain: DrainMark, now_ms: int) -> None:
    """Keep the mark of a drain that begins; the first one stays."""
    if marked(connection) is None:
        said = {**asdict(drain), "since_ms": drain.since_ms or now_ms}
        put(connection, Put(MARK, drain.id, json.dumps(said), 1), now_ms)


def unmark(connection: apsw.Connection) -> None:
    """End the mark."""
    run(connection, "DELETE FROM hotreload_documents WHERE kind = ?", (MARK,))


def marked(connection: apsw.Connection) -> DrainMark | None:
    """Return the mark of a drain that has not ended."""
    found = run(connection, "SELECT body FROM hotreload_documents WHERE kind = ?", (MARK,)).fetchall()
    return DrainMark(**json.loads(str(found[0][0]))) if found else None


def known(connection: apsw.Connection, drain: DrainMark) -> bool:
    """Say whether there is a document of this drain: it has its mark here, or its report."""
    asked = run(connection, "SELECT 1 FROM hotreload_documents WHERE id = ? LIMIT 1", (drain.id,))
    return bool(asked.fetchall())
