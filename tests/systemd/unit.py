"""The service of these tests under the unit that `hotreload unit` prints, in a box, with either manager."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from tests.systemd.box import Box, Done, Said

HOTRELOAD = "/opt/hotreload/bin/hotreload"
NAME = "served"
UNIT = f"{NAME}.service"
USER = "ov"
HOME = f"/home/{USER}"
BADLY = ("timed out", "Failed with result", "Watchdog timeout", "Killing process")
"""What a manager writes of a unit that did not end by itself and well, with all that it had started."""
_printed: dict[tuple[str, ...], str] = {}


def printed(box: Box, *arguments: str) -> str:
    """Return what `hotreload unit` prints in a box; it is the same in all of them."""
    if arguments not in _printed:
        _printed[arguments] = box.ok(HOTRELOAD, "unit", *arguments)
    return _printed[arguments]


class Manager:
    """The system's own, with its log of every datagram."""

    told_by = "UNIT"
    """The field of the journal that names the unit in what the manager writes."""
    written_by = "_SYSTEMD_UNIT"
    """That in what the unit's processes write."""
    options: tuple[str, ...] = ()
    """What `hotreload unit` is told."""
    units = "/etc/systemd/system"

    def __init__(self, box: Box) -> None:
        self.box = box
        self.prefix: list[str] = []
        self._prepare()
        box.ok(*self.prefix, "systemctl", *self._who(), "log-level", "debug")

    def _prepare(self) -> None:
        """Make whom it belongs to."""

    def owner(self, name: str) -> str:
        """Return the user a unit runs as, made where it is missing."""
        self.box.run("useradd", "--system", "--home-dir", f"/var/lib/{name}", "--shell", "/usr/sbin/nologin", name)
        return name

    def _who(self) -> list[str]:
        return []

    def configuration(self, name: str) -> str:
        """Return the folder of a unit's `ov.conf`."""
        return f"/etc/{name}"

    def state(self, name: str) -> str:
        """Return the folder a unit writes to."""
        return f"/var/lib/{name}"

    def command(self, *words: str | Path) -> list[str | Path]:
        """Return a command that runs as whoever the manager belongs to."""
        return [*self.prefix, *words]

    def systemctl(self, *arguments: str) -> list[str | Path]:
        """Return a command for this manager."""
        return self.command("systemctl", *self._who(), *arguments)


class UserManager(Manager):
    """That of a user who need not be logged in."""

    told_by = "USER_UNIT"
    written_by = "_SYSTEMD_USER_UNIT"
    options = ("--user",)
    units = f"{HOME}/.config/systemd/user"

    def _prepare(self) -> None:
        box = self.box
        box.ok("useradd", "--create-home", USER)
        box.ok("systemd-run", "--wait", "--quiet", "loginctl", "enable-linger", USER)  # from a group of the box's own
        uid = box.ok("id", "-u", USER).strip()
        box.ok("systemctl", "start", f"user@{uid}.service")
        own = ["env", f"HOME={HOME}", f"XDG_RUNTIME_DIR=/run/user/{uid}"]
        self.prefix = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--init-groups", *own]

    def _who(self) -> list[str]:
        return ["--user"]

    def owner(self, name: str) -> str:
        return USER

    def configuration(self, name: str) -> str:
        return f"{HOME}/.config/{name}"

    def state(self, name: str) -> str:
        """It moved with systemd 254."""
        return f"{HOME}/.local/state/{name}" if self.box.version >= 254 else f"{HOME}/.config/{name}"


class Unit:
    """One unit of a manager: what is done with it and what is known of it."""

    def __init__(self, manager: Manager, name: str = NAME) -> None:
        self.manager = manager
        self.box = manager.box
        self.name = name
        self.unit = f"{name}.service"
        self._owner = manager.owner(name)

    def write_unit(self, text: str, *drop_in: str) -> None:
        """Write the unit and, with lines for it, a drop-in."""
        self._put(f"{self.manager.units}/{self.unit}", text)
        if drop_in:
            self._put(f"{self.manager.units}/{self.unit}.d/test.conf", "\n".join(["[Service]", *drop_in, ""]))

    def write(self, text: str) -> None:
        """Replace ov.conf by any text."""
        self._put(f"{self.manager.configuration(self.name)}/ov.conf", text, mode=0o640)

    def _put(self, path: str, text: str, mode: int = 0o644) -> None:
        self.box.write(path, text, owner=self._owner, mode=mode)
        if self._owner == USER:
            self.box.ok("chown", "-R", f"{USER}:", f"{HOME}/.config")

    def start(self, within_s: float = 60) -> None:
        """Start and wait for READY."""
        self.box.ok(*self.manager.systemctl("start", self.unit), within_s=within_s)

    def systemctl(self, *arguments: str, within_s: float = 120) -> Done:
        """Run `systemctl VERB… UNIT`."""
        return self.box.run(*self.manager.systemctl(*arguments, self.unit), within_s=within_s)

    def show(self, *properties: str) -> dict[str, str]:
        """Return properties of the unit."""
        wanted = [f"--property={name}" for name in properties]
        lines = self.box.ok(*self.manager.systemctl("show", self.unit, *wanted)).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def until_active(self, within_s: float = 30) -> None:
        """Return once the unit is active, and neither starts nor reloads; a shell inside looks."""
        asked = shlex.join(self.manager.systemctl("show", self.unit, "--property=ActiveState", "--value"))
        self.box.ok("sh", "-c", f'until [ "$({asked})" = active ]; do sleep 0.05; done', within_s=within_s)

    def ask(self, *arguments: str) -> Done:
        """Run the command `hotreload` for this service."""
        return self.box.run(*self.manager.command(HOTRELOAD, *arguments, "--name", self.name))

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
        return self.box.said(f"{self.manager.told_by}={self.unit}")

    def until_told(self, text: str, within_s: float = 30) -> None:
        """Return once the manager has written `text` of the unit."""
        self.box.until(text, f"{self.manager.told_by}={self.unit}", within_s=within_s)

    def until_written(self, text: str, within_s: float = 30) -> None:
        """Return once a process of the unit has written `text`.

        No match by unit: the journal of 252 files what a user's unit writes under its manager.
        """
        self.box.until(text, within_s=within_s)

    def left_nothing(self) -> None:
        """Assert that the manager never had to end it, nor a process of its.

        `Result` alone says nothing after a restart: the start has reset it.
        """
        told = self.box.journal("-o", "cat", f"{self.manager.told_by}={self.unit}")
        badly = [line for line in told.splitlines() if any(bad in line for bad in BADLY)]
        assert badly == []

    def ended_well(self) -> None:
        """Assert `left_nothing`, and what it kept of the last drain."""
        self.left_nothing()
        drained = self.last_drain()
        assert (drained["lost"], drained["reconstructed"], drained["forced"]) == (0, False, False), drained

    def last_drain(self) -> dict[str, Any]:
        """Return the report of the last drain; the service must run."""
        answer = self.ask("status", "--json")
        assert answer.code == 0, answer.err
        return json.loads(answer.out)["last_drain"]

    def state(self, name: str) -> Path:
        """Return a file of the service's state, as seen from here."""
        return self.box.root / self.manager.state(self.name).lstrip("/") / name


class Served(Unit):
    """`served.service`, the tests' own."""

    def install(self, *drop_in: str, http: str | None = None, **settings: Any) -> None:
        """Write unit, drop-in and ov.conf."""
        options = [*self.manager.options, *(("--http", http) if http else ())]
        self.write_unit(printed(self.box, "served:service", *options), *drop_in)
        self.configure(**settings)

    def configure(self, hotreload: dict[str, Any] | None = None, **settings: Any) -> None:
        """Replace ov.conf; the file is not watched, so that only a command asks for a reload."""
        own = {"watch": False, **(hotreload or {})}
        self.write(json.dumps({"hotreload": own, **settings}))

    def steps(self, job: int = 0) -> list[int]:
        """Return the steps written by a job, finished or not."""
        for name in (f"done-{job}", f"job-{job}"):
            if self.state(name).exists():
                return [int(line) for line in self.state(name).read_text().split()]
        return []

    def until_finished(self, job: int) -> None:
        """Wait until a job has ended."""
        done = f"{self.manager.state(self.name)}/done-{job}"
        self.box.ok("sh", "-c", f"until [ -e {done} ]; do sleep 0.05; done")

    def until_steps(self, job: int, count: int, within_s: float = 60) -> None:
        """Wait until a job has written so many steps; a shell inside looks."""
        name = f"{self.manager.state(self.name)}/*-{job}"
        look = f"until [ $(cat {name} 2>/dev/null | wc -l) -ge {count} ]; do sleep 0.05; done"
        self.box.ok("sh", "-c", look, within_s=within_s)
