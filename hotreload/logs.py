"""Where a serving process' log goes: stderr, as lines for a person or, under systemd, with the journal's priorities.

What a service logs in its own way goes where it says; no way is told a known secret.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, TextIO

from hotreload.clock import iso
from hotreload.config.records import scrub_all
from hotreload.config.secrets import mask_text
from hotreload.errors import printable

PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}

_PLACES = re.compile(r"(?:(\w+)=)?%[-+ #0-9.]*([a-zA-Z%])")
_OF_RECORDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}

LogFormat = Literal["text", "json"]
_scrub: Callable[[str], str] = mask_text
_set_up: logging.Logger | None = None
_own: logging.Handler | None = None
"""What `configure` made, where another handler stands in its place."""


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
        return printable(scrub(super().format(record)))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `at` (RFC 3339, UTC), `level`, `logger`, `message`, `exception` where there is one.

    What the message names (`job=%s`) and what is given as `extra` are fields beside these.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        said: dict[str, Any] = {"at": iso(int(record.created * 1000)), "level": record.levelname.lower()}
        said |= {"logger": record.name, "message": record.getMessage()}
        if record.exc_info or record.exc_text or record.stack_info:
            trace = record.exc_text or (self.formatException(record.exc_info) if record.exc_info else "")
            said["exception"] = "\n".join(part for part in (trace, record.stack_info) if part)
        extra = {key: value for key, value in vars(record).items() if key not in _OF_RECORDS}
        for key, value in {**_named(record), **extra}.items():
            said.setdefault(key, value if isinstance(value, (int, float, bool, type(None))) else str(value))
        return json.dumps({key: scrub(value) if isinstance(value, str) else value for key, value in said.items()})


def _named(record: logging.LogRecord) -> dict[str, Any]:
    """Return the arguments of a record that its message names, as `job` in `job=%s`."""
    arguments = record.args if isinstance(record.args, tuple) else ()
    names = [name for name, kind in _PLACES.findall(record.msg) if kind != "%"] if isinstance(record.msg, str) else []
    return {name: value for name, value in zip(names, arguments, strict=False) if name}


class JournalFormatter(ScrubbedFormatter):
    """Prefixes every line with its syslog priority, `<3>`, as sd-daemon(3) has it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's lines, each with the priority of its level."""
        prefix = f"<{PRIORITY.get(record.levelno, 6)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


def in_journal() -> bool:
    """Tell whether stderr is the journal's: `JOURNAL_STREAM` is inherited by who writes elsewhere (systemd.exec(5))."""
    try:
        stream = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stream.st_dev}:{stream.st_ino}"


def as_error(text: str) -> str:
    """Return `text` for stderr, without secrets: each line with the priority of an error where the journal reads it."""
    text = printable(scrub(text))
    return "\n".join(f"<3>{line}" for line in text.splitlines()) if in_journal() else text


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to stderr; once a job has closed it, nothing is written and nothing is raised."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say on stderr what went wrong, as far as that can be written to."""
        with suppress(ValueError):
            super().handleError(record)


def configure(written: LogFormat = "text", level: str = "info", *, only: str | None = None) -> None:
    """Log to stderr, for the commands that serve; a library in another's process never calls this.

    A logger that has handlers is left alone, as the service logs in its own way then. `only` names the one logger that
    is set up, where a foreign server logs in its own way beside it. From here on no record and no traceback of this
    process holds a known secret. A second call changes nothing.
    """
    global _set_up
    scrub_all(scrub, as_error)
    root = logging.getLogger(only)
    root.propagate = only is None
    if root.handlers:
        return
    handler = StderrHandler(sys.stderr)
    if written == "json":
        handler.setFormatter(JsonFormatter())
    elif in_journal():
        handler.setFormatter(JournalFormatter("%(name)s: %(message)s"))
    else:
        handler.setFormatter(ScrubbedFormatter("%(asctime)s %(levelname)-7s %(message)s"))
    root.addHandler(handler)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    _set_up = root
    set_level(level)


def redirect(handler: logging.Handler | None) -> None:
    """Log to `handler` from now on, None: to stderr again; nothing where `configure` set up no logger."""
    global _own
    if _set_up is None:
        return
    _own = _own or _set_up.handlers[0]
    _set_up.handlers[:] = [handler or _own]


def set_level(level: str) -> None:
    """Log from this level on; nothing where `configure` set up no logger."""
    if _set_up is not None:
        _set_up.setLevel(level.upper())
