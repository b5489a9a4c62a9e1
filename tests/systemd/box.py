"""A fresh machine with a real systemd as process 1, for one test: boots in half a second, and always stops."""

from __future__ import annotations

import json
import os
import re
import select
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.systemd import base

BOOT_S = 90.0
OPTIONS = (
    "--quiet", "--boot", "--register=no", "--keep-unit", "--private-users=no", "--notify-ready=yes",
    "--console=read-only", "--link-journal=no", "--resolv-conf=off", "--timezone=off",
)  # fmt: skip
PREPARE = 'echo $$ > "$0/cgroup.procs" && echo 512 > /proc/sys/net/unix/max_dgram_qlen && exec "$@"'
"""With the default queue of 10 datagrams process 1 and the journal can block each other; a real boot raises it too."""
NOTIFIED = re.compile(r"Got notification message from PID \d+(?: \((.*)\)|: (.*))", re.DOTALL)


@dataclass
class Done:
    """A command that ended: its exit code, what it wrote, how long it took."""

    code: int
    out: str
    err: str
    took_s: float


@dataclass(frozen=True)
class Said:
    """One datagram the manager got: seconds since boot, and its fields."""

    at_s: float
    fields: tuple[str, ...]

    def has(self, start: str) -> bool:
        """Tell whether a field begins with `start`."""
        return any(field.startswith(start) for field in self.fields)

    def value(self, key: str) -> str | None:
        """Return the value of a field, None without it."""
        return next((field.partition("=")[2] for field in self.fields if field.startswith(f"{key}=")), None)


class Box:
    """A booted machine; `root` is its file system as seen from here."""

    def __init__(self, root: Path, leader: int, release: str) -> None:
        self.root = root
        self.leader = leader
        self.release = release
        self.version = base.SYSTEMD[release]
        self._enter = ["nsenter", "-t", str(leader), "-m", "-u", "-i", "-n", "-p", "-C", f"--root=/proc/{leader}/root"]
        self._enter += ["env", "-C", "/"]  # the working directory of outside is none inside

    def run(self, *command: str | Path, within_s: float = 60, env: Mapping[str, str] | None = None) -> Done:
        """Run a command inside and wait for its end."""
        began = time.monotonic()
        done = subprocess.run(
            [*self._enter, *command],
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
            stdin=subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/usr/sbin:/bin:/sbin", "LANG": "C.UTF-8", **(env or {})},
        )
        return Done(done.returncode, done.stdout, done.stderr, time.monotonic() - began)

    def ok(self, *command: str | Path, within_s: float = 60) -> str:
        """Run a command that must succeed; returns what it wrote."""
        try:
            done = self.run(*command, within_s=within_s)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"{error}\n{self.journal()[-8000:]}") from None
        said = f"{' '.join(map(str, command))}: {done.code}\n{done.out}{done.err}"
        assert done.code == 0, said + self.journal()[-8000:]
        return done.out

    def start(self, *command: str | Path) -> subprocess.Popen[str]:
        """Start a command inside and leave it running; its input and its output are pipes."""
        return subprocess.Popen(
            [*self._enter, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.PIPE,
            text=True,
            env={"PATH": "/usr/bin:/usr/sbin:/bin:/sbin", "LANG": "C.UTF-8"},
        )

    def write(self, path: str, text: str, *, owner: str = "root", mode: int = 0o644) -> Path:
        """Write a file inside, whole or not at all."""
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        new = place.with_name(f".{place.name}.new")
        new.write_text(text)
        new.chmod(mode)
        if owner != "root":
            uid, gid = self._ids(owner)
            os.chown(new, uid, gid)
        new.rename(place)
        return place

    def _ids(self, owner: str) -> tuple[int, int]:
        lines = (self.root / "etc/passwd").read_text().splitlines()
        fields = next(line.split(":") for line in lines if line.startswith(f"{owner}:"))
        return int(fields[2]), int(fields[3])

    def journal(self, *options: str) -> str:
        """Return the journal as plain lines."""
        return self.run("journalctl", "--no-pager", "-o", "short-monotonic", *options).out

    def entries(self, *options: str) -> list[dict[str, Any]]:
        """Return the journal with every field."""
        lines = self.run("journalctl", "--no-pager", "-o", "json", *options).out.splitlines()
        return [json.loads(line) for line in lines]

    def said(self, field: str) -> list[Said]:
        """Return what a manager was told for a unit, in whose debug log the field (`UNIT=NAME`) names it."""
        found: list[Said] = []
        for entry in self.entries(field):
            notified = NOTIFIED.search(str(entry["MESSAGE"]))
            if notified:
                at_s = int(entry["__MONOTONIC_TIMESTAMP"]) / 1e6
                rest, is_told, status = (notified[1] or notified[2]).partition("STATUS=")  # it is the last one
                told = [field for field in rest.split(", ") if field]
                found.append(Said(at_s, (*told, *([f"STATUS={status}"] if is_told else []))))
        return found

    def until(self, text: str, *options: str, within_s: float = 30) -> None:
        """Return once a line of the journal holds `text`, written already or to come."""
        ends = time.monotonic() + within_s
        following = self.start("journalctl", "--no-pager", "-f", "-n", "all", "-o", "cat", *options)
        seen = ""
        try:
            assert following.stdout is not None
            descriptor = following.stdout.fileno()
            while text not in seen:
                ready, _, _ = select.select([descriptor], [], [], max(0.0, ends - time.monotonic()))
                assert ready, f"no {text!r} within {within_s:g} s:\n{seen[-4000:]}"
                seen += os.read(descriptor, 65536).decode(errors="replace")
        finally:
            following.kill()
            following.wait()


@contextmanager
def booted(release: str, python: base.Python) -> Iterator[Box]:
    """Boot a box over a base that stays as it is, and stop it at the end whatever happens."""
    with ExitStack() as stack:
        folder = stack.enter_context(_mounted(base.bootstrap(release)))
        group = stack.enter_context(_own_group(folder.name))
        told = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        told.bind(str(folder / "notify"))
        root = folder / "root"
        spawn = ["systemd-nspawn", "-D", str(root), *OPTIONS, *python.bindings()]
        nspawn = subprocess.Popen(
            ["unshare", "--net", "/bin/sh", "-c", PREPARE, str(group), *spawn],
            env={**os.environ, "NOTIFY_SOCKET": str(folder / "notify"), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            stdin=subprocess.DEVNULL,
            stdout=stack.enter_context((folder / "console").open("w")),  # a pipe nobody reads would stop process 1
            stderr=subprocess.STDOUT,
        )
        try:
            box = Box(root, _wait_for_boot(told, nspawn, folder / "console"), release)
            box.ok("ip", "link", "set", "lo", "up")
            assert box.ok("systemctl", "--version").split()[1] == str(box.version), "another systemd than the one named"
            yield box
        finally:
            _stop(nspawn, group)


def _wait_for_boot(told: socket.socket, nspawn: subprocess.Popen[bytes], console: Path) -> int:
    leader = 0
    ends = time.monotonic() + BOOT_S
    while True:
        told.settimeout(max(0.1, min(1.0, ends - time.monotonic())))
        with suppress(TimeoutError):
            for line in told.recv(4096).decode().splitlines():
                key, _, value = line.partition("=")
                if key == "X_NSPAWN_LEADER_PID":
                    leader = int(value)
                elif key == "READY" and leader:
                    return leader
        if nspawn.poll() is not None or time.monotonic() > ends:
            raise AssertionError(f"the box did not boot: {console.read_text(errors='replace')}")


def _stop(nspawn: subprocess.Popen[bytes], group: Path) -> None:
    """End everything in the box's control group at once, nspawn too; nothing in a box is worth a shutdown."""
    (group / "cgroup.kill").write_text("1")
    nspawn.wait()


@contextmanager
def _mounted(lower: Path) -> Iterator[Path]:
    """Mount a file system of our own over the base, in memory: durable writes cost nothing there."""
    folder = base.scratch()
    with ExitStack() as stack:
        stack.callback(folder.rmdir)
        _mount(stack, folder, "-t", "tmpfs", "-o", "size=1g,mode=755", "tmpfs")
        for part in ("upper", "work", "root"):
            (folder / part).mkdir()
        layers = f"lowerdir={lower},upperdir={folder}/upper,workdir={folder}/work"
        _mount(stack, folder / "root", "-t", "overlay", "-o", layers, "overlay")
        yield folder


def _mount(stack: ExitStack, place: Path, *options: str) -> None:
    subprocess.run(["mount", *options, place], check=True)
    stack.callback(subprocess.run, ["umount", "--lazy", place], check=False)


@contextmanager
def _own_group(name: str) -> Iterator[Path]:
    """Make a control group for one box: two in one would see each other's."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    mounted = [line.split()[4] for line in lines if " - cgroup2 " in line]
    assert mounted, "no cgroup2 is mounted"
    group = Path(mounted[0]) / name
    group.mkdir()
    try:
        yield group
    finally:
        _remove(group)


def _remove(group: Path) -> None:
    """Remove a control group whose processes were told to end, once they have."""
    with (group / "cgroup.events").open() as events:
        waiting = select.poll()
        waiting.register(events, select.POLLPRI)
        while "populated 1" in events.read():
            waiting.poll(1000)
            events.seek(0)
    for folder, _, _ in os.walk(group, topdown=False):
        os.rmdir(folder)
