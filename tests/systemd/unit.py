"""The service of these tests under the unit that `hotreload unit` prints, in a box."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.systemd.box import Box, Done, Said

HOTRELOAD = "/opt/hotreload/bin/hotreload"
NAME = "served"
UNIT = f"{NAME}.service"
STATE = f"/var/lib/{NAME}"
_printed: dict[tuple[str, ...], str] = {}


def printed(box: Box, *arguments: str) -> str:
    """Return what `hotreload unit` prints in a box; it is the same in all of them."""
    if arguments not in _printed:
        _printed[arguments] = box.ok(HOTRELOAD, "unit", *arguments)
    return _printed[arguments]


class Served:
    """`served.service`, with the manager's log of every datagram."""

    def __init__(self, box: Box) -> None:
        self.box = box
        box.ok("useradd", "--system", "--home-dir", STATE, "--shell", "/usr/sbin/nologin", NAME)
        box.listen()

    def install(self, *drop_in: str, http: str | None = None, **settings: Any) -> None:
        """Write unit, drop-in and ov.conf."""
        options = ("--http", http) if http else ()
        self.box.write(f"/etc/systemd/system/{UNIT}", printed(self.box, "served:service", *options))
        if drop_in:
            self.box.write(f"/etc/systemd/system/{UNIT}.d/test.conf", "\n".join(["[Service]", *drop_in, ""]))
        self.configure(**settings)

    def configure(self, hotreload: dict[str, Any] | None = None, **settings: Any) -> None:
        """Replace ov.conf; the file is not watched, so that only a command asks for a reload."""
        own = {"watch": False, "drain_deadline_s": 5.0, **(hotreload or {})}
        self.write(json.dumps({"hotreload": own, **settings}))

    def write(self, text: str) -> None:
        """Replace ov.conf by any text."""
        self.box.write(f"/etc/{NAME}/ov.conf", text, owner=NAME, mode=0o640)

    def start(self) -> None:
        """Start and wait for READY."""
        self.box.ok("systemctl", "start", UNIT)

    def systemctl(self, *arguments: str) -> Done:
        """Run `systemctl VERB… served.service`."""
        return self.box.run("systemctl", *arguments, UNIT)

    def show(self, *properties: str) -> dict[str, str]:
        """Return properties of the unit."""
        return self.box.show(UNIT, *properties)

    @property
    def status(self) -> str:
        """The line `Status:`."""
        return self.show("StatusText")["StatusText"]

    @property
    def active(self) -> str:
        """`active`, `failed`, …"""
        return self.show("ActiveState")["ActiveState"]

    @property
    def pid(self) -> int:
        """The main process, inside."""
        return int(self.show("MainPID")["MainPID"])

    def said(self) -> list[Said]:
        """Return the datagrams of all the service's processes, in order."""
        return self.box.said(UNIT)

    def state(self, name: str) -> Path:
        """Return a file of the service's state, as seen from here."""
        return self.box.root / STATE.lstrip("/") / name

    def steps(self, job: int = 0) -> list[int]:
        """Return the steps written by a job, finished or not."""
        for name in (f"done-{job}", f"job-{job}"):
            if self.state(name).exists():
                return [int(line) for line in self.state(name).read_text().split()]
        return []
