"""Log records, warnings and uncaught exceptions without secrets, whatever code logs and whatever writes them."""

from __future__ import annotations

import logging
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, TextIO

Scrub = Callable[[str], str]


class ScrubbedRecords:
    """Makes records without secrets, whatever handler or formatter writes them.

    A record in which nothing is masked stays as it is, arguments and exception included. What is given as `extra`
    is added later by `logging` and not looked at.
    """

    def __init__(self, made_by: Callable[..., logging.LogRecord], scrub: Scrub) -> None:
        self._made_by = made_by
        self._scrub = scrub

    def __call__(self, *args: Any, **kwargs: Any) -> logging.LogRecord:
        """Make one record."""
        record = self._made_by(*args, **kwargs)
        self._scrub_message(record)
        self._scrub_exception(record)
        return record

    def _scrub_message(self, record: logging.LogRecord) -> None:
        try:
            said = record.getMessage()
        except Exception as error:  # noqa: BLE001 - logging itself would print the arguments as they are
            record.msg, record.args = f"{record.msg} (cannot be put together: {type(error).__name__})", ()
            return
        if (clean := self._scrub(said)) != said:
            record.msg, record.args = clean, ()

    def _scrub_exception(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[0] is not None:
            told = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
            if (clean := self._scrub(told)) != told:
                record.exc_text, record.exc_info = clean, None
        if record.stack_info:
            record.stack_info = self._scrub(record.stack_info)


def scrub_all(scrub: Scrub, say: Callable[[str], str] = str) -> None:
    """Let every record, warning and uncaught exception of this process pass through `scrub`.

    Exceptions are printed on stderr as `say` returns them, warnings where there is no handler for the logger
    `py.warnings`. A hook that other code has set is left alone; a second call changes nothing.
    """
    made_by = logging.getLogRecordFactory()
    if isinstance(made_by, ScrubbedRecords):
        return
    logging.setLogRecordFactory(ScrubbedRecords(made_by, scrub))

    def uncaught(
        kind: type[BaseException], error: BaseException | None, trace: TracebackType | None, where: str = ""
    ) -> None:
        if sys.stderr is not None and not issubclass(kind, SystemExit):
            told = where + "".join(traceback.format_exception(kind, error, trace)).rstrip("\n")
            print(say(scrub(told)), file=sys.stderr)

    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = uncaught
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = lambda met: uncaught(
            met.exc_type, met.exc_value, met.exc_traceback, f"{met.err_msg or 'Exception ignored in'}: {met.object!r}\n"
        )
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = lambda met: uncaught(met.exc_type, met.exc_value, met.exc_traceback)
    if getattr(warnings.showwarning, "__module__", None) == "warnings":
        warnings.showwarning = partial(_show_warning, scrub, say)


def _show_warning(
    scrub: Scrub,
    say: Callable[[str], str],
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Log a warning as the standard library would, or print it where nothing handles it."""
    told = scrub(warnings.formatwarning(message, category, filename, lineno, line)).rstrip("\n")
    log = logging.getLogger("py.warnings")
    if file is None and log.hasHandlers():
        log.warning("%s", told)
    elif file is not None or sys.stderr is not None:
        print(say(told), file=file or sys.stderr)
