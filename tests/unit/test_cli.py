"""The verbs against a small real process: what they print, where, and the exit codes of the contract."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from pydantic import SecretStr

from hotreload.admin.control_socket import bind_tcp
from hotreload.admin.place import Places
from hotreload.cli import run_verb
from hotreload.cli.client import Client
from hotreload.cli.exits import Exit, Failure
from hotreload.cli.fleet import show_nodes
from hotreload.cli.follow import follow_drain
from hotreload.cli.show import console, drain_view
from hotreload.cli.verbs import root
from hotreload.client.find import Wanted, find
from hotreload.client.trusted import trusted_uids
from hotreload.config.fields import Effect
from hotreload.errors import ConfigInvalid, Problem, StoreOwned
from hotreload.reload.report import Change, Outcome, PendingRestart
from tests.commands import walk
from tests.control import FakeControl, Settings, report, serving

TARGET = "tests.unit.test_cli:service"


class DeclaredService:
    """What `MODULE:ATTR` names in these tests; `outcome` is what comes of it."""

    name = "declared"
    outcome: Any = None

    def check(self, config: Path | None) -> Any:
        errors = () if self.outcome is None else (Problem("vlm.model", "field required", str(config), 3, 9),)
        outcome = Outcome.REJECTED if errors else Outcome.VALID
        return report(outcome, errors=errors, dry_run=True, generation=0, previous_generation=0)

    def schema(self) -> dict[str, Any]:
        return {"type": "object"}

    def run(self, options: Any) -> int:
        self.options = options
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return int(self.outcome or 0)


service = DeclaredService()
not_a_service = object()


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the environment name no service, and no test leave an outcome behind."""
    for name in ("HOTRELOAD_URL", "HOTRELOAD_KEY_FILE", "HOTRELOAD_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    service.outcome = None


@pytest.fixture
def places(short_path: Path) -> Places:
    """Where verbs look for a service, instead of this machine's places."""
    return Places(os.geteuid(), None, short_path / "system", short_path / "xdg", short_path / "hotreload-0")


@dataclass
class Running:
    """A served FakeControl, reached at `socket`."""

    portal: BlockingPortal
    socket: Path
    control: FakeControl

    def serve(self, **where: Any) -> AbstractContextManager[Any]:
        return self.portal.wrap_async_context_manager(serving(self.control, **where))


@pytest.fixture
def running(short_path: Path) -> Iterator[Running]:
    with start_blocking_portal("asyncio") as portal:
        served = Running(portal, short_path / "s" / "hotreload.sock", FakeControl())
        with served.serve(socket=served.socket):
            yield served


@asynccontextmanager
async def _task(call: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        yield


Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ask(capsys: pytest.CaptureFixture[str], places: Places) -> Ask:
    """Run a verb; return exit code, standard output and standard error."""

    def call(*arguments: object, places: Places = places) -> tuple[int, str, str]:
        code = run_verb([str(argument) for argument in arguments], places)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


# --- help and usage ---------------------------------------------------------------------------------------------


def test_the_version_is_that_of_the_distribution(ask: Ask) -> None:
    assert ask("--version")[:2] == (0, f"hotreload, version {version('openviking-hotreload')}\n")


def test_every_verb_explains_itself_with_an_example(ask: Ask) -> None:
    for path, _ in walk(root):
        code, out, _ = ask(*path, "--help")
        assert code == 0
        assert f"\n  hotreload {' '.join(path)}" in out, path


@pytest.mark.parametrize(
    "arguments",
    [
        ("fly",), ("reload", "--timeout", "soon"), ("reload", "--timeout", "-1"),
        ("reload", "--timeout", "inf"), ("reload", "--timeout", "nan"),
        ("status", "--url", "\udcff"), ("status", "--watch", "--json"),
        ("check",), ("check", "m:a", "--against-running"), ("run", "m:a", "--http", "8750"),
        ("run", "m:a", "--name", "../x"), ("status", "--name", "../x"), ("status", "--url", "localhost"),
        ("status", "--url", "http://x", "--key-file", "/nonexistent"), ("status", "--url", "http://h:abc"),
        ("status", "--url", "http://"), ("status", "--url", "ftp://h"), ("jobs", "retry"), ("jobs", "fly"),
        ("jobs", "add", "q", "[NaN]"), ("jobs", "add", "q", "[1e999]"), ("jobs", "add", "q", "[" * 100_000),
        ("jobs", "add", "q", "{}", "--delay", "nan"), ("jobs", "add", "q", "{}", "--delay", "inf"),
    ],
)  # fmt: skip
def test_wrong_usage_is_exit_2_and_its_first_line_says_what_is_wrong(ask: Ask, arguments: tuple[str, ...]) -> None:
    code, out, err = ask(*arguments)
    assert code == Exit.USAGE
    if "--json" in arguments:
        assert json.loads(out)["exit_code"] == Exit.USAGE
    else:
        assert out == ""
    first, *more = err.splitlines()
    assert first.startswith("hotreload: ")
    assert "Usage:" not in first
    if "--url" not in arguments and arguments[:2] != ("status", "--name"):
        verb = arguments[0] if len(arguments) > 1 or arguments[0] == "check" else ""
        assert more[0].startswith(f"  Usage: hotreload {verb}".rstrip())


def test_the_command_alone_shows_its_help(ask: Ask) -> None:
    code, out, err = ask()
    assert code == Exit.USAGE
    assert err.startswith("Usage: hotreload")
    assert out == ""


@pytest.mark.parametrize("key", ["sch\u00fcssel", "two lines\nof it", "a key", "", "\x00"])
def test_a_key_that_cannot_be_sent_is_not_shown(ask: Ask, tmp_path: Path, key: str) -> None:
    (tmp_path / "key").write_text(key)
    code, out, err = ask("status", "--url", "http://127.0.0.1:1", "--key-file", tmp_path / "key")
    assert (code, out) == (Exit.USAGE, "")
    assert len(err.splitlines()) == 1
    assert not key.strip("\0") or key not in err


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("nocolon", "is not of the form MODULE:ATTR"),
        ("no.such.module:x", "cannot import no.such.module"),
        ("tests.unit.test_cli:nothing", "has no nothing"),
        ("tests.unit.test_cli:not_a_service", "not a hotreload.Service"),
    ],
)
def test_a_target_that_cannot_be_loaded_is_exit_2(ask: Ask, target: str, reason: str) -> None:
    for verb in ("run", "check"):
        code, _, err = ask(verb, target)
        assert code == Exit.USAGE
        assert reason in err.splitlines()[0]


@pytest.mark.parametrize(
    ("name", "code", "first"),
    [
        ("raises", "raise ValueError('half\\nway')", ":2: ValueError: half way"),
        ("exits", "raise SystemExit(0)", ":2: SystemExit: 0"),
        ("calls_exit", "import sys; sys.exit()", ":2: SystemExit: "),
        ("is_interrupted", "raise KeyboardInterrupt", ":2: KeyboardInterrupt: "),
        ("is_no_python", "def (:", ":2: SyntaxError: invalid syntax"),
        ("lacks_a_module", "import no_such_module_at_all", ":2: ModuleNotFoundError: No module named 'no_such_mod"),
        ("lacks_a_name", "from os import no_such_name", ":2: ImportError: cannot import name 'no_such_name'"),
        ("raises_a_group", "raise BaseExceptionGroup('two', [SystemExit(1), ValueError()])", ":2: BaseExceptionGroup"),
    ],
)
def test_a_target_that_raises_shows_where(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: str, first: str
) -> None:
    (tmp_path / f"target_that_{name}.py").write_text(f"x = 1\n{code}\n")
    monkeypatch.chdir(tmp_path)
    for verb in ("run", "check", "schema"):
        exit_code, _, err = ask(verb, f"target_that_{name}:service")
        assert exit_code == Exit.USAGE
        assert f"target_that_{name}.py{first}" in err.splitlines()[0]
        assert "/hotreload/" not in err.replace("/tests/", "")


# --- run and check ----------------------------------------------------------------------------------------------


def test_run_hands_its_options_on_and_returns_the_code(ask: Ask) -> None:
    service.outcome = 1
    options = ("--config", "ov.conf", "--http", "127.0.0.1:0", "--name", "docs", "--until-idle", "--last-known-good")
    assert ask("run", TARGET, *options)[0] == 1
    assert (service.options.config, service.options.http, service.options.name) == (
        Path("ov.conf"),
        "127.0.0.1:0",
        "docs",
    )
    assert service.options.until_idle
    assert service.options.last_known_good


def test_run_that_cannot_start(ask: Ask) -> None:
    service.outcome = ConfigInvalid([Problem("a", "one", "ov.conf", 1, 2), Problem("b", "two")])
    code, _, err = ask("run", TARGET)
    assert code == Exit.CONFIG == 78
    assert err == "hotreload: cannot start: ov.conf:1:2: a: one\n  b: two\n"
    service.outcome = StoreOwned("queue.db", "pid 7")
    assert ask("run", TARGET)[0] == Exit.REFUSED_BY_STATE
    service.outcome = OSError(98, "127.0.0.1:8750 is in use by another process")
    code, _, err = ask("run", TARGET)
    assert (code, err) == (Exit.REFUSED_BY_STATE, "hotreload: 127.0.0.1:8750 is in use by another process\n")


def test_check_a_target(ask: Ask) -> None:
    code, out, err = ask("check", TARGET, "--config", "ov.conf")
    assert (code, err) == (Exit.DONE, "")
    assert out.startswith("valid")
    service.outcome = 1
    code, out, err = ask("check", TARGET, "--config", "ov.conf")
    assert (code, out) == (Exit.REFUSED_BY_CONTENT, "")
    assert err == "hotreload: rejected: ov.conf:3:9: vlm.model: field required\n"
    code, out, _ = ask("check", TARGET, "--json")
    assert (code, json.loads(out)["outcome"]) == (Exit.REFUSED_BY_CONTENT, "rejected")


def test_check_against_running_is_a_dry_run(ask: Ask, running: Running, tmp_path: Path) -> None:
    running.control.outcome = Outcome.VALID
    running.control.config_file = str(tmp_path / "ov.conf")
    place = ("--socket", running.socket)
    assert ask("check", "--against-running", *place)[0] == Exit.DONE
    assert ask("check", "--against-running", "--config", tmp_path / "ov.conf", *place)[0] == Exit.DONE
    assert all(ticket.report.dry_run for ticket, _ in running.control.submitted)
    code, _, err = ask("check", "--against-running", "--config", tmp_path / "other.conf", *place)
    assert (code, len(running.control.submitted)) == (Exit.REFUSED_BY_CONTENT, 2)
    assert "cannot be read: No such file" in err
    (tmp_path / "other.conf").write_bytes(b'{"a": "\xc3"}')
    assert ask("check", "--against-running", "--config", tmp_path / "other.conf", *place)[0] == Exit.DONE
    assert running.control.checked == [("other.conf", b'{"a": "\xc3"}')]


def test_check_against_running_tells_the_plan_field_by_field(ask: Ask, running: Running) -> None:
    place = ("--socket", running.socket)
    running.control.outcome = Outcome.VALID
    running.control.pending = (PendingRestart("storage.workspace", "/a", "/b", "it is opened at the start"),)
    code, out, err = ask("check", "--against-running", *place)
    assert (code, err) == (Exit.DONE, "")
    lines = [line.split() for line in out.splitlines()]
    assert ["vlm.max_concurrent", "4", "12", "live", "workers.semantic"] in lines
    assert ["storage.workspace", '"/a"', '"/b"', "it", "is", "opened", "at", "the", "start"] in lines
    assert lines[-1] == ["unchanged:", "1", "fields"]
    assert ask("check", "--against-running", "--verbose", *place)[1].endswith("unchanged: 1 fields: vlm.api_key\n")
    report = json.loads(ask("check", "--against-running", "--json", *place)[1])
    assert (report["outcome"], report["unchanged"]) == ("valid", ["vlm.api_key"])


def test_a_plan_that_is_refused_is_told_below_its_errors(ask: Ask, running: Running) -> None:
    running.control.outcome = Outcome.REJECTED
    running.control.errors = (Problem("embedding.dim", "cannot be changed here"),)
    running.control.changes = (Change("embedding.dim", 8, 16, Effect.REFUSED),)
    code, out, err = ask("check", "--against-running", "--socket", running.socket)
    assert code == Exit.REFUSED_BY_CONTENT
    assert err.splitlines()[0] == "hotreload: rejected, generation 8 stays: embedding.dim: cannot be changed here"
    assert err.splitlines()[1].startswith("  id ")
    assert ["embedding.dim", "8", "16", "refused"] in [line.split() for line in out.splitlines()]
    assert out.splitlines()[-1] == "unchanged: 3 fields"
    running.control.changes = ()  # the file itself is broken: there is no plan
    assert ask("check", "--against-running", "--socket", running.socket)[1] == ""


def test_another_file_is_checked_over_tcp_without_the_variables_of_the_process(
    ask: Ask, running: Running, tmp_path: Path
) -> None:
    (tmp_path / "other.conf").write_text("{}")
    (tmp_path / "key").write_text("k" * 32)
    running.control.settings = Settings(SecretStr("k" * 32))
    listener = bind_tcp("127.0.0.1", 0)
    with running.serve(listener=listener):
        place = ("--url", f"http://127.0.0.1:{listener.getsockname()[1]}", "--key-file", tmp_path / "key")
        code, _, err = ask("check", "--against-running", "--config", tmp_path / "other.conf", *place)
    assert (code, err) == (Exit.DONE, "")
    assert running.control.expanded == [False]


def test_schema_is_printed_as_it_is(ask: Ask) -> None:
    code, out, err = ask("schema", TARGET)
    assert (code, json.loads(out), err) == (Exit.DONE, {"type": "object"}, "")
    assert ask("schema", TARGET, "--json") == (code, out, err)


def test_what_a_module_prints_when_imported_is_no_part_of_an_answer(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "from tests.unit.test_cli import DeclaredService\nprint('hello')\nservice = DeclaredService()\n"
    (tmp_path / "chatty.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    for verb in ("check", "schema", "unit"):
        monkeypatch.delitem(sys.modules, "chatty", raising=False)
        code, out, err = ask(verb, "chatty:service", "--json")
        assert (code, isinstance(json.loads(out), dict), err.splitlines()[0]) == (0, True, "hello")
    assert json.loads(out)["unit"] == ask("unit", "chatty:service")[1]


# --- reload -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "errors", "expected"),
    [
        (Outcome.APPLIED, (), 0),
        (Outcome.UNCHANGED, (), 0),
        (Outcome.VALID, (), 0),
        (Outcome.REJECTED, (Problem("vlm.max_concurrent", "too small", "ov.conf", 14, 23, "-3", "1 to 1024"),), 1),
        (Outcome.ROLLED_BACK, (Problem("vlm", "prepare failed"),), 1),
        (Outcome.REFUSED, (Problem("phase", "the service is draining"),), 4),
        (Outcome.REFUSED, (Problem("generation", "it moved on"),), 4),
    ],
)
def test_a_verdict_is_an_exit_code(
    ask: Ask, running: Running, outcome: Outcome, errors: tuple[Problem, ...], expected: int
) -> None:
    running.control.outcome, running.control.errors = outcome, errors
    code, out, err = ask("reload", "--socket", running.socket)
    assert code == expected
    ticket, trigger = running.control.submitted[0]
    assert trigger.kind == "cli"
    assert ticket.id != "5f0c"
    if expected == 0:
        assert "vlm.max_concurrent" in out
        assert "7 → 8" in out
        assert err == ""
    else:
        assert out == ""
        assert err.splitlines()[0] == f"hotreload: {outcome}, generation 8 stays: {errors[0]}"


def test_all_errors_and_warnings_come_below_the_first_line(ask: Ask, running: Running) -> None:
    running.control.outcome = Outcome.REJECTED
    running.control.errors = (Problem("a", "one"), Problem("b", "two", "ov.conf", 2, 3))
    _, _, err = ask("reload", "--socket", running.socket)
    [(ticket, _)] = running.control.submitted
    assert err.splitlines()[1:] == ["  ov.conf:2:3: b: two", f"  id {ticket.id}"]


def test_json_is_one_document_whatever_comes_of_it(ask: Ask, running: Running) -> None:
    for outcome in (Outcome.APPLIED, Outcome.REJECTED):
        running.control.outcome = outcome
        _, out, _ = ask("reload", "--json", "--socket", running.socket)
        assert json.loads(out)["outcome"] == outcome.value
    _, out, _ = ask("status", "--json", "--socket", running.socket)
    assert json.loads(out) == running.control.status()
    code, out, err = ask("reload", "--json", "--socket", "/nonexistent/x.sock")
    assert (code, json.loads(out)["exit_code"]) == (3, 3)
    assert err.startswith("hotreload: ")


def test_pending_restart_fails_only_where_asked_for(ask: Ask, running: Running) -> None:
    running.control.pending = (PendingRestart("storage.workspace", "/a", "/b", "it is opened at the start"),)
    code, out, _ = ask("reload", "--socket", running.socket)
    assert code == 0
    assert "storage.workspace" in out
    assert ask("reload", "--fail-on-pending-restart", "--socket", running.socket)[0] == Exit.PENDING_RESTART


def test_a_timeout_prints_the_id_and_the_reload_goes_on(ask: Ask, running: Running) -> None:
    running.control.held = True
    code, out, err = ask("reload", "--timeout", "0.5", "--socket", running.socket)
    ticket, _ = running.control.submitted[0]
    assert (code, out) == (Exit.TIMED_OUT, "")
    assert ticket.id in err
    assert not ticket.over.is_set()


def test_a_fraction_of_a_second_is_waited_for(ask: Ask, running: Running) -> None:
    running.control.held = True

    async def decide() -> None:
        await running.control.until(lambda: bool(running.control.submitted))
        running.control.submitted[0][0].over.set()

    with running.portal.wrap_async_context_manager(_task(decide)):
        assert ask("reload", "--timeout", "0.9", "--socket", running.socket)[0] == 0


def test_the_id_of_a_reload_that_was_joined_is_that_reloads(ask: Ask, running: Running) -> None:
    running.control.held = True
    running.control.joined = "0123abcd"
    code, out, err = ask("reload", "--timeout", "0.1", "--json", "--socket", running.socket)
    assert (code, json.loads(out)["id"]) == (Exit.TIMED_OUT, "0123abcd")
    assert err.splitlines()[0].endswith("its id is 0123abcd")


# --- finding the service ----------------------------------------------------------------------------------------


def test_nothing_running_says_where_was_looked(ask: Ask, short_path: Path) -> None:
    code, _, err = ask("status")
    assert code == Exit.UNREACHABLE
    for place in ("system/*/hotreload.sock", "xdg/hotreload/*.sock", "hotreload-"):
        assert place in err
    code, _, err = ask("status", "--name", "docs")
    assert code == Exit.UNREACHABLE
    assert err.splitlines()[0] == "hotreload: no service 'docs' is running"
    assert f"{short_path}/system/docs/hotreload.sock: no such socket" in err


def test_the_only_running_service_needs_no_name(
    ask: Ask, running: Running, places: Places, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running.serve(socket=short_path / "xdg" / "hotreload" / "docs.sock"):
        assert ask("status")[0] == 0
        assert ask("status", "--name", "docs")[0] == 0
        with running.serve(socket=short_path / "system" / "other" / "hotreload.sock"):
            code, _, err = ask("status")
            assert (code, "docs" in err, "other" in err) == (Exit.USAGE, True, True)
            assert ask("status", "--name", "other")[0] == 0
        started_by_systemd = replace(places, runtime_directory=running.socket.parent)
        assert ask("status", "--name", "nobody", places=started_by_systemd)[0] == 0
        monkeypatch.setenv("HOTRELOAD_SOCKET", "/nonexistent/x.sock")
        assert ask("status")[0] == Exit.UNREACHABLE
        assert ask("status", "--socket", running.socket)[0] == 0


def test_a_socket_nobody_listens_on(ask: Ask, short_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(short_path / "dead.sock"))
    code, _, err = ask("status", "--socket", short_path / "dead.sock")
    assert code == Exit.UNREACHABLE
    assert "no process listens there" in err


VERBS = [("status",), ("reload",), ("drain",), ("jobs", "list"), ("jobs", "show", "1"), ("reindex",), ("backup", "f")]


@pytest.mark.parametrize("body", ["{}", "[]", "<html>", "[" * 100_000])
@pytest.mark.parametrize("verb", VERBS)
def test_another_program_that_answers_is_not_a_service(ask: Ask, verb: tuple[str, ...], body: str) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET

        def log_request(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            code, _, err = ask(*verb, "--url", f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
    assert code in (Exit.UNREACHABLE, Exit.REFUSED_BY_STATE)
    assert len(err.splitlines()) == 1
    assert "another program listens there" in err or "over the control socket" in err


def test_over_tcp_with_a_key_file(ask: Ask, running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    running.control.settings = Settings(SecretStr("k" * 32))
    (tmp_path / "key").write_text("k" * 32 + "\n")
    listener = bind_tcp("127.0.0.1", 0)
    monkeypatch.setenv("HOTRELOAD_URL", f"http://127.0.0.1:{listener.getsockname()[1]}/")
    with running.serve(listener=listener):
        code, _, err = ask("status")
        assert (code, "401" in err) == (Exit.REFUSED_BY_STATE, True)
        monkeypatch.setenv("HOTRELOAD_KEY_FILE", str(tmp_path / "key"))
        assert ask("reload")[0] == 0
    assert running.control.submitted[0][1].kind == "http"
    code, _, err = ask("status")
    assert code == Exit.UNREACHABLE
    assert "does not answer" in err


def test_whose_server_is_trusted() -> None:
    assert trusted_uids(1000, 33, default_place=False) == {1000, 0}
    assert trusted_uids(0, 33, default_place=False) == {0, 33}
    assert trusted_uids(0, 33, default_place=True) == {0}


# --- status and drain -------------------------------------------------------------------------------------------


def test_status_shows_what_a_person_wants_to_know(ask: Ask, running: Running) -> None:
    running.control.degraded = "runs on the last-known-good file"
    code, out, _ = ask("status", "--socket", running.socket)
    assert code == 0
    for text in ("summaries", "generation 8", "semantic", "degraded: runs on", "last reload: rejected", "vlm: no"):
        assert text in out
    assert "\x1b" not in out


def test_the_start_of_a_client_imports_nothing_that_only_a_service_needs() -> None:
    """Half a second is what that took of each command."""
    heavy = "{'asyncio', 'pydantic', 'starlette', 'uvicorn'}"
    program = f"import sys, hotreload.cli; print(*{heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.fixture
def process(short_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a process that serves until it is drained."""
    started: list[subprocess.Popen[str]] = []

    def start(lost: int = 0, told: str = "told") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.control", str(short_path / "p.sock"), str(lost), told]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "listening\n"
        return child

    yield start
    for child in started:
        child.kill()
        child.communicate()


def test_a_node_that_has_said_nothing_yet_is_starting(capsys: pytest.CaptureFixture[str]) -> None:
    show_nodes([{"name": "a", "alive": True, "differs": False, "seen_at": ""}], as_json=False)
    assert capsys.readouterr().out.splitlines()[1].split() == ["a", "starting"]


def test_a_drain_that_could_not_be_written_says_where_the_jobs_are(capsys: pytest.CaptureFixture[str]) -> None:
    report = {"elapsed_s": 1.0, "deadline_s": 5, "lost": 0, "flushed": False, "unflushed": ["a", "b"], "failed": ["c"]}
    console().print(drain_view(report))
    text = " ".join(capsys.readouterr().out.split())
    assert "1 failed; 0 lost; the store could not be written: 2 go back to the queue at the next start" in text


def test_drain_follows_until_the_process_is_gone(ask: Ask, process: Any, short_path: Path) -> None:
    child = process()
    code, out, _ = ask("drain", "--socket", short_path / "p.sock")
    assert child.poll() == 0
    assert code == Exit.DONE
    assert "grace: 2 of 3 jobs, 4 s left\ngrace: 1 of 3 jobs, 4 s left\ngrace: 0 of 3 jobs, 4 s left\n" in out
    assert out.splitlines()[-1].startswith("drained in 0.20 s of 5 s: 1 finished, 2 requeued, 1 checkpointed")
    process()
    code, out, _ = ask("drain", "--json", "--deadline", 3, "--socket", short_path / "p.sock")
    assert (code, json.loads(out)["requeued"]) == (Exit.DONE, ["b", "c"])


def test_a_drain_that_lost_or_did_not_tell_is_no_success(ask: Ask, process: Any, short_path: Path) -> None:
    process(lost=1)
    assert ask("drain", "--socket", short_path / "p.sock")[0] == Exit.REFUSED_BY_CONTENT
    process(told="silent")
    code, _, err = ask("drain", "--socket", short_path / "p.sock")
    assert code == Exit.REFUSED_BY_CONTENT
    assert "report was not seen" in err


def test_a_process_that_stays_is_a_timeout(running: Running) -> None:
    with Client(find(Wanted(socket=running.socket))) as client, pytest.raises(Failure, match="still there") as failed:
        follow_drain(client, None, quiet=True, margin_s=-3.7)
    assert failed.value.code is Exit.TIMED_OUT


def test_watch_prints_lines_off_a_terminal_until_the_service_is_gone(process: Any, short_path: Path) -> None:
    process()
    command = [sys.executable, "-m", "hotreload", "status", "--watch", "--socket", str(short_path / "p.sock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        line = "running generation=8 semantic=4/4 semantic:ready=9,dead=2\n"
        assert watching.stdout.readline() == line
        assert run_verb(["drain", "--socket", str(short_path / "p.sock")]) == 0
        rest = watching.stdout.read()
    assert rest.splitlines()[-1] == "the service is gone"
    assert watching.returncode == 0
