"""No known secret is logged or printed, whoever logs and whatever writes it."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from hotreload.config.fields import FieldRule
from hotreload.config.scrubbing import Scrubber
from hotreload.host import logs

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


def test_the_hook_of_somebody_else_is_left_alone() -> None:
    code = (
        "import sys\nfrom hotreload.host import logs\nhook = lambda *met: print('mine')\n"
        "sys.excepthook = hook\nlogs.configure()\nassert sys.excepthook is hook\n1 / 0\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("mine\n", "")


def test_what_nobody_caught_holds_none() -> None:
    code = f"""
import threading
from hotreload.host import logs
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
fail()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("RuntimeError: connecting with ***") == 3
    assert done.stderr.count("Traceback (most recent call last)") == 3
    assert "Exception ignored in: <function Odd.__del__" in done.stderr
    assert "hunter2" not in done.stderr
