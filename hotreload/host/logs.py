"""Where a serving process' log goes: stderr, as lines for a person or, under systemd, with the journal's priorities.

What a service logs in its own way goes where it says; no way is told a known secret.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable

from hotreload.config.masking import mask_text
from hotreload.config.records import scrub_all

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
    scrub_all(scrub, as_error)
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
