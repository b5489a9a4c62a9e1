"""The units: clean, hardened, and the same in the tree as printed."""

from __future__ import annotations

import re

import pytest

from hotreload.systemd import unit
from tests.systemd.base import ROOT
from tests.systemd.box import Box
from tests.systemd.unit import HOTRELOAD, UNIT, Served, printed

SCORE = 1.5


@pytest.mark.parametrize("user", [False, True])
def test_those_in_the_tree_are_those_printed(user: bool) -> None:
    made = unit.of_openviking(["/usr/local/bin/hotreload"], user=user).text()
    kept = ROOT / "systemd" / ("openviking-user.service" if user else "openviking.service")
    assert kept.read_text() == made, f"{kept} is not what `hotreload unit` prints"


def _in_the_tree(name: str) -> str:
    """Return a unit as it would be in a box, where the command is elsewhere."""
    return (ROOT / "systemd" / name).read_text().replace("/usr/local/bin/hotreload", HOTRELOAD)


def test_they_are_clean_and_openviking_s_sees_little(box: Box) -> None:
    box.ok("useradd", "--system", "openviking")
    box.ok("useradd", "--system", "served")
    files = ("openviking.service", "openviking.socket")
    for name in files:
        box.write(f"/etc/systemd/system/{name}", _in_the_tree(name))
    box.write(f"/etc/systemd/system/{UNIT}", printed(box, "served:service", "--http", "127.0.0.1:8750"))
    for name in (*files, UNIT):
        done = box.run("systemd-analyze", "verify", f"/etc/systemd/system/{name}")
        assert (done.code, done.out + done.err) == (0, "")

    assert _score(box, "openviking.service") <= SCORE

    box.write("/etc/systemd/user/openviking.service", _in_the_tree("openviking-user.service"))
    done = box.run(
        "systemd-analyze", "--user", "verify", "/etc/systemd/user/openviking.service",
        env={"XDG_RUNTIME_DIR": "/run", "HOME": "/root"},
    )  # fmt: skip
    assert (done.code, done.out + done.err) == (0, "")


def _score(box: Box, name: str) -> float:
    """Return how exposed a unit is, by `systemd-analyze security`."""
    scored = box.ok("systemd-analyze", "security", "--no-pager", name)
    exposure = re.search(r"Overall exposure level for \S+: ([0-9.]+)", scored)
    assert exposure is not None, scored
    return float(exposure[1])


def test_the_system_unit_sees_little_and_works_so(served: Served) -> None:
    served.install(http="127.0.0.1:8750", jobs=2)
    served.start()
    assert _score(served.box, UNIT) <= SCORE
    served.configure(value=1)
    assert served.systemctl("reload").code == 0
    served.until_steps(1, 20)
    assert served.systemctl("restart").code == 0
    served.ended_well()
