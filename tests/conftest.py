"""What all tests share: the backend, deadlines of Hypothesis, folders for sockets, figures shown, no skips in CI."""

from __future__ import annotations

import faulthandler
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.contracts.postgres import Server
from tests.systemd.base import NOT_ROOT

FIGURE = "figure"
INHERITED = re.compile(  # what a service manager, a shell's profile or a running hotreload may leave in the environment
    "OVCONF__|OPENVIKING_CONFIG_FILE|HOTRELOAD_(SOCKET|GENERATION|KEY_FILE|URL|LOG_LEVEL|LOG_FORMAT)$"
    "|(NOTIFY_SOCKET|LISTEN_FDNAMES|LISTEN_FDS|LISTEN_PID|WATCHDOG_PID|WATCHDOG_USEC)$"
    "|(CREDENTIALS|RUNTIME|STATE)_DIRECTORY$"
)
IN_CI = os.environ.get("CI", "").lower() not in ("", "0", "false")

hypothesis.settings.register_profile("shared", deadline=None, derandomize=IN_CI)  # what CI finds is found again
hypothesis.settings.load_profile("shared")


def pytest_configure() -> None:
    """Give children the same process everywhere: `nohup` leaves SIGHUP ignored, a shell's `&` SIGINT and SIGQUIT."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in [name for name in os.environ if INHERITED.match(name)]:
        del os.environ[name]
    os.umask(0o022)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End a run whose interpreter waits for a thread that a failed test left behind; workers end with their run."""
    if hasattr(config, "workerinput"):
        return
    faulthandler.dump_traceback_later(60, exit=True, file=sys.__stderr__)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The one backend promised."""
    return "asyncio"


@pytest.fixture(scope="module")
def own_server() -> Iterator[Server]:
    """A PostgreSQL of one module alone, which it may stop and whose connections it may cut."""
    server = Server()
    yield server
    server.remove()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A private folder with a path short enough for a UNIX socket (108 bytes), whatever the base of tmp_path is."""
    folder = Path(tempfile.mkdtemp(prefix="hr-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def kept_path(tmp_path: Path) -> Iterator[Path]:
    """A private folder in memory where there is one: what a killed process wrote is kept there as on a disk, faster."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    folder = Path(tempfile.mkdtemp(prefix="hr-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Take a line of what was measured; all of them are printed at the end of the run, with the test's name."""

    def measured(line: str) -> None:
        request.node.user_properties.append((FIGURE, f"{request.node.name}: {line}"))

    return measured


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tests measured, whichever process they ran in."""
    reports = [report for group in terminalreporter.stats.values() for report in group if hasattr(report, "nodeid")]
    told = [value for report in reports for name, value in getattr(report, "user_properties", ()) if name == FIGURE]
    if told:
        terminalreporter.section("figures")
        for line in dict.fromkeys(told):
            terminalreporter.write_line(line)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped test has failed: what it needs belongs into `.ci/run`, but for being root."""
    report = yield
    return _no_skip(report, item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module that is skipped whole."""
    report = yield
    return _no_skip(report, collector.nodeid)


def _no_skip(report: Any, where: str) -> Any:
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        if not str(reason).endswith(NOT_ROOT):
            report.outcome = "failed"
            report.longrepr = f"{where}: no test may skip in CI: {reason}"
    return report
