"""A drain that was cut before it could report: what is known of it at the next start."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hotreload.clock import iso, now_ms
from hotreload.drain.report import DrainReport
from hotreload.lifecycle import Phase
from hotreload.queue.recover import Recovered

NOTE: Final = "drain-cut.json"


@dataclass(frozen=True, slots=True)
class Note:
    """What the sentinel left behind."""

    reason: str
    since_ms: int
    deadline_s: float

    @classmethod
    def read(cls, state_dir: Path) -> Note | None:
        """Return the note, None where there is none that can be read."""
        try:
            said = json.loads((state_dir / NOTE).read_text("utf-8"))
            return cls(str(said["reason"]), int(said["since_ms"]), float(said["deadline_s"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None


def reconstruct(recovered: Recovered, note: Note | None, last: dict[str, Any] | None) -> DrainReport | None:
    """Make the report of the drain that the last owner of the store did not end; None where it reported itself."""
    since_ms = recovered.draining_since_ms
    if since_ms is None or (last is not None and str(last.get("ended_at")) >= iso(since_ms)):
        return None
    interrupted = list(recovered.interrupted)
    return DrainReport(
        id=uuid.uuid4().hex,
        reason=note.reason if note else "not known: the process ended before it could say",
        deadline_s=note.deadline_s if note else 0.0,
        elapsed_s=note.deadline_s if note else 0.0,
        phase=Phase.INTERRUPTING.value,
        checkpointed=[job for job in interrupted if job in set(recovered.checkpointed)],
        requeued=interrupted,
        abandoned=interrupted,
        forced=True,
        reconstructed=True,
        ended_at=iso(now_ms()),
    )
