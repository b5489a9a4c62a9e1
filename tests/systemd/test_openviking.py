"""Stock OpenViking under its units: reload, a restart in an import that loses no client, a start that fails."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest

from tests.process.manager import losses
from tests.systemd.base import ROOT
from tests.systemd.load import APP, PYTHON, load
from tests.systemd.unit import Manager, Unit, UserManager, printed

NAME = "openviking"
KEY = "root-key-of-a-test-0123456789"
PORT, MODEL = 1933, 8751
DOCUMENTS = 12
START_S = 180.0

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.parametrize("box", ["trixie"], indirect=True, ids=["systemd-257"]),
]


class OpenViking(Unit):
    """`openviking.service`, as printed."""

    def __init__(self, manager: Manager) -> None:
        super().__init__(manager, NAME)
        self.write_unit(printed(self.box, "--openviking", *manager.options))

    def configure(self, limit: int = 4) -> None:
        """Write ov.conf; `limit` is for model calls at once."""
        model = {"provider": "openai", "api_base": f"http://127.0.0.1:{MODEL}/v1"}
        settings: dict[str, Any] = {
            "hotreload": {"watch": False, "drain_deadline_s": 15.0},
            "server": {"host": "127.0.0.1", "port": PORT, "root_api_key": KEY},
            "storage": {
                "workspace": f"{self.manager.state(NAME)}/data",
                "vectordb": {"backend": "local"},
                "agfs": {"backend": "local"},
            },
            "embedding": {"dense": {**model, "model": "stub-embedding", "api_key": "key-e", "dimension": 8}},
            "vlm": {**model, "model": "stub", "api_key": "key-1", "max_concurrent": limit, "max_retries": 0},
        }
        self.write(json.dumps(settings))

    def importer(self, *arguments: str, within_s: float = 180) -> list[str]:
        """Run the importer inside; returns what it found unfinished."""
        return json.loads(self.box.ok(PYTHON, f"{APP}/importer.py", *arguments, within_s=within_s))


class Model:
    """The endpoint that OpenViking asks; it can be made to hold every call."""

    def __init__(self, openviking: OpenViking) -> None:
        self._box = openviking.box
        started = ("--unit=model", PYTHON, f"{APP}/endpoint.py", "--port", str(MODEL), "--latency", "0.2")
        self._box.ok("systemd-run", *started)
        self._box.until('"url"', "_SYSTEMD_UNIT=model.service")

    def set(self, **behaviour: Any) -> None:
        """Change what the next calls meet."""
        address = f"http://127.0.0.1:{MODEL}/control"
        program = f"import httpx; httpx.patch({address!r}, json={behaviour!r}, trust_env=False).raise_for_status()"
        self._box.ok(PYTHON, "-c", program)


@pytest.fixture
def openviking(manager: Manager) -> OpenViking:
    """The stock server, configured and not started."""
    made = OpenViking(manager)
    made.configure()
    return made


def test_reload_and_restart_in_an_import_under_load(openviking: OpenViking) -> None:
    """Model calls hang when the restart comes, clients ask all the time, and in the end nothing is missing."""
    box = openviking.box
    box.write("/etc/systemd/system/openviking.socket", (ROOT / "systemd/openviking.socket").read_text())
    model = Model(openviking)
    box.ok("systemctl", "start", "openviking.socket")
    openviking.start(within_s=START_S)
    pid = openviking.pid
    model.set(hang=True)
    assert openviking.importer("begin", str(PORT), str(DOCUMENTS), KEY) != []

    openviking.configure(9)
    assert openviking.systemctl("reload").code == 0
    assert "generation 2, reload applied" in openviking.status
    openviking.configure(-1)
    assert openviking.systemctl("reload").code != 0
    assert (openviking.pid, openviking.active) == (pid, "active")
    assert "vlm.max_concurrent" in openviking.status

    openviking.configure(2)
    openviking.importer("held", str(MODEL), "4")
    with load(box, PORT, "/health", answers=3) as clients:
        clients.round()
        assert openviking.systemctl("restart", within_s=START_S).code == 0
        counts = clients.round()
    assert losses(counts) == {}
    assert openviking.pid != pid
    assert openviking.show("ActiveState", "NRestarts") == {"ActiveState": "active", "NRestarts": "0"}
    openviking.ended_well()
    assert openviking.last_drain()["requeued"] != []
    assert openviking.importer("look", str(PORT)) != []

    model.set(hang=False)
    assert openviking.importer("wait", str(PORT)) == []
    assert openviking.systemctl("stop").code == 0
    assert openviking.show("Result", "ActiveState") == {"Result": "success", "ActiveState": "inactive"}


def test_a_file_that_cannot_be_used_ends_the_start_once(openviking: OpenViking) -> None:
    for spoil in (partial(openviking.write, '{"vlm": }'), (openviking.box.root / "etc/openviking/ov.conf").unlink):
        spoil()
        assert openviking.systemctl("start", within_s=START_S).code != 0
        assert openviking.show("Result", "ExecMainStatus", "NRestarts", "ActiveState") == {
            "Result": "exit-code",
            "ExecMainStatus": "78",
            "NRestarts": "0",
            "ActiveState": "failed",
        }
        assert "cannot start: " in openviking.status
        assert "ov.conf" in openviking.status


@pytest.mark.parametrize("manager", [UserManager], indirect=True, ids=["user"])
def test_a_user_s_own(openviking: OpenViking) -> None:
    openviking.start(within_s=START_S)
    openviking.configure(9)
    assert openviking.systemctl("reload").code == 0
    assert "generation 2, reload applied" in openviking.status
    openviking.configure(-1)
    assert openviking.systemctl("reload").code != 0
    assert openviking.show("ActiveState", "StatusErrno") == {"ActiveState": "active", "StatusErrno": "22"}
    assert openviking.systemctl("stop").code == 0
    assert openviking.show("Result", "NRestarts") == {"Result": "success", "NRestarts": "0"}
