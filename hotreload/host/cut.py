"""A drain that was cut before it could report: what is known of it at the next start."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Final

from hotreload.clock import iso, now_ms
from hotreload.drain.report import DrainReport
from hotreload.host.records import drained
from hotreload.lifecycle import Phase
from hotreload.queue.documents import Put
from hotreload.queue.marking import DrainMark
from hotreload.queue.recover import Recovered

NOTE: Final = "drain-cut.json"


def read_note(state_dir: Path) -> DrainMark | None:
    """Return what the sentinel left behind, None where there is no note that can be read."""
    try:
        said = json.loads((state_dir / NOTE).read_text("utf-8"))
        return DrainMark(
            id=str(said["id"]),
            reason=str(said["reason"]),
            since_ms=int(said["since_ms"]),
            deadline_s=float(said["deadline_s"]),
            owner=str(said["owner"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def reconstruct(recovered: Recovered) -> Put:
    """Make the report of the drain that the last owner of the store did not end."""
    drain = recovered.drain or DrainMark()
    interrupted = list(recovered.interrupted)
    report = DrainReport(
        id=drain.id or uuid.uuid4().hex,
        reason=drain.reason or "not known: the process ended before it could say",
        deadline_s=drain.deadline_s,
        elapsed_s=drain.deadline_s,
        phase=Phase.INTERRUPTING.value,
        finished=recovered.finished,
        checkpointed=recovered.checkpointed,
        requeued=interrupted,
        abandoned=interrupted,
        forced=True,
        reconstructed=True,
        ended_at=iso(now_ms()),
    )
    return drained(report)
