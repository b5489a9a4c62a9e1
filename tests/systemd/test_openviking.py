"""Stock OpenViking under its unit: a reload and a restart during an import, and everything completes."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest

from tests.systemd.base import ROOT
from tests.systemd.box import Box
from tests.systemd.unit import HOTRELOAD, printed

PYTHON = "/opt/hotreload/bin/python"
APP = "/opt/hotreload/app"
UNIT = "openviking.service"
KEY = "root-key-of-a-test-0123456789"
PORT, MODEL = 1933, 8751
DOCUMENTS = 12
START_S = 120.0

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(importlib.util.find_spec("openviking") is None, reason="the extra openviking is not installed"),
    pytest.mark.parametrize("box", ["trixie"], indirect=True, ids=["systemd-257"]),
]


def _configure(box: Box, limit: int) -> None:
    model = {"provider": "openai", "api_base": f"http://127.0.0.1:{MODEL}/v1"}
    settings: dict[str, Any] = {
        "hotreload": {"watch": False, "drain_deadline_s": 15.0},
        "server": {"host": "127.0.0.1", "port": PORT, "root_api_key": KEY},
        "storage": {
            "workspace": "/var/lib/openviking/data",
            "vectordb": {"backend": "local"},
            "agfs": {"backend": "local"},
        },
        "embedding": {"dense": {**model, "model": "stub-embedding", "api_key": "key-e", "dimension": 8}},
        "vlm": {**model, "model": "stub", "api_key": "key-1", "max_concurrent": limit, "max_retries": 0},
    }
    box.write("/etc/openviking/ov.conf", json.dumps(settings), owner="openviking", mode=0o640)


def test_reload_and_restart_during_an_import(box: Box) -> None:
    box.ok("useradd", "--system", "--home-dir", "/var/lib/openviking", "openviking")
    box.write(f"/etc/systemd/system/{UNIT}", printed(box, "--openviking"))
    socket = (ROOT / "systemd/openviking.socket").read_text()
    box.write("/etc/systemd/system/openviking.socket", socket)
    _configure(box, 4)
    box.ok("systemd-run", "--unit=model", PYTHON, f"{APP}/endpoint.py", "--port", str(MODEL), "--latency", "0.4")
    box.ok("systemctl", "start", "openviking.socket")
    box.ok("systemctl", "start", UNIT, within_s=START_S)
    pid = box.show(UNIT, "MainPID")["MainPID"]

    box.ok(PYTHON, f"{APP}/importer.py", "begin", str(PORT), str(DOCUMENTS), KEY, within_s=120)
    _configure(box, 9)
    box.ok("systemctl", "reload", UNIT)
    assert "generation 2, reload applied" in box.show(UNIT, "StatusText")["StatusText"]
    _configure(box, -1)
    assert box.run("systemctl", "reload", UNIT).code != 0
    shown = box.show(UNIT, "MainPID", "ActiveState", "StatusText")
    assert (shown["MainPID"], shown["ActiveState"]) == (pid, "active")
    assert "vlm.max_concurrent" in shown["StatusText"]

    _configure(box, 2)
    box.ok("systemctl", "restart", UNIT, within_s=START_S)
    shown = box.show(UNIT, "MainPID", "ActiveState", "Result", "NRestarts")
    assert shown.pop("MainPID") != pid
    assert shown == {"ActiveState": "active", "Result": "success", "NRestarts": "0"}
    drained = json.loads(box.ok(HOTRELOAD, "status", "--json", "--name", "openviking"))["last_drain"]
    assert drained["lost"] == 0
    assert box.ok(PYTHON, f"{APP}/importer.py", "wait", str(PORT), within_s=180) == "[]\n"
    box.ok("systemctl", "stop", UNIT)
    assert box.show(UNIT, "Result", "ActiveState") == {"Result": "success", "ActiveState": "inactive"}
