"""Restarts under load lose no connection: neither new ones nor those kept alive, busy or not."""

from __future__ import annotations

import pytest

from tests.counts import counted, patience_s
from tests.process.manager import losses
from tests.systemd.load import load
from tests.systemd.unit import NAME, Served

USUAL = 2
RESTARTS = counted("LOADED_RESTARTS", USUAL)
"""A campaign's number by HOTRELOAD_LOADED_RESTARTS; `tests/process/test_restarts.py` does it without a systemd."""
PORT = 8750
ADDRESS = f"127.0.0.1:{PORT}"
SOCKET = f"""[Socket]
ListenStream={ADDRESS}

[Install]
WantedBy=sockets.target
"""


@pytest.mark.timeout(patience_s(180, RESTARTS, USUAL))
@pytest.mark.parametrize("how", ["socket unit", "store"])
def test_restarts_under_load(served: Served, how: str) -> None:
    box = served.box
    if how == "socket unit":
        served.install()
        box.write(f"/etc/systemd/system/{NAME}.socket", SOCKET)
        box.ok("systemctl", "start", f"{NAME}.socket")
    else:
        served.install(http=ADDRESS)
    served.start()
    pids = {served.pid}
    with load(box, PORT, "/livez") as clients:
        clients.round()
        for _ in range(RESTARTS):
            assert served.systemctl("restart").code == 0
            pids.add(served.pid)
            counts = clients.round()
    assert len(pids) == RESTARTS + 1
    assert losses(counts) == {}
    served.ended_well()
    if how == "store":
        assert served.show("NFileDescriptorStore") == {"NFileDescriptorStore": "1"}
