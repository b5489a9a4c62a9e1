"""A drain that was interrupted before it could report: what is known of it at the next start."""

from __future__ import annotations

import json
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Final

from hotreload.clock import now_ms
from hotreload.drain.deadline import Budget, Deadline
from hotreload.drain.report import Course, drain_report
from hotreload.host.records import drained
from hotreload.lifecycle import Flushed, Phase
from hotreload.queue.contract import DrainMark, Put, Recovered

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
    interrupted = tuple(recovered.interrupted)
    deadline = Deadline.starting(0.0, Budget(drain.deadline_s))
    reason = drain.reason or "not known: the process ended before it could say"
    course = Course(drain.id or uuid.uuid4().hex, reason, deadline, Phase.INTERRUPTING, {})
    flushed = Flushed(
        finished=recovered.finished, checkpointed=recovered.checkpointed, requeued=interrupted, abandoned=interrupted
    )
    report = drain_report(course, flushed, deadline.ends, now_ms())
    return drained(
        replace(report, phase=Phase.INTERRUPTING.value, forced=True, reconstructed=True, timings_ms={}, overshoot_ms=0)
    )
