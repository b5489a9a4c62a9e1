"""PURE: what a job is, and what each verdict does to it. Engines ask here; they decide nothing themselves.

    scheduled ──due──→ ready ──claim──→ running ──done──→ done
        ↑                ↑                 │
        └─ failed, attempts left; snoozed ─┤
                         └── interrupted, crashed ──┤
                                           └── failed for good, crashed alone 3 times ──→ dead

Failures, interruptions and crashes are counted apart: only a failure uses an attempt, and a snoozed job moves no
counter. A crash is the end of the process while the job ran and no drain had begun. It is not known which of the
running jobs ended the process, so all of them are suspected: after `CRASHES_TO_SUSPECT` crashes without progress a
job is a suspect and runs alone in its queue; after `CRASHES_ALONE_TO_PARK` crashes without progress in which it was
the only suspect that ran it is parked. Progress is a checkpoint whose cursor differs from the one before, or a step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum
from types import NoneType
from typing import Any, Final, assert_never

from hotreload.errors import PayloadTooLarge

MAX_ATTEMPTS: Final = 25
"""With the default backoff a job that always fails is dead after about two weeks, as in River."""
CRASHES_TO_SUSPECT: Final = 2
CRASHES_ALONE_TO_PARK: Final = 3
DELAY_MOST_S: Final = 100 * 365.25 * 86_400
"""How long a job can wait: what a handler asks for may be any number, and a database holds no such time."""
PAYLOAD_MOST: Final = 16 * 1024 * 1024
"""Bytes of a payload, cursor, step or result as JSON, where no setting says otherwise."""


class JobState(StrEnum):
    """Where a job is; `scheduled` is a ready job whose time has not come."""

    READY = "ready"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    DONE = "done"
    DEAD = "dead"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to enqueue: `payload` is a JSON value, `version` that of its type.

    It may run at `run_at_ms`, Unix ms, or `delay_s` after it was enqueued on the store's clock; at once without either.
    Lower `priority` is claimed first. `dedupe_key` is unique among the unfinished jobs of its queue; what no database
    can hold of it is escaped (see `storable`). ValueError for a queue's name that cannot be one.
    """

    queue: str
    payload: Any
    dedupe_key: str | None = None
    priority: int = 0
    run_at_ms: int | None = None
    max_attempts: int = MAX_ATTEMPTS
    version: int = 1
    delay_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.queue.isprintable():
            raise ValueError(f"{self.queue!r} is not the name of a queue: a name has printable characters only")
        if self.dedupe_key is not None:
            object.__setattr__(self, "dedupe_key", storable(self.dedupe_key))


@dataclass(frozen=True, slots=True)
class Enqueued:
    """What an enqueue did: the id of the job, and where its key was taken already the state of the job that has it.

    `existing` is None for a new job. A job keeps its key until it has ended.
    """

    id: str
    existing: JobState | None = None


@dataclass(slots=True)  # not frozen: that costs every job 1.4 µs, and who has read a large text may let go of it
class JobRow:
    """A claimed job as the store has it: payload, last checkpoint (None: none) and results of `steps` as JSON texts.

    `attempts` counts failures, so the first run has 0. `stalled_crashes` and `alone_crashes` count crashes since
    the last progress, in all and as the only suspect that ran. A `suspect` is the only job of its queue that runs.
    """

    id: str
    queue: str
    payload_json: str
    cursor_json: str | None
    lease_seq: int
    attempts: int
    max_attempts: int
    interruptions: int
    crashes: int
    dedupe_key: str | None
    priority: int
    version: int
    enqueued_at_ms: int
    run_at_ms: int = 0
    stalled_crashes: int = 0
    alone_crashes: int = 0
    suspect: bool = False
    steps: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def payload(self) -> Any:
        """The payload as a JSON value, decoded at each use."""
        return from_json(self.payload_json)

    @property
    def cursor(self) -> Any:
        """The last checkpoint as a JSON value, decoded at each use; None without one."""
        return from_json(self.cursor_json)


@dataclass(frozen=True, slots=True)
class Done:
    """The job finished; `result` is a JSON value, kept for a time."""

    result: Any = None


@dataclass(frozen=True, slots=True)
class Failed:
    """The job raised: it uses an attempt; `for_good` skips further attempts.

    `delay_s` overrides the backoff and `max_attempts` that of the row: both are the worker's policy in force.
    """

    error: str
    traceback: str | None = None
    delay_s: float | None = None
    for_good: bool = False
    max_attempts: int | None = None


@dataclass(frozen=True, slots=True)
class Interrupted:
    """The service stopped the job: it goes back as it is and uses no attempt, not before `delay_s` seconds."""

    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Snoozed:
    """The job asked to be run again after `delay_s` seconds; it uses no attempt and is not an interruption."""

    delay_s: float = 0.0


Verdict = Done | Failed | Interrupted | Snoozed


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long a failed job waits, in seconds: `first_s` × failures to the `power`, at most `most_s`.

    The default is River's (attempt⁴): 1 s, 16 s, 81 s, …, 40 minutes after the seventh failure. An outage of an hour
    costs a job about eight of its 25 attempts. `power=0` waits `first_s` each time.
    """

    first_s: float = 1.0
    power: float = 4.0
    most_s: float = 7 * 86_400.0

    def delay_ms(self, failures: int, jitter: float) -> int:
        """Return the wait after the `failures`-th failure (from 1): half of it fixed, half times `jitter` in [0, 1].

        Equal jitter, as in Brooker, "Exponential Backoff and Jitter": jobs that failed together do not come
        back together, and none comes back at once.
        """
        try:
            whole_s = min(self.most_s, self.first_s * failures**self.power)
        except OverflowError:
            whole_s = self.most_s
        return int(whole_s * 1000 * (0.5 + 0.5 * jitter))


@dataclass(slots=True)  # not frozen, as `JobRow`
class Transition:
    """What becomes of a job whose claim ended: every field is the new value, as it is to be written.

    `reason` and `traceback` say why the job failed last (None: it did not); `result` is a JSON value, of a done
    job only. `run_at_ms` orders the ready and is the due time of the scheduled.
    """

    state: JobState
    attempts: int
    interruptions: int
    crashes: int
    run_at_ms: int
    reason: str | None = None
    traceback: str | None = None
    result: Any = None
    stalled_crashes: int = 0
    alone_crashes: int = 0
    suspect: bool = False


def decide(
    row: JobRow, verdict: Verdict, now_ms: int, *, jitter: float = 0.5, backoff: Backoff | None = None
) -> Transition:
    """Return what a verdict makes of a running job; `jitter` in [0, 1] is the caller's random number.

    A done or failed suspect is not one any more: it ended without taking the process with it. An interrupted one
    stays a suspect, because it was not run to its end. An interrupted job keeps its place in the order, unless it
    is to wait.
    """
    match verdict:
        case Done(result=result):
            return _ended(row, JobState.DONE, row.attempts, row.run_at_ms, result=result)
        case Failed():
            return _after_failure(row, verdict, now_ms, jitter, backoff or Backoff())
        case Interrupted(delay_s=delay_s):
            return _waiting(replace(_back(row), interruptions=row.interruptions + 1), delay_s, now_ms)
        case Snoozed(delay_s=delay_s):
            return _waiting(replace(_back(row), stalled_crashes=0, alone_crashes=0, suspect=False), delay_s, now_ms)
        case _:
            assert_never(verdict)


def after_crash(row: JobRow, *, only_suspect: bool = True, machine_ended: bool = False) -> Transition:
    """Return what the end of the process, with no drain begun, makes of a job that was running.

    `row` has the counters as stored: progress has set `stalled_crashes` and `alone_crashes` to 0 since. A suspect was
    alone where it was the `only_suspect` that ran. Where the machine itself ended (power lost, a reboot) the crash
    says nothing about the job. It keeps its place in the order and uses no attempt.
    """
    crashes = row.crashes + 1
    if machine_ended:
        return replace(_back(row), crashes=crashes)
    stalled = row.stalled_crashes + 1
    alone = row.alone_crashes + int(row.suspect and only_suspect)
    parked = alone >= CRASHES_ALONE_TO_PARK
    return replace(
        _back(row),
        state=JobState.DEAD if parked else JobState.READY,
        crashes=crashes,
        stalled_crashes=stalled,
        alone_crashes=alone,
        suspect=stalled >= CRASHES_TO_SUSPECT and not parked,
        reason=f"parked: the process crashed {alone} times while this job ran alone, without progress"
        if parked
        else None,
    )


def _back(row: JobRow) -> Transition:
    return Transition(
        state=JobState.READY,
        attempts=row.attempts,
        interruptions=row.interruptions,
        crashes=row.crashes,
        run_at_ms=row.run_at_ms,
        stalled_crashes=row.stalled_crashes,
        alone_crashes=row.alone_crashes,
        suspect=row.suspect,
    )


def _waiting(to: Transition, delay_s: float, now_ms: int) -> Transition:
    due_ms = now_ms + _milliseconds(delay_s)
    return to if delay_s <= 0 else replace(to, state=JobState.SCHEDULED, run_at_ms=due_ms)


def _milliseconds(delay_s: float) -> int:
    return int(max(0.0, min(DELAY_MOST_S, delay_s)) * 1000)


def _after_failure(row: JobRow, failed: Failed, now_ms: int, jitter: float, backoff: Backoff) -> Transition:
    attempts = row.attempts + 1
    if failed.for_good or attempts >= (failed.max_attempts or row.max_attempts):
        return _ended(row, JobState.DEAD, attempts, row.run_at_ms, reason=failed.error, traceback=failed.traceback)
    delay_ms = backoff.delay_ms(attempts, jitter) if failed.delay_s is None else _milliseconds(failed.delay_s)
    state = JobState.SCHEDULED if delay_ms else JobState.READY
    return _ended(row, state, attempts, now_ms + delay_ms, reason=failed.error, traceback=failed.traceback)


def _ended(
    row: JobRow,
    state: JobState,
    attempts: int,
    run_at_ms: int,
    *,
    reason: str | None = None,
    traceback: str | None = None,
    result: Any = None,
) -> Transition:
    return Transition(
        state=state,
        attempts=attempts,
        interruptions=row.interruptions,
        crashes=row.crashes,
        run_at_ms=run_at_ms,
        reason=reason,
        traceback=traceback,
        result=result,
    )


# --- when a suspect may run, a job that was running in several crashes without progress ------------------------------


class May(Enum):
    """What a claim may take now."""

    NOTHING = "nothing"
    SUSPECT = "suspect"
    OTHERS = "others"


@dataclass(frozen=True, slots=True)
class Suspect:
    """One suspect of the store that is ready or running: its queue, and its crashes without progress."""

    id: int
    queue: str
    running: bool
    stalled_crashes: int

    @property
    def crashed_as_suspect(self) -> bool:
        """True where the process ended again while it ran as a suspect."""
        return self.stalled_crashes > CRASHES_TO_SUSPECT


def may_claim(queue: str, suspects: list[Suspect], running: int) -> tuple[May, int]:
    """Say what a claim of `queue`, in which `running` jobs run, may take; of a suspect also its id, else 0.

    A suspect is the only running job of its queue: it waits for those that run, and the others of the queue wait
    for it. Other queues go on. One that crashed as a suspect runs beside no other suspect of the store either, so
    that after the next crash it is known which of them it was. `suspects` come in the order of claims.
    """
    here = [suspect for suspect in suspects if suspect.queue == queue]
    if any(suspect.running for suspect in here):
        return May.NOTHING, 0
    if not here:
        return May.OTHERS, 0
    if running:
        return May.NOTHING, 0
    elsewhere = [suspect for suspect in suspects if suspect.running]
    for suspect in here:
        if not elsewhere or not any(one.crashed_as_suspect for one in (suspect, *elsewhere)):
            return May.SUSPECT, suspect.id
    return May.NOTHING, 0


# --- the JSON texts that a store keeps ------------------------------------------------------------------------------

# ASCII only: a surrogate, as in a file name that is not UTF-8, has no other way into a database.
to_json: Final[Callable[[Any], str]] = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_decode: Final = json.JSONDecoder().raw_decode
_LONE: Final = re.compile(r"\\(?:u(?:d[89ab]..\\ud[c-f]..|(d[89a-f]..))|.)")
"""Each escape of a JSON text; the group is that of half a pair without the other half."""
_A_BYTE: Final = re.compile("dc[89a-f].")
"""Python's name for a byte that is not UTF-8 (PEP 383)."""
_ESCAPED: Final = re.compile(r"(?<!\\)(\\*+)(?:([\udc80-\udcff\0])|(?=udc[89a-f][0-9a-f]|x00))")
"""Backslashes, then what is written as an escape, or what reads like the rest of one."""


def from_json(text: str | None) -> Any:
    """Return the value of a JSON text, None for none."""
    return None if text is None else _decode(text)[0]


def as_stored(value: Any) -> Any:
    """Return a JSON value as it is read back: a tuple as a list, the keys of a map as texts. TypeError, ValueError."""
    return value if isinstance(value, (str, int, float, NoneType)) else from_json(to_json(value))


def stored(value: Any, what: str, most: int) -> str:
    """Return the JSON text of `value` as it is kept; TypeError or ValueError where it has none, see `checked`."""
    return checked(to_json(value), what, most)


def checked(text: str, what: str, most: int) -> str:
    """Return a JSON text that may be kept.

    PayloadTooLarge above `most` bytes; ValueError for half a character (a lone surrogate), which no reader takes. Bytes
    of a file name that are not UTF-8, as Python shows them, are kept.
    """
    if len(text) > most:
        raise PayloadTooLarge(what, len(text), most)
    if "\\ud" in text and not all(_A_BYTE.fullmatch(half) for half in _LONE.findall(text) if half):
        raise ValueError(f"{what} holds half a character (a lone surrogate)")
    return text


def holds_bytes(text: str) -> bool:
    """Say whether a JSON text has bytes in it that are not UTF-8, as Python shows them."""
    return "\\udc" in text and any(_LONE.findall(text))


def storable(name: str) -> str:
    """Return a key or the name of a step as any database holds it; ValueError for half a character.

    Bytes of a file name that are not UTF-8 are escaped (`\\udcff`), and so is NUL (`\\x00`). Two names are never kept
    as one: backslashes right before an escape, or before what looks like the rest of one, are doubled.
    """
    if name.isascii() and "\0" not in name and "\\" not in name:
        return name
    checked(to_json(name), f"{name!r}", PAYLOAD_MOST)
    return _ESCAPED.sub(lambda found: found[1] * 2 + _escape(found[2] or ""), name)


def _escape(character: str) -> str:
    return "\\x00" if character == "\0" else escaped(character)


def escaped(text: str) -> str:
    """Return `text` as UTF-8 can hold it: what it cannot hold is written as an escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
