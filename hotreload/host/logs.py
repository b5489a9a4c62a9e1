"""Where a serving process' log goes: stderr, as lines for a person or, under systemd, with the journal's priorities.

What a service logs in its own way goes where it says; no way is told a known secret.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

from hotreload.config.masking import mask_text

PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}

_scrub: Callable[[str], str] = mask_text


def scrub(text: str) -> str:
    """Return a text without known secrets and without what has the shape of one."""
    return _scrub(text)


def scrub_with(known: Callable[[str], str]) -> None:
    """Let all that is said from now on pass through `known`: what user code logs or raises may hold a secret too."""
    global _scrub
    _scrub = known


class ScrubbedFormatter(logging.Formatter):
    """Formats without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines, known secrets and what has their shape masked."""
        return scrub(super().format(record))


class JournalFormatter(ScrubbedFormatter):
    """Prefixes every line with its syslog priority, `<3>`, as sd-daemon(3) has it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines, each with the priority of its level."""
        prefix = f"<{PRIORITY.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


class ScrubbedRecords:
    """Makes records without secrets, whoever logs and whatever handler or formatter writes them.

    A record in which nothing is masked stays as it is, arguments and exception included. What is given as `extra`
    is added later by `logging` and not looked at.
    """

    def __init__(self, made_by: Callable[..., logging.LogRecord]) -> None:
        self._made_by = made_by

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        """Make one record."""
        record = self._made_by(*args, **kwargs)
        _scrub_message(record)
        _scrub_exception(record)
        return record


def _scrub_message(record: logging.LogRecord) -> None:
    try:
        said = record.getMessage()
    except Exception as error:  # noqa: BLE001 - logging itself would print the arguments as they are
        record.msg, record.args = f"{record.msg} (cannot be put together: {type(error).__name__})", ()
        return
    if (clean := scrub(said)) != said:
        record.msg, record.args = clean, ()


def _scrub_exception(record: logging.LogRecord) -> None:
    if record.exc_info and record.exc_info[0] is not None:
        told = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        if (clean := scrub(told)) != told:
            record.exc_text, record.exc_info = clean, None
    if record.stack_info:
        record.stack_info = scrub(record.stack_info)


def in_journal() -> bool:
    """Tell whether stderr is the journal's: `JOURNAL_STREAM` is inherited by who writes elsewhere (systemd.exec(5))."""
    try:
        stream = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stream.st_dev}:{stream.st_ino}"


def as_error(text: str) -> str:
    """Return `text` for stderr, without secrets: each line with the priority of an error where the journal reads it."""
    text = scrub(text)
    return "\n".join(f"<3>{line}" for line in text.splitlines()) if in_journal() else text


def configure(only: str | None = None) -> None:
    """Log to stderr from INFO on (`HOTRELOAD_LOG` names another level). Leaves a logger that has handlers alone.

    `only` names the one logger that is set up, where a foreign server logs in its own way beside it. From here on no
    record and no traceback of this process holds a known secret. A second call changes nothing.
    """
    _scrub_all()
    root = logging.getLogger(only)
    root.propagate = only is None
    if root.handlers:
        return
    handler = logging.StreamHandler(sys.stderr)
    if in_journal():
        handler.setFormatter(JournalFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(ScrubbedFormatter("%(asctime)s %(levelname)-7s %(message)s", datefmt="%H:%M:%S"))
    root.addHandler(handler)
    root.setLevel(os.environ.get("HOTRELOAD_LOG", "INFO").upper())
    logging.getLogger("httpx").setLevel(logging.WARNING)


def _scrub_all() -> None:
    made_by = logging.getLogRecordFactory()
    if isinstance(made_by, ScrubbedRecords):
        return
    logging.setLogRecordFactory(ScrubbedRecords(made_by))
    sys.excepthook = _uncaught
    sys.unraisablehook = lambda met: _uncaught(
        met.exc_type, met.exc_value, met.exc_traceback, f"{met.err_msg or 'Exception ignored in'}: {met.object!r}\n"
    )
    threading.excepthook = lambda met: _uncaught(met.exc_type, met.exc_value, met.exc_traceback)


def _uncaught(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None, where: str = ""
) -> None:
    """Print what nobody caught, as the interpreter does."""
    if sys.stderr is not None and not issubclass(kind, SystemExit):
        told = "".join(traceback.format_exception(kind, error, trace))
        print(as_error(where + told.rstrip("\n")), file=sys.stderr)
