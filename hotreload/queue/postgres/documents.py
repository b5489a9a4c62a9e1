"""Documents kept beside the jobs, by kind, the newest of each; and the mark of a node's drain, of a kind of its own.

The mark is there from the first moment of a drain until its report is kept: whatever ends the process meanwhile has
interrupted its jobs. In the writer's thread and transaction.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Final

from hotreload.queue.contract import DrainMark, Put
from hotreload.queue.postgres.connection import Connection, one, run

_PUT: Final = """
INSERT INTO hotreload_documents (kind, id, seq, at_ms, body)
VALUES (%s, %s, nextval('hotreload_document_seqs'), %s, %s)
ON CONFLICT (kind, id) DO UPDATE SET seq = excluded.seq, at_ms = excluded.at_ms, body = excluded.body
"""
_PRUNE: Final = """
DELETE FROM hotreload_documents WHERE kind = %s AND seq <= (
    SELECT seq FROM hotreload_documents WHERE kind = %s ORDER BY seq DESC LIMIT 1 OFFSET %s)
"""


class Documents:
    """The verbs of one node over one clock."""

    def __init__(self, now_ms: Callable[[], int], node: str) -> None:
        self._now_ms = now_ms
        self._mark = f"draining {node}"

    def put(self, connection: Connection, calls: Sequence[Put]) -> Sequence[None]:
        """Keep documents, remove the oldest of their kind."""
        for call in calls:
            run(connection, _PUT, (call.kind, call.id, self._now_ms(), call.body))
            run(connection, _PRUNE, (call.kind, call.kind, call.keep))
        return [None] * len(calls)

    def mark_draining(self, connection: Connection, calls: Sequence[DrainMark]) -> Sequence[None]:
        """Record that a drain began; the first moment stays."""
        for drain in calls:
            if self.marked(connection) is None:
                said = {**asdict(drain), "since_ms": drain.since_ms or self._now_ms()}
                self.put(connection, [Put(self._mark, drain.id, json.dumps(said), 1)])
        return [None] * len(calls)

    def unmark_draining(self, connection: Connection, calls: Sequence[None]) -> Sequence[None]:
        """Forget that a drain began: it has ended in order."""
        run(connection, "DELETE FROM hotreload_documents WHERE kind = %s", (self._mark,))
        return [None] * len(calls)

    def marked(self, connection: Connection) -> DrainMark | None:
        """Return the mark of a drain that has not ended."""
        body = one(connection, "SELECT body FROM hotreload_documents WHERE kind = %s", (self._mark,))
        return None if body is None else DrainMark(**json.loads(body))


def known(connection: Connection, drain: DrainMark) -> bool:
    """Say whether there is a document of this drain: it has its mark here, or its report."""
    return bool(one(connection, "SELECT 1 FROM hotreload_documents WHERE id = %s LIMIT 1", (drain.id,)))
