"""The text of a unit, and how an installation's command is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotreload.admin.place import Places
from hotreload.systemd.unit import closed_folder, installed_command, of_openviking, of_service

COMMAND = ["/opt/summaries/bin/hotreload"]


def _lines(text: str, key: str) -> list[str]:
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]


def test_a_service_of_our_own() -> None:
    text = of_service("summaries.service:service", "summaries", COMMAND, http="127.0.0.1:8750").text()
    (command,) = _lines(text, "ExecStart")
    assert command.startswith("/opt/summaries/bin/hotreload run summaries.service:service --config %E/summaries/")
    assert command.endswith(" --name summaries --http 127.0.0.1:8750")
    assert _lines(text, "ExecReload") == ["/opt/summaries/bin/hotreload reload --timeout 45"]
    assert _lines(text, "WatchdogSec") == ["30"]
    assert _lines(text, "RuntimeDirectoryMode") == ["0700"]
    assert _lines(text, "ProtectHome") == ["yes"]
    assert int(_lines(text, "TimeoutStartSec")[0]) > 45, "the client must give up before systemd does"


def test_openviking_has_no_watchdog_and_takes_no_credentials() -> None:
    text = of_openviking(COMMAND).text()
    assert not _lines(text, "WatchdogSec")
    assert "LoadCredential" not in text
    assert "# LoadCredential=FIELD:/etc/x/FIELD" in of_service("service:service", "x", COMMAND).text()


def test_a_user_s_unit_sets_nothing_that_needs_privileges() -> None:
    text = of_openviking(COMMAND, user=True).text()
    assert not any(_lines(text, key) for key in ("User", "ProtectSystem", "SystemCallFilter", "CapabilityBoundingSet"))
    assert _lines(text, "WantedBy") == ["default.target"]


def test_a_user_s_control_socket_is_where_its_name_finds_it() -> None:
    text = of_service("service:service", "x", COMMAND, user=True).text()
    assert _lines(text, "ExecStart")[0].endswith(" --name x --socket %t/hotreload/x.sock")
    assert _lines(text, "ExecReload")[0].endswith(" reload --socket %t/hotreload/x.sock --timeout 45")
    assert not _lines(text, "RuntimeDirectory"), "there the socket would be found by nobody else"
    places = Places.of_process({"XDG_RUNTIME_DIR": "/run/user/7"})
    assert Path("/run/user/7/hotreload/x.sock") in places.of_name("x")


def test_what_is_installed_in_a_home_stays_readable() -> None:
    assert _lines(of_openviking(["/home/ov/venv/bin/hotreload"]).text(), "ProtectHome") == ["read-only"]
    made = of_service("service:service", "x", COMMAND, folder=Path("/root/my 100%"))
    assert _lines(made.text(), "ProtectHome") == ["read-only"]
    assert _lines(made.text(), "WorkingDirectory") == ["/root/my 100%%"]


def test_words_are_quoted_for_systemd() -> None:
    text = of_openviking(["/opt/my tools/$x/100%/hotreload"]).text()
    assert _lines(text, "ExecReload") == ['"/opt/my tools/$$x/100%%/hotreload" reload --timeout 45']


def test_the_command_is_the_script_beside_the_interpreter_or_the_module(tmp_path: Path) -> None:
    python, script = tmp_path / "python", tmp_path / "hotreload"
    assert installed_command(str(python), []) == [str(python), "-m", "hotreload"]
    elsewhere = tmp_path / "bin"
    elsewhere.touch(mode=0o755)
    assert installed_command(str(python), ["hotreload", str(elsewhere)]) == [str(elsewhere)]
    script.touch(mode=0o755)
    assert installed_command(str(python), [str(elsewhere)]) == [str(script)]


@pytest.mark.parametrize("arguments", [[], ["--openviking", "a:b"], ["--openviking", "--http", "127.0.0.1:1"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    from hotreload.cli import run_verb

    assert run_verb(["unit", *arguments]) == 2
    assert "unit" in capsys.readouterr().err


def test_the_verb_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    from hotreload.cli import run_verb

    assert run_verb(["unit", "examples.summaries.service:service", "--user", "--http", "127.0.0.1:8750"]) == 0
    printed = capsys.readouterr().out
    assert "hotreload run examples.summaries.service:service --config %E/summaries/ov.conf" in printed
    assert run_verb(["unit", "--openviking"]) == 0
    assert "ProtectSystem=strict" in capsys.readouterr().out


def test_a_folder_that_the_user_of_a_unit_may_not_enter_is_found(short_path: Path) -> None:
    script = short_path / "closed/bin/hotreload"
    script.parent.mkdir(parents=True)
    for folder in (short_path, *script.parents[:2]):
        folder.chmod(0o755)
    assert closed_folder(script) is None
    script.parents[1].chmod(0o750)
    assert closed_folder(script) == script.parents[1]
