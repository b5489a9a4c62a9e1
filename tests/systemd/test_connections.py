"""Restarts under load lose no connection: neither new ones nor those kept alive."""

from __future__ import annotations

import json

import pytest

from tests.systemd.conftest import FULL
from tests.systemd.unit import NAME, UNIT, Served

RESTARTS = 5
PORT = 8750
ADDRESS = f"127.0.0.1:{PORT}"
PAUSE_S = 0.005 if FULL else 0.02
SOCKET = f"""[Socket]
ListenStream={ADDRESS}

[Install]
WantedBy=sockets.target
"""


@pytest.mark.parametrize("how", ["socket unit", "store"])
def test_five_restarts_under_load(served: Served, how: str) -> None:
    box = served.box
    if how == "socket unit":
        served.install()
        box.write(f"/etc/systemd/system/{NAME}.socket", SOCKET)
        box.ok("systemctl", "start", f"{NAME}.socket")
    else:
        served.install(http=ADDRESS)
    served.start()
    clients = box.start("/opt/hotreload/bin/python", "/opt/hotreload/app/clients.py", str(PORT), str(PAUSE_S))
    try:
        assert clients.stdout is not None
        pids = {served.pid}
        for _ in range(RESTARTS):
            assert clients.stdout.readline() == "asking\n"
            box.ok("systemctl", "restart", UNIT)
            pids.add(served.pid)
            assert clients.stdout.readline() == "asking\n"
        counts = json.loads(clients.communicate("", timeout=60)[0].splitlines()[-1])
    finally:
        clients.kill()
        clients.wait()
    print(how, counts)
    assert len(pids) == RESTARTS + 1
    assert min(counts["new answered"], counts["kept answered"]) > RESTARTS * 20
    assert {kind: count for kind, count in counts.items() if "answered" not in kind} == {}
    if how == "store":
        assert served.show("NFileDescriptorStore") == {"NFileDescriptorStore": "1"}
