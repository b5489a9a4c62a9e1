"""Documents kept beside the jobs, by kind: JSON texts, the newest of each kind; in the writer's transaction."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import apsw

from hotreload.queue.sql import run

_PUT: Final = """
INSERT INTO hotreload_documents (seq, kind, id, at_ms, body)
VALUES ((SELECT coalesce(max(seq), 0) + 1 FROM hotreload_documents), ?, ?, ?, ?)
ON CONFLICT (kind, id) DO UPDATE SET seq = excluded.seq, at_ms = excluded.at_ms, body = excluded.body
"""
_PRUNE: Final = """
DELETE FROM hotreload_documents WHERE kind = ?1 AND seq <= (
    SELECT seq FROM hotreload_documents WHERE kind = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)
"""


@dataclass(frozen=True, slots=True)
class Put:
    """A document to keep, as a JSON text; of its kind the newest `keep` stay."""

    kind: str
    id: str
    body: str
    keep: int


def put(connection: apsw.Connection, document: Put, now_ms: int) -> None:
    """Keep a document, remove the oldest of its kind."""
    run(connection, _PUT, (document.kind, document.id, now_ms, document.body))
    run(connection, _PRUNE, (document.kind, document.keep))
