"""`systemctl reload` tells the truth, at once, and never takes the service down; under either manager."""

from __future__ import annotations

import re
import shlex
import time

import pytest

from tests.counts import counted, patience_s
from tests.systemd.conftest import BOTH_MANAGERS
from tests.systemd.unit import HOTRELOAD, NAME, Served

USUAL = 10
IN_A_ROW = counted("SYSTEMD_RELOADS", USUAL)
CLIENT_S = 2

pytestmark = BOTH_MANAGERS


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
    assert served.systemctl("reload").code != 0
    assert "generation 2, reload rejected" in served.status
    assert served.show("StatusErrno", "ActiveState") == {"StatusErrno": "22", "ActiveState": "active"}
    shown = served.systemctl("status", "--no-pager").out
    assert re.search(r"Status: \"generation 2, reload rejected.*ov\.conf:2:\d+", shown), shown
    errors = served.box.entries("PRIORITY=3")  # of a process so short-lived the journal may not know the unit
    by_client = [entry["MESSAGE"] for entry in errors if int(entry["_PID"]) != pid]
    assert any("rejected" in message and "value" in message for message in by_client), errors

    served.configure(value=4)
    assert served.systemctl("reload").code == 0
    assert served.show("StatusErrno", "MainPID") == {"StatusErrno": "0", "MainPID": str(pid)}
    _every_reload_was_ended(served)


def _every_reload_was_ended(served: Served) -> int:
    """Assert that READY came once and after each RELOADING; returns how many reloads there were."""
    said = [datagram for datagram in served.said() if datagram.has("RELOADING=1") or datagram.has("READY=1")]
    kinds = ["R" if datagram.has("RELOADING=1") else "." for datagram in said]
    assert "".join(kinds) == "." + "R." * (len(kinds) // 2), kinds
    for datagram in said:
        if datagram.has("READY=1"):
            generation = datagram.value("X_HOTRELOAD_GENERATION")
            assert f"generation {generation}," in (datagram.value("STATUS") or "")
        else:
            assert int(datagram.value("MONOTONIC_USEC") or 0) > 0
    return len(kinds) // 2


def test_a_part_that_hangs_fails_the_reload_within_its_limit(served: Served) -> None:
    served.install()
    served.start()
    served.configure(value=1, build_s=600)
    assert served.systemctl("reload").code != 0
    assert served.active == "active"
    assert "generation 1, reload rolled_back" in served.status
    assert "within 5 s" in served.status
    assert _every_reload_was_ended(served) == 1


def test_a_client_that_waits_for_too_long_leaves_the_reload_going(served: Served) -> None:
    client = f"{HOTRELOAD} reload --name {NAME} --timeout {CLIENT_S}"
    served.install("ExecReload=", f"ExecReload={client}", "Environment=PART_LIMIT_S=60")
    served.start()
    served.configure(value=1, build_s=CLIENT_S + 8)
    began = time.monotonic()
    reloading = served.box.start(*served.manager.systemctl("reload", served.unit))
    served.until_told("status=5/")
    assert time.monotonic() - began > CLIENT_S
    assert "reloading" in served.status
    assert reloading.wait(30) != 0, "the job ends with READY, and fails as its client did"
    assert "generation 2, reload applied" in served.status
    assert served.active == "active"
    assert _every_reload_was_ended(served) == 1


@pytest.mark.timeout(patience_s(120, IN_A_ROW, USUAL))
def test_many_in_a_row(served: Served) -> None:
    served.install()
    served.start()
    path = f"{served.manager.configuration(NAME)}/ov.conf"
    reload = shlex.join(map(str, served.manager.systemctl("reload", served.unit)))
    one = f'printf \'{{"hotreload": {{"watch": false}}, "value": %d}}\' $value > {path} && {reload}'
    done = served.box.run(
        "sh",
        "-c",
        f"for value in $(seq {IN_A_ROW}); do {one} || exit 1; done",
        within_s=patience_s(100, IN_A_ROW, USUAL),
    )
    assert done.code == 0, done.out + done.err
    assert f"generation {IN_A_ROW + 1}, reload applied" in served.status
    assert _every_reload_was_ended(served) == IN_A_ROW


def test_during_the_start_and_during_another_reload(served: Served) -> None:
    hang_up = ("kill", "--kill-who=main", "--signal=HUP")
    served.install(build_s=2.5)
    starting = served.box.start(*served.manager.systemctl("start", served.unit))
    served.until_told("STATUS=starting")
    assert served.systemctl(*hang_up).code == 0
    served.configure(value=1, build_s=1.0)
    during_start = served.systemctl("reload")
    assert starting.wait(30) == 0
    assert during_start.code == 0, during_start.err
    served.until_active()  # the signal's reload may come after the one that was asked for
    assert served.show("NRestarts") == {"NRestarts": "0"}

    served.configure(value=2, build_s=2.0)
    first = served.box.start(*served.manager.systemctl("reload", served.unit))
    served.until_told("RELOADING=1")
    assert served.systemctl(*hang_up).code == 0
    served.configure(value=3, build_s=0.5)
    second = served.systemctl("reload")
    assert (first.wait(30), second.code) == (0, 0)
    assert served.systemctl("reload").code == 0
    assert served.active == "active"
    assert "unchanged" in served.status


def test_during_a_drain(served: Served) -> None:
    served.install(jobs=1, manner="hang", hotreload={"drain_deadline_s": 8.0})
    served.start()
    served.until_steps(0, 2)
    assert served.systemctl("stop", "--no-block").code == 0
    served.until_told("STOPPING=1")
    asked = served.ask("reload")
    assert asked.code == 4
    assert "draining" in asked.err
    assert served.systemctl("reload").code != 0
    served.until_told("Deactivated successfully")
    assert served.show("Result", "ActiveState") == {"Result": "success", "ActiveState": "inactive"}
