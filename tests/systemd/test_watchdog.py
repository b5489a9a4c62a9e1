"""The watchdog hears the loop that serves: long reloads and drains live, a blocked loop is ended and started again."""

from __future__ import annotations

import pytest

from tests.systemd.conftest import BOTH_MANAGERS
from tests.systemd.unit import Served

WATCHDOG_S = 8
START_S = 8.0
RELOAD_S = 10.0
DRAIN_S = 12.0

pytestmark = BOTH_MANAGERS


@pytest.mark.timeout(300)
def test_a_long_start_reload_and_drain_are_lived_through(served: Served) -> None:
    """Each of them longer than the manager's own limit for it, the last two than the watchdog's time as well."""
    hung = {"jobs": 1, "manner": "hang", "hotreload": {"drain_deadline_s": DRAIN_S}}
    unit = (f"WatchdogSec={WATCHDOG_S}", "TimeoutStartSec=5", "TimeoutStopSec=4", "Environment=PART_LIMIT_S=100")
    served.install(*unit, build_s=START_S, **hung)
    served.start()
    served.configure(value=1, build_s=RELOAD_S, **hung)
    done = served.systemctl("reload")
    assert done.code == 0, done.err
    assert done.took_s >= RELOAD_S
    assert "generation 2" in served.status
    stopped = served.systemctl("stop")
    assert stopped.code == 0
    assert stopped.took_s > WATCHDOG_S
    assert served.show("Result", "NRestarts") == {"Result": "success", "NRestarts": "0"}
    served.configure()
    served.start()
    served.ended_well()


def test_a_blocked_loop_is_ended_and_its_jobs_go_on(served: Served) -> None:
    served.install(f"WatchdogSec={WATCHDOG_S}", jobs=2, manner="block once", steps=6)
    served.start()
    served.until_told("Watchdog timeout", within_s=60)
    for job in range(2):
        served.until_steps(job, 6)
    assert [served.steps(job) for job in range(2)] == [list(range(6))] * 2
    assert served.show("NRestarts", "ActiveState") == {"NRestarts": "1", "ActiveState": "active"}
