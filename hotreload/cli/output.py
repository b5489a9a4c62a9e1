"""Where the answers of the verbs go: streams that take any text, and never decide how a verb ends.

What a verb did is told by its exit code; whether its answer could be written changes nothing about that. A terminal
that knows no arrow is shown `->`, a reader that is gone or a full disk loses the text and not the verdict.
"""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

PLAIN: Final = {"→": "->", "…": "...", "─": "-", "·": "*", "–": "-", "—": "-", "━": "-"}
ACTING: Final = ("reload", "drain", "reindex", "jobs", "backup")
"""Verbs that do something: what they did stands, whether it could be told or not."""
_UNDELIVERED: Final = 1


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Return what is written for characters that a stream cannot take (a handler for `codecs.register_error`)."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    found = error.object[error.start : error.end]
    return "".join(PLAIN.get(char) or char.encode("ascii", "backslashreplace").decode() for char in found), error.end


class _Sink(io.RawIOBase):
    """Writes to a file descriptor, and drops what is written once that has failed; `error` says how."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self.error: OSError | None = None

    def writable(self) -> bool:
        """Say yes, always."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Tell whether it is a terminal."""
        return os.isatty(self._descriptor)

    def write(self, data: ReadableBuffer, /) -> int:
        """Write what fits and return its length, or the length of all that is dropped."""
        while self.error is None:
            try:
                return os.write(self._descriptor, data)
            except BlockingIOError:  # a pipe that another process made non-blocking
                select.select([], [self._descriptor], [])
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes


class Output(io.TextIOWrapper):
    """A standard stream of a verb."""

    def __init__(self, descriptor: int, encoding: str | None) -> None:
        codecs.register_error("hotreload.plain", _plain)
        self._sink = _Sink(descriptor)
        super().__init__(io.BufferedWriter(self._sink), encoding or "utf-8", "hotreload.plain", line_buffering=True)

    @property
    def error(self) -> OSError | None:
        """Why the rest of the text went nowhere, None while it is written."""
        return self._sink.error


def open_streams() -> None:
    """Make standard output and standard error take whatever a verb says; a closed one is the null device from now on.

    A descriptor that the caller left closed would otherwise become a socket's, and be written to.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free one: this
    given = [stream and stream.encoding for stream in (sys.stdout, sys.stderr)]
    sys.stdout, sys.stderr = (Output(number, encoding) for number, encoding in enumerate(given, 1))


def close_streams(verb: str, code: int) -> int:
    """Write what is left and return the exit code of a verb that ended with `code`.

    An answer that could not be written is said on standard error, and fails a verb that only answers. A reader that
    is gone did not want the rest.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    error = sys.stdout.error if isinstance(sys.stdout, Output) else None
    if error is None or isinstance(error, BrokenPipeError):
        return code
    print(f"hotreload: the answer could not be written: {error.strerror}", file=sys.stderr, flush=True)
    return code if code or verb in ACTING else _UNDELIVERED


def reader_is_gone() -> bool:
    """Tell whether what is written to standard output goes nowhere."""
    return isinstance(sys.stdout, Output) and sys.stdout.error is not None
