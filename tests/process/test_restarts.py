"""Restarts under load, on a machine that is kept busy: no connection is lost, neither a new one nor one kept alive.

HOTRELOAD_BUSY_RESTARTS says how often; `tests/systemd` does the same under a real service manager.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hotreload.systemd.listen import STORED
from tests.counts import counted, patience_s
from tests.process.manager import Manager, bound, losses, restart_under_load
from tests.process.running import HOTRELOAD

USUAL = 1
RESTARTS = counted("BUSY_RESTARTS", USUAL)


@pytest.mark.timeout(patience_s(120, RESTARTS, USUAL))
@pytest.mark.parametrize("how", ["socket unit", "store"])
def test_a_busy_machine_loses_no_connection(short_path: Path, how: str, figures: Callable[[str], None]) -> None:
    (short_path / "ov.conf").write_text(json.dumps({"hotreload": {"watch": False}}))
    place = ("--config", str(short_path / "ov.conf"), "--socket", str(short_path / "run/s"))
    command = (*HOTRELOAD, "run", "tests.process.sample:service", *place)
    with bound(short_path) as (listener, notify, told):
        if how == "store":
            http = ("--http", f"127.0.0.1:{listener.getsockname()[1]}")
            manager = Manager((*command, *http), listener, STORED, notify, told)
        else:
            manager = Manager(command, listener, "sample.socket", notify, told)
        counts = restart_under_load(manager, "/livez", RESTARTS)
    figures(f"{RESTARTS} restarts, {sum(counts.values()):,} requests, {sum(losses(counts).values())} lost")
    assert losses(counts) == {}
