"""`systemctl reload` tells the truth, at once, and never takes the service down."""

from __future__ import annotations

import time

from tests.systemd.conftest import FULL
from tests.systemd.unit import HOTRELOAD, NAME, UNIT, Served

IN_A_ROW = 100 if FULL else 8
AT_ONCE_S = 10.0


def test_the_exit_code_is_the_verdict(served: Served) -> None:
    served.install()
    served.start()
    pid = served.pid
    assert "generation 1" in served.status

    served.configure(value=3)
    assert served.systemctl("reload").code == 0
    assert "generation 2, reload applied" in served.status
    assert "value 0 → 3" in served.status

    assert served.systemctl("reload").code == 0
    assert "generation 2, reload unchanged" in served.status

    served.write('{"hotreload": {"watch": false},\n "value": -7}')
    refused = served.systemctl("reload")
    assert refused.code != 0
    assert refused.took_s < AT_ONCE_S
    assert "generation 2, reload rejected" in served.status
    assert "ov.conf:2:" in served.status
    assert served.show("StatusErrno", "ActiveState") == {"StatusErrno": "22", "ActiveState": "active"}
    told = served.box.run("systemctl", "status", "--no-pager", UNIT).out
    assert "Status: " in told
    assert "rejected" in told
    errors = served.box.entries(f"_SYSTEMD_UNIT={UNIT}", "PRIORITY=3")
    by_client = [entry for entry in errors if int(entry["_PID"]) != pid]
    assert any("rejected" in entry["MESSAGE"] and "value" in entry["MESSAGE"] for entry in by_client), errors

    served.configure(value=4)
    assert served.systemctl("reload").code == 0
    assert served.show("StatusErrno", "MainPID") == {"StatusErrno": "0", "MainPID": str(pid)}
    _every_reload_was_ended(served)


def _every_reload_was_ended(served: Served) -> None:
    said = [datagram for datagram in served.said() if datagram.has("RELOADING=1") or datagram.has("READY=1")]
    kinds = ["R" if datagram.has("RELOADING=1") else "." for datagram in said]
    assert "".join(kinds) == "." + "R." * (len(kinds) // 2), kinds
    for datagram in said:
        if datagram.has("READY=1"):
            generation = datagram.value("X_HOTRELOAD_GENERATION")
            assert f"generation {generation}," in (datagram.value("STATUS") or "")
        else:
            assert int(datagram.value("MONOTONIC_USEC") or 0) > 0


def test_a_part_that_hangs_fails_the_reload_within_its_limit(served: Served) -> None:
    served.install(limit_s=1.0)
    served.start()
    served.configure(value=1, build_s=600, limit_s=1.0)
    done = served.systemctl("reload")
    assert done.code != 0
    assert done.took_s < 1 + AT_ONCE_S
    assert served.active == "active"
    assert "generation 1, reload rolled_back" in served.status
    assert "within 1 s" in served.status
    _every_reload_was_ended(served)


def test_many_in_a_row(served: Served) -> None:
    served.install()
    served.start()
    for value in range(1, IN_A_ROW + 1):
        served.configure(value=value)
        assert served.systemctl("reload").code == 0
    assert f"generation {IN_A_ROW + 1}, " in served.status
    _every_reload_was_ended(served)


def test_during_the_start_and_during_another_reload(served: Served) -> None:
    served.install(build_s=2.5)
    starting = served.box.start("systemctl", "start", UNIT)
    served.box.until("STATUS=starting", f"UNIT={UNIT}")
    served.box.ok("systemctl", "kill", "--kill-who=main", "--signal=HUP", UNIT)
    served.configure(value=1, build_s=1.0)
    during_start = served.systemctl("reload")
    assert starting.wait(30) == 0
    assert during_start.code == 0, during_start.err
    assert served.show("ActiveState", "NRestarts") == {"ActiveState": "active", "NRestarts": "0"}

    served.configure(value=2, build_s=2.0)
    first = served.box.start("systemctl", "reload", UNIT)
    served.box.until("RELOADING=1", f"UNIT={UNIT}")
    served.box.ok("systemctl", "kill", "--kill-who=main", "--signal=HUP", UNIT)
    served.configure(value=3, build_s=0.5)
    second = served.systemctl("reload")
    assert (first.wait(30), second.code) == (0, 0)
    assert served.systemctl("reload").code == 0
    assert served.active == "active"
    assert "unchanged" in served.status


def test_during_a_drain(served: Served) -> None:
    served.install(jobs=1, manner="hang", hotreload={"drain_deadline_s": 6.0})
    served.start()
    served.box.until("served", f"_SYSTEMD_UNIT={UNIT}")
    began = time.monotonic()
    served.box.ok("systemctl", "stop", "--no-block", UNIT)
    served.box.until("STOPPING=1", f"UNIT={UNIT}")
    asked = served.box.run(HOTRELOAD, "reload", "--name", NAME)
    assert asked.code == 4
    assert "draining" in asked.err
    assert served.systemctl("reload").code != 0
    served.box.until("Deactivated successfully", f"UNIT={UNIT}")
    assert time.monotonic() - began < 8
    assert served.show("Result", "ActiveState") == {"Result": "success", "ActiveState": "inactive"}
