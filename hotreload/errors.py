"""Every error this library raises, as one tree.

HotreloadError
├── ConfigError              a settings model or file that cannot be used
│   ├── ConfigUnreadable     the file cannot be read (gone, no permission, too large)
│   └── ConfigInvalid        the file was read and refused; carries every problem at once
├── QueueError
│   ├── PayloadTooLarge      a payload, cursor, step or result exceeds `hotreload.max_payload_bytes`
│   ├── QueueDraining        new work is refused, the service is draining
│   ├── LeaseLost            a write carried a fencing token that is no longer the newest
│   ├── NotOffered           this host cannot do that for its queue
│   ├── StoreOwned           another process owns the store
│   └── StoreUnavailable     the store cannot be written (disk full, read-only, corrupt)
│       └── StoreLost        its files were destroyed by another program and cannot be brought back
├── JobEnded                 what a caller waits for will not come
│   ├── JobFailed            the job is dead; says why
│   └── JobCancelled         the job was cancelled, or removed
├── Retry                    raised by a handler: run the job again later, without using an attempt
├── Discard                  raised by a handler: the job is dead now, whatever attempts are left
├── DeclarationError         a service was declared wrongly; says where and what would be right
├── SearchRefused            what a search for missing work was asked about does not exist
├── ControlSocketUnsafe      the control socket's folder, owner or peer is not to be trusted
├── ServiceMisnamed          what was said of a service to talk to cannot be used, or fits several
└── ServiceUnreachable       no running service answers

A refused reload is a report, not an exception; these errors are for callers that asked for a value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

REASON_MOST: Final = 8_192
"""Characters that are kept of what an error says; twice as many are scrubbed of secrets before, so that none is cut."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a configuration, with its place in the file as written.

    `path` is dotted (`vlm.max_concurrent`, `""` for the whole file); `line` and `column` count from 1
    and are None where the value does not come from the file; `input` is the offending value as JSON
    text, None where it is secret or has no value; `hint` says what would be right; `source` is the line
    as written, with every text but its keys hidden.
    """

    path: str
    message: str
    file: str | None = None
    line: int | None = None
    column: int | None = None
    input: str | None = None
    hint: str | None = None
    source: str | None = None

    def at(self, file: str, line: int | None, column: int | None) -> Problem:
        """Return the same problem with its place filled in."""
        return replace(self, file=file, line=line, column=column)

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        text = ": ".join(part for part in (place, self.path, self.message) if part)
        if self.input is not None:
            text += f" (got {self.input})"
        return f"{text}; {self.hint}" if self.hint else text


_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


def printable(text: str) -> str:
    """Return a text for a terminal or a log: what others wrote into it is shown, and never moves a cursor.

    Control characters but tab and line feed are written as escapes.
    """
    return text if text.isprintable() else text.translate(_CONTROLS)


def reason_of(error: BaseException) -> str:
    """Return what an error says to a person, one line first; of a system call the file and what is wrong with it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


def describe(error: BaseException) -> str:
    """Return `ValueError: what it says`, or `unprintable ValueError`; bounded, raises nothing."""
    name = name_of(error)
    text = text_of(error)
    if text is None:
        return f"unprintable {name}"
    return f"{name}: {text}" if text else name


def name_of(error: BaseException) -> str:
    """Return the name of an error's class; raises nothing."""
    return guarded(lambda: type.__getattribute__(type(error), "__name__")) or "error"


def text_of(error: BaseException) -> str | None:
    """Return what an error says, cut to a bound; None where that cannot be had. Raises nothing."""
    return guarded(lambda: str.__str__(str(error))[: 2 * REASON_MOST])


def guarded(read: Callable[[], Any]) -> Any:
    """Return what a stranger's object answers; None where its code raises anything."""
    try:
        return read()
    except BaseException:  # noqa: BLE001 - a stranger's code, called for its text only
        return None


class HotreloadError(Exception):
    """Base of every error raised here."""


class ConfigError(HotreloadError):
    """A configuration cannot be used; `problems` lists all that is wrong."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ConfigUnreadable(ConfigError):
    """The file cannot be read: gone, no permission, a folder, over the size limit."""


class ConfigInvalid(ConfigError):
    """The file was read and refused; nothing of it was applied."""


class QueueError(HotreloadError):
    """A queue refused a call."""


class QueueDraining(QueueError):
    """New work is refused because the service is draining; try again after the restart."""


class LeaseLost(QueueError):
    """A write was refused: the job was claimed again, requeued or settled since this claim."""

    def __init__(self, job_id: str, lease_seq: int) -> None:
        self.job_id = job_id
        self.lease_seq = lease_seq
        super().__init__(f"job {job_id}: fencing token {lease_seq} is no longer the newest")


class PayloadTooLarge(QueueError, ValueError):
    """A payload, cursor, step or result has more bytes as JSON than `hotreload.max_payload_bytes` allows."""

    def __init__(self, what: str, size: int, limit: int) -> None:
        self.what = what
        self.size = size
        self.limit = limit
        super().__init__(f"{what} has {size:,} bytes as JSON; the limit is {limit:,} (hotreload.max_payload_bytes)")


class NotOffered(QueueError):
    """What this host cannot do for its queue; says why, and what would."""


class StoreOwned(QueueError):
    """Another process owns the store; `owner` says which."""

    def __init__(self, path: str, owner: str) -> None:
        self.path = path
        self.owner = owner
        super().__init__(f"{path} is open in {owner}; only one process may use a store")


class StoreUnavailable(QueueError):
    """The store cannot be read or written now (disk full, read-only, corrupt); nothing acknowledged is lost."""


class JobEnded(QueueError):
    """A job ended without a result; `job_id` is its id."""

    def __init__(self, job_id: str, text: str) -> None:
        self.job_id = job_id
        super().__init__(f"job {job_id} {text}")


class JobFailed(JobEnded):
    """The job is dead: `reason` is that of its last failure."""

    def __init__(self, job_id: str, reason: str | None) -> None:
        self.reason = reason or "no reason is kept"
        super().__init__(job_id, f"is dead: {self.reason}")


class JobCancelled(JobEnded):
    """The job was cancelled or removed before it ended."""

    def __init__(self, job_id: str) -> None:
        super().__init__(job_id, "was cancelled")


class Retry(HotreloadError):
    """Raise it in a handler to run the job again after `after_s` seconds: no attempt is used, progress is kept."""

    def __init__(self, after_s: float) -> None:
        if not 0 <= after_s < float("inf"):
            raise ValueError(f"after_s is a number of seconds from 0, not {after_s!r}")
        self.after_s = after_s
        super().__init__(f"again after {after_s:g} s")


class Discard(HotreloadError):
    """Raise it in a handler where trying again is useless: the job is dead at once, with this reason."""


class DeclarationError(HotreloadError, ValueError):
    """A service was declared wrongly: one line that says where, what is wrong and what would be right."""


class StoreLost(StoreUnavailable):
    """Another program destroyed the store's files, or took them over, and what was in them cannot be brought back.

    `jobs` is how many unfinished jobs were in them, where that is known.
    """

    def __init__(self, text: str, jobs: int = 0) -> None:
        self.jobs = jobs
        super().__init__(text)


class SearchRefused(HotreloadError):
    """There is nothing to look through: no such folder, no such account, or no accounts at all."""


class ControlSocketUnsafe(HotreloadError):
    """The control socket's folder, owner or peer is not one to trust."""


class ServiceMisnamed(HotreloadError, ValueError):
    """What was said of a service to talk to (its name, URL, key file) cannot be used, or fits several services."""


class ServiceUnreachable(HotreloadError):
    """No running service answers where it was looked for."""
