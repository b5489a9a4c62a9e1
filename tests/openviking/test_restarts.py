"""Restarts of OpenViking under load, on a machine that is kept busy: no connection is lost.

HOTRELOAD_BUSY_RESTARTS says how often.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio.to_thread
import pytest
from ov_forked import MEASURED
from ov_home import Home

from tests.counts import counted, patience_s
from tests.process.manager import Manager, bound, losses, restart_under_load

pytestmark = pytest.mark.anyio
USUAL = 1
RESTARTS = counted("BUSY_RESTARTS", USUAL)


@pytest.mark.timeout(patience_s(240, RESTARTS, USUAL))
async def test_a_busy_machine_loses_no_connection(home: Home, short_path: Path, figures: Callable[[str], None]) -> None:
    environ = {name: value for name, value in home.environment().items() if name != MEASURED}
    with bound(short_path, home.port) as (listener, notify, told):
        manager = Manager(home.ours, listener, "openviking.socket", notify, told, environ)
        counts = await anyio.to_thread.run_sync(partial(restart_under_load, manager, "/health", RESTARTS))
    figures(f"{RESTARTS} restarts, {sum(counts.values()):,} requests, {sum(losses(counts).values())} lost")
    assert losses(counts) == {}
