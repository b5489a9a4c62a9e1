"""Every error this library raises, as one tree.

HotreloadError
├── ConfigError              a settings model or file that cannot be used
│   ├── ConfigUnreadable     the file cannot be read (gone, no permission, too large)
│   └── ConfigInvalid        the file was read and refused; carries every problem at once
├── QueueError
│   ├── QueueDraining        new work is refused, the service is draining
│   ├── LeaseLost            a write carried a fencing token that is no longer the newest
│   ├── StoreOwned           another process owns the store
│   └── StoreUnavailable     the store cannot be written (disk full, read-only, corrupt)
├── SearchRefused            what a search for missing work was asked about does not exist
├── ControlSocketUnsafe      the control socket's folder, owner or peer is not to be trusted
└── ServiceUnreachable       no running service answers

A refused reload is a report, not an exception; these errors are for callers that asked for a value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a configuration, with its place in the file as written.

    `path` is dotted (`vlm.max_concurrent`, `""` for the whole file); `line` and `column` count from 1
    and are None where the value does not come from the file; `input` is the offending value as JSON
    text, None where it is secret or has no value; `hint` says what would be right.
    """

    path: str
    message: str
    file: str | None = None
    line: int | None = None
    column: int | None = None
    input: str | None = None
    hint: str | None = None

    def at(self, file: str, line: int | None, column: int | None) -> Problem:
        """Return the same problem with its place filled in."""
        return replace(self, file=file, line=line, column=column)

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        text = ": ".join(part for part in (place, self.path, self.message) if part)
        if self.input is not None:
            text += f" (got {self.input})"
        return f"{text}; {self.hint}" if self.hint else text


def reason_of(error: BaseException) -> str:
    """Return what an error says to a person, one line first; of a system call the file and what is wrong with it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


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
    """A write was refused: the job was claimed anew, requeued or settled since this claim."""

    def __init__(self, job_id: str, lease_seq: int) -> None:
        self.job_id = job_id
        self.lease_seq = lease_seq
        super().__init__(f"job {job_id}: fencing token {lease_seq} is no longer the newest")


class StoreOwned(QueueError):
    """Another process owns the store; `owner` says which."""

    def __init__(self, path: str, owner: str) -> None:
        self.path = path
        self.owner = owner
        super().__init__(f"{path} is in use by {owner}: one process owns a store")


class StoreUnavailable(QueueError):
    """The store cannot be read or written now (disk full, read-only, corrupt); nothing acknowledged is lost."""


class SearchRefused(HotreloadError):
    """There is nothing to look through: no such folder, no such account, or no accounts at all."""


class ControlSocketUnsafe(HotreloadError):
    """The control socket's folder, owner or peer is not one to trust."""


class ServiceUnreachable(HotreloadError):
    """No running service answers where it was looked for."""
