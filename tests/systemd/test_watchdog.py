"""The watchdog hears the loop that serves: long reloads and drains live, a blocked loop is ended and started again."""

from __future__ import annotations

from tests.systemd.conftest import FULL
from tests.systemd.test_stop import _until_steps
from tests.systemd.unit import UNIT, Served

WATCHDOG_S = 10 if FULL else 2
RELOAD_S = 30.0 if FULL else 6.0
DRAIN_S = 60.0 if FULL else 6.0


def test_a_long_start_reload_and_drain_are_lived_through(served: Served) -> None:
    """Each of them longer than the watchdog's time and than the manager's own limit for it."""
    drain = {"drain_deadline_s": DRAIN_S}
    served.install(
        f"WatchdogSec={WATCHDOG_S}", "TimeoutStartSec=5", "TimeoutStopSec=2",
        build_s=RELOAD_S, limit_s=100, jobs=1, manner="hang", hotreload=drain,
    )  # fmt: skip
    served.start()
    served.configure(value=1, build_s=RELOAD_S, limit_s=100, jobs=1, manner="hang", hotreload=drain)
    done = served.systemctl("reload")
    assert done.code == 0, done.err
    assert done.took_s >= RELOAD_S
    assert "generation 2" in served.status
    stopped = served.systemctl("stop")
    assert stopped.code == 0
    assert DRAIN_S * 0.6 < stopped.took_s < DRAIN_S + 1.5
    assert served.show("Result", "NRestarts") == {"Result": "success", "NRestarts": "0"}


def test_a_blocked_loop_is_ended_and_its_jobs_go_on(served: Served) -> None:
    served.install(f"WatchdogSec={WATCHDOG_S}", jobs=2, manner="block once", steps=6)
    served.start()
    served.box.until("Watchdog timeout", f"UNIT={UNIT}", within_s=WATCHDOG_S + 10)
    for job in range(2):
        _until_steps(served, job, 6)
    assert [served.steps(job) for job in range(2)] == [list(range(6))] * 2
    assert served.show("NRestarts", "ActiveState") == {"NRestarts": "1", "ActiveState": "active"}
