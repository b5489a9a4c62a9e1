"""How every verb ends: the exit codes, and the one failure the verbs raise."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import IO, Any

import click


class Exit(IntEnum):
    """What the exit code tells a script."""

    DONE = 0
    REFUSED_BY_CONTENT = 1
    USAGE = 2
    UNREACHABLE = 3
    REFUSED_BY_STATE = 4
    TIMED_OUT = 5
    PENDING_RESTART = 6
    CONFIG = 78  # EX_CONFIG of sysexits.h


class Failure(click.ClickException):
    """A verb ended otherwise than wished: one line, details below it, an exit code.

    With `--json` the line, the details and the `facts` go to standard output as one document as well.
    """

    def __init__(self, code: Exit, message: str, details: Sequence[str] = (), **facts: str) -> None:
        super().__init__(message)
        self.code = code
        self.details = tuple(details)
        self.facts = facts

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line, then the details, on standard error; in the journal as errors."""
        from hotreload.logs import as_error  # it knows of secrets, which takes a third of the start of a client

        text = "\n".join([f"hotreload: {self.message}", *(f"  {detail}" for detail in self.details)])
        click.echo(as_error(text), file=file, err=True)

    def to_dict(self) -> dict[str, Any]:
        """Return the document printed with `--json`."""
        return {**self.facts, "error": self.message, "details": list(self.details), "exit_code": int(self.code)}
