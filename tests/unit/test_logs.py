"""No known secret is logged or printed, whoever logs and whatever writes it."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from hotreload import logs
from hotreload.config.fields import FieldRule
from hotreload.config.secrets import Scrubber

SECRET = 'hunter2 "and" \\more'


class Kept(logging.Handler):
    """A handler of a service that writes records in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self.text = io.StringIO()
        self.writes = logging.StreamHandler(self.text)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it as it is and as plain formatting writes it."""
        self.records.append(record)
        self.writes.emit(record)


@pytest.fixture
def handler() -> Iterator[Kept]:
    """Return the handler of a root that is configured already, secrets known, hooks in place."""
    known = Scrubber()
    known.learn({"password": SECRET}, lambda path: FieldRule(path, secret=True))
    factory, hooks = logging.getLogRecordFactory(), (sys.excepthook, sys.unraisablehook, threading.excepthook)
    root, kept = logging.getLogger(), Kept()
    before, level = root.handlers[:], root.level
    root.handlers[:] = [kept]
    root.setLevel(logging.INFO)
    logs.scrub_with(known.scrub)
    logs.configure()
    yield kept
    logs.scrub_with(logs.mask_text)
    root.handlers[:] = before
    root.setLevel(level)
    logging.setLogRecordFactory(factory)
    sys.excepthook, sys.unraisablehook, threading.excepthook = hooks


@pytest.mark.parametrize("name", ["hotreload.host.host", "a.service", "root"])
def test_a_service_that_logs_in_its_own_way_logs_no_secret(handler: Kept, name: str) -> None:
    log = logging.getLogger(name)
    log.info("with %s and %r", SECRET, {"password": SECRET})
    try:
        raise ConnectionError(f"refused: {SECRET!r}")
    except ConnectionError:
        log.exception("cannot connect", stack_info=True)
    text = handler.text.getvalue()
    assert "hunter2" not in text
    assert "more" not in text
    assert "with *** and {'password': '***'}" in text
    assert "ConnectionError: refused: '***'" in text
    assert "hunter2" not in repr([vars(record) for record in handler.records])


def test_a_record_that_holds_none_stays_as_it_is(handler: Kept) -> None:
    error = ValueError("no")
    logging.getLogger("a.service").warning("%d of %s", 3, "all", exc_info=error)
    (record,) = handler.records
    assert (record.msg, record.args) == ("%d of %s", (3, "all"))
    assert record.exc_info is not None
    assert record.exc_info[1] is error


def test_a_message_that_cannot_be_put_together_shows_no_argument(handler: Kept) -> None:
    arguments = (SECRET,)
    logging.getLogger("a.service").warning("%d and %s", *arguments)
    assert handler.text.getvalue() == "%d and %s (cannot be put together: TypeError)\n"


def test_a_second_call_changes_nothing(handler: Kept) -> None:
    before = logging.getLogRecordFactory(), sys.excepthook, logging.getLogger().handlers[:]
    logs.configure()
    assert (logging.getLogRecordFactory(), sys.excepthook, logging.getLogger().handlers) == before
    assert handler in before[2]


def test_what_is_printed_as_an_error_holds_none(handler: Kept) -> None:
    assert logs.as_error(f"cannot start: {SECRET}") == "cannot start: ***"
    assert logs.scrub(f"{SECRET}!") == "***!"


def test_a_warning_is_logged_without_secrets(handler: Kept) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.configure()
        warnings.warn(f"deprecated: {SECRET!r}", FutureWarning, stacklevel=1)
    text = handler.text.getvalue()
    assert "FutureWarning: deprecated: '***'" in text
    assert "hunter2" not in text


def test_the_hook_of_somebody_else_is_left_alone() -> None:
    code = (
        "import sys\nfrom hotreload import logs\nhook = lambda *met: print('mine')\n"
        "sys.excepthook = hook\nlogs.configure()\nassert sys.excepthook is hook\n1 / 0\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("mine\n", "")


def test_what_nobody_caught_holds_none() -> None:
    code = f"""
import threading
import warnings
from hotreload import logs
logs.configure()
logs.scrub_with(lambda text: text.replace({SECRET!r}, "***"))
def fail():
    raise RuntimeError("connecting with " + {SECRET!r})
thread = threading.Thread(target=fail)
thread.start()
thread.join()
class Odd:
    def __del__(self):
        fail()
odd = Odd()
del odd
warnings.warn("connecting with " + {SECRET!r})
fail()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("RuntimeError: connecting with ***") == 3
    assert done.stderr.count("Traceback (most recent call last)") == 3
    assert "Exception ignored in: <function Odd.__del__" in done.stderr
    assert "UserWarning: connecting with ***" in done.stderr
    assert "hunter2" not in done.stderr


def _as_json(message: str, *arguments: object, **options: Any) -> dict[str, Any]:
    options = {"exc_info": None, "extra": {}, **options}
    record = logging.getLogger("a.service").makeRecord(
        "a.service", logging.WARNING, "here.py", 1, message, arguments, options["exc_info"], extra=options["extra"]
    )
    return json.loads(logs.JsonFormatter().format(record))


def test_a_json_line_has_what_the_message_names_and_what_was_given_beside_it() -> None:
    said = _as_json("job.fenced job=%s lease_seq=%d (%d%%)", "12", 7, 50, extra={"queue": "mail", "level": "mine"})
    assert said.pop("at").endswith("Z")
    assert said == {
        "level": "warning",
        "logger": "a.service",
        "message": "job.fenced job=12 lease_seq=7 (50%)",
        "job": "12",
        "lease_seq": 7,
        "queue": "mail",
    }


def test_a_json_line_tells_an_exception_and_no_secret() -> None:
    known = Scrubber()
    known.learn({"password": SECRET}, lambda path: FieldRule(path, secret=True))
    logs.scrub_with(known.scrub)
    try:
        raise ConnectionError(SECRET)
    except ConnectionError:
        said = _as_json("refused", exc_info=sys.exc_info(), extra={"with": SECRET})
    finally:
        logs.scrub_with(logs.mask_text)
    assert said["exception"].startswith("Traceback")
    assert said["exception"].endswith("ConnectionError: ***")
    assert said["with"] == "***"


@pytest.mark.parametrize("written", ["text", "json"])
def test_a_level_holds_from_then_on_and_text_has_dates(written: str) -> None:
    code = (
        "import logging\nfrom hotreload import logs\n"
        f"logs.configure({written!r}, 'warning')\nlog = logging.getLogger('a')\n"
        "log.info('one'); logs.set_level('debug'); log.debug('two')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    (line,) = done.stderr.splitlines()
    if written == "json":
        assert (json.loads(line)["message"], json.loads(line)["level"]) == ("two", "debug")
    else:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} DEBUG   two", line), line


def test_what_was_not_set_up_here_keeps_its_level() -> None:
    code = (
        "import logging\nfrom hotreload import logs\nlogging.basicConfig(level='ERROR')\n"
        "logs.configure('json', 'debug'); logs.set_level('debug')\nprint(logging.getLogger().level)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{logging.ERROR}\n"


def test_control_characters_are_shown_and_not_obeyed() -> None:
    record = logging.LogRecord(
        "a", logging.ERROR, "f.py", 1, "job failed: %s", ("\x1b[2Jgone\x00\r\x9b1A\n\tnext",), None
    )
    shown = "job failed: \\x1b[2Jgone\\x00\\x0d\\x9b1A\n\tnext"
    assert logs.ScrubbedFormatter("%(message)s").format(record) == shown
    assert logs.JournalFormatter("%(message)s").format(record) == "\n".join(f"<3>{line}" for line in shown.splitlines())
    assert logs.as_error("a\x1bb") == "a\\x1bb"


def test_a_closed_stderr_makes_no_call_of_the_log_raise() -> None:
    code = (
        "import logging, sys\nfrom hotreload import logs\nlogs.configure()\nsys.stderr.close()\n"
        "logging.getLogger('a').error('unheard')\nprint('went on')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "went on\n"
