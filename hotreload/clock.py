"""Wall clock for stamps that are stored or shown; deadlines use the monotonic clock instead."""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now_ms() -> int:
    """Return Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def iso(at_ms: int) -> str:
    """Format Unix milliseconds as RFC 3339 UTC with milliseconds, `2026-11-23T17:20:03.120Z`."""
    stamp = datetime.fromtimestamp(at_ms / 1000, UTC)
    return f"{stamp:%Y-%m-%dT%H:%M:%S}.{at_ms % 1000:03d}Z"
