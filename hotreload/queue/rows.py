"""Jobs on their way into SQL and out of it: JSON texts, bindings for many rows at once, rows read back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, Final

from hotreload.queue.job import JobRow, NewJob, Transition
from hotreload.queue.sql import Binding

SIZES: Final = (1, 4, 16, 32, 64, 128, 256)

# ASCII only: a lone surrogate, as in a file name that is no UTF-8, has no other way into a database.
to_json: Final[Callable[[Any], str]] = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_decode: Final = json.JSONDecoder().raw_decode


def from_json(text: str | None) -> Any:
    """Return the value of a JSON text, None for none."""
    return None if text is None else _decode(text)[0]


def clean(text: str | None) -> str | None:
    """Return `text` as UTF-8 can hold it: what it cannot is written as an escape."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode("utf-8")


def padded(rows: Sequence[tuple[Binding, ...]]) -> Iterator[tuple[int, list[Binding]]]:
    """Cut `rows` into pieces of a few sizes, so that few statements serve all; yield (size, bindings).

    The last piece is filled with NULL rows, which every statement leaves out by its first column.
    """
    width, most = len(rows[0]), SIZES[-1]
    for start in range(0, len(rows), most):
        piece = rows[start : start + most]
        size = next(size for size in SIZES if size >= len(piece))
        bindings = [value for row in piece for value in row]
        bindings.extend([None] * ((size - len(piece)) * width))
        yield size, bindings


@cache
def filled(template: str, width: int, size: int) -> str:
    """Return the statement with `{values}` replaced by `VALUES (?, …), …` for `size` rows of `width` columns."""
    row = f"({', '.join('?' * width)})"
    return template.format(values=f"VALUES {', '.join([row] * size)}")


def of_new(job: NewJob, job_id: int, state: str, run_at_ms: int, now_ms: int, payload: str) -> tuple[Binding, ...]:
    """Return the bindings of an insert, in the order of INSERTED."""
    return (
        job_id,
        job.queue,
        state,
        job.priority,
        run_at_ms,
        job.max_attempts,
        job.version,
        now_ms,
        job.dedupe_key,
        payload,
    )


INSERTED: Final = "id, queue, state, priority, run_at_ms, max_attempts, version, enqueued_at_ms, dedupe_key, payload"


def of_transition(row: JobRow, to: Transition, result: str | None, now_ms: int | None) -> tuple[Binding, ...]:
    """Return the bindings of an update, in the order of MOVED; the first two are the id and the fencing token."""
    return (
        int(row.id),
        row.lease_seq,
        to.state,
        to.attempts,
        to.interruptions,
        to.crashes,
        to.stalled_crashes,
        to.alone_crashes,
        int(to.suspect),
        to.run_at_ms,
        now_ms,
        clean(to.reason),
        clean(to.traceback),
        result,
    )


MOVED: Final = (
    "state",
    "attempts",
    "interruptions",
    "crashes",
    "stalled_crashes",
    "alone_crashes",
    "suspect",
    "run_at_ms",
    "ended_at_ms",
    "reason",
    "traceback",
    "result",
)

_CLAIMED: Final = (
    "id, queue, payload, cursor, lease_seq, attempts, max_attempts, interruptions, crashes, dedupe_key, priority, "
    "version, enqueued_at_ms, run_at_ms, stalled_crashes, alone_crashes, suspect"
)
# One row with one JSON text, whatever the number of jobs: see writer.py on the cost of a row.
AS_JSON: Final = f"SELECT json_group_array(json_array({_CLAIMED}))"
CLAIMED: Final = _CLAIMED


Raw = list[Any]
"""One job of an AS_JSON: the columns of _CLAIMED in their order; payload and cursor are JSON texts."""


def leased(raw: Raw) -> JobRow:
    """Return a job as its claim has it; the store counts the token up after the row was read."""
    return JobRow(
        str(raw[0]), raw[1], from_json(raw[2]), from_json(raw[3]), token_of(raw), *raw[5:16], suspect=bool(raw[16])
    )


def token_of(raw: Raw) -> int:
    """Return the fencing token of the claim that took `raw`."""
    return raw[4] + 1


def rows_of(text: str) -> list[JobRow]:
    """Return the rows of an AS_JSON as they are stored; payload and cursor are still JSON texts."""
    return [JobRow(str(raw[0]), *raw[1:16], suspect=bool(raw[16])) for raw in json.loads(text)]
