"""Documents kept beside the jobs, by kind, the newest of each; and the mark of a drain, a document of its own kind.

The mark is there from the first moment of a drain until its report is kept: whatever ends the process meanwhile has
interrupted its jobs. In the writer's thread and transaction.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Final

import apsw

from hotreload.queue.contract import DrainMark, Put
from hotreload.queue.sqlite.connection import one, run

_MARK: Final = "draining"
_PUT: Final = """
INSERT INTO hotreload_documents (seq, kind, id, at_ms, body)
VALUES ((SELECT coalesce(max(seq), 0) + 1 FROM hotreload_documents), ?, ?, ?, ?)
ON CONFLICT (kind, id) DO UPDATE SET seq = excluded.seq, at_ms = excluded.at_ms, body = excluded.body
"""
_PRUNE: Final = """
DELETE FROM hotreload_documents WHERE kind = ?1 AND seq <= (
    SELECT seq FROM hotreload_documents WHERE kind = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)
"""


class Documents:
    """The verbs over one clock."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms

    def put(self, connection: apsw.Connection, calls: Sequence[Put]) -> Sequence[None]:
        """Keep documents, remove the oldest of their kind."""
        for call in calls:
            run(connection, _PUT, (call.kind, call.id, self._now_ms(), call.body))
            run(connection, _PRUNE, (call.kind, call.keep))
        return [None] * len(calls)

    def mark_draining(self, connection: apsw.Connection, calls: Sequence[DrainMark]) -> Sequence[None]:
        """Record that a drain began; the first moment stays."""
        for drain in calls:
            if marked(connection) is None:
                said = {**asdict(drain), "since_ms": drain.since_ms or self._now_ms()}
                self.put(connection, [Put(_MARK, drain.id, json.dumps(said), 1)])
        return [None] * len(calls)

    def unmark_draining(self, connection: apsw.Connection, calls: Sequence[None]) -> Sequence[None]:
        """Forget that a drain began: it has ended in order."""
        run(connection, "DELETE FROM hotreload_documents WHERE kind = ?", (_MARK,))
        return [None] * len(calls)


def marked(connection: apsw.Connection) -> DrainMark | None:
    """Return the mark of a drain that has not ended."""
    body = one(connection, "SELECT body FROM hotreload_documents WHERE kind = ?", (_MARK,))
    return None if body is None else DrainMark(**json.loads(body))


def known(connection: apsw.Connection, drain: DrainMark) -> bool:
    """Say whether there is a document of this drain: it has its mark here, or its report."""
    return bool(one(connection, "SELECT 1 FROM hotreload_documents WHERE id = ? LIMIT 1", (drain.id,)))
