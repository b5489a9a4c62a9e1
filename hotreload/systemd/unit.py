"""The systemd unit of a service: `Type=notify`, a synchronous client that reloads, and a process that sees little.

`notify-reload` is not used: it has no way to say that a reload was refused. The client of `ExecReload=` waits for the
verdict of the running process, so that `systemctl reload` fails when the file was refused. Its own time is shorter
than `TimeoutStartSec`, which bounds a reload too. `TimeoutStopSec` is short: a drain asks for the time it needs.

Sources: systemd.service(5), systemd.exec(5), sd_notify(3); every line was run on systemd 252 and 257.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

RELOAD_S: Final = 45
"""How long the client waits for a verdict: one reload under way and the one asked for."""
START_S: Final = 60
STOP_S: Final = 15
WATCHDOG_S: Final = 30

HIDDEN_HOMES: Final = ("/home", "/root", "/run/user")
"""What `ProtectHome=yes` hides."""

HARDENING: Final = (
    "NoNewPrivileges=yes",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "ProtectSystem=strict",
    "PrivateTmp=yes",
    "PrivateDevices=yes",
    "ProtectKernelTunables=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelLogs=yes",
    "ProtectControlGroups=yes",
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "ProtectProc=invisible",
    "ProcSubset=pid",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "RemoveIPC=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallFilter=~@privileged @resources",
    "SystemCallErrorNumber=EPERM",
    "UMask=0077",
)
"""A system unit's; a user manager lacks the privileges for most of them."""


@dataclass(frozen=True, slots=True)
class Unit:
    """What differs between units. `command` is the installed `hotreload`, `arguments` follow it.

    `folder` is where the target's modules are, None where they are installed. `watchdog` and `credentials` say whether
    the process can be watched and takes keys from systemd.
    """

    name: str
    command: Sequence[str]
    arguments: Sequence[str]
    user: bool = False
    folder: Path | None = None
    watchdog: bool = True
    credentials: bool = True

    def text(self) -> str:
        """Return the unit file."""
        sections = {"Unit": self._unit(), "Service": self._service(), "Install": self._install()}
        body = "\n\n".join("\n".join([f"[{name}]", *lines]) for name, lines in sections.items())
        return "\n".join([*self._heading(), "", body, ""])

    def _heading(self) -> list[str]:
        if self.user:
            return [f"# ~/.config/systemd/user/{self.name}.service, made by `hotreload unit`"]
        return [
            f"# /etc/systemd/system/{self.name}.service, made by `hotreload unit`; before its first start:",
            f"#   useradd --system --home-dir /var/lib/{self.name} --shell /usr/sbin/nologin {self.name}",
            f"#   install -D -o root -g {self.name} -m 0640 ov.conf /etc/{self.name}/ov.conf",
        ]

    def _unit(self) -> list[str]:
        lines = [
            f"Description={self.name}: reloads its configuration while it works, drains when it stops",
            "StartLimitIntervalSec=30",
            "StartLimitBurst=10",
        ]
        return lines if self.user else [*lines, "Wants=network-online.target", "After=network-online.target"]

    def _service(self) -> list[str]:
        lines = [
            "Type=notify",
            "NotifyAccess=main",
            f"ExecStart={_words([*self.command, *self.arguments, *self._socket()])}",
            f"ExecReload={_words([*self.command, 'reload', *self._socket(), '--timeout', str(RELOAD_S)])}",
            f"WorkingDirectory={_specifiers(self.folder) if self.folder else f'%S/{self.name}'}",
            f"TimeoutStartSec={START_S}",
            f"TimeoutStopSec={STOP_S}",
            *([f"WatchdogSec={WATCHDOG_S}"] if self.watchdog else []),
            "KillMode=mixed",
            "Restart=on-failure",
            "RestartSec=500ms",
            "RestartPreventExitStatus=78",
            "SuccessExitStatus=143",
            "OOMPolicy=continue",
            "FileDescriptorStoreMax=4",
            "",
            f"StateDirectory={self.name}",
            "StateDirectoryMode=0700",
            f"ConfigurationDirectory={self.name}",
        ]
        return lines if self.user else [*lines, *self._system()]

    def _socket(self) -> list[str]:
        """Name the control socket where the command looks for a user's; a system unit's is in its RuntimeDirectory."""
        return ["--socket", f"%t/hotreload/{self.name}.sock"] if self.user else []

    def _system(self) -> list[str]:
        return [
            f"RuntimeDirectory={self.name}",
            "RuntimeDirectoryMode=0700",
            f"User={self.name}",
            f"Group={self.name}",
            f"Environment=HOME=%S/{self.name}",
            *([f"# LoadCredential=FIELD:/etc/{self.name}/FIELD"] if self.credentials else []),
            "",
            f"ProtectHome={self._homes()}",
            *HARDENING,
        ]

    def _homes(self) -> str:
        """Keep homes out of sight, unless what is run lies in one."""
        shown = [Path(self.command[0]), *([self.folder] if self.folder else [])]
        return "read-only" if any(path.is_relative_to(home) for path in shown for home in HIDDEN_HOMES) else "yes"

    def _install(self) -> list[str]:
        return [f"WantedBy={'default' if self.user else 'multi-user'}.target"]


def of_service(
    target: str,
    name: str,
    command: Sequence[str],
    *,
    http: str | None = None,
    user: bool = False,
    folder: Path | None = None,
) -> Unit:
    """Return the unit of a service of our own; `target` is its `MODULE:ATTR`, `http` the address it serves."""
    arguments = ["run", target, "--config", f"%E/{name}/ov.conf", "--name", name, *(["--http", http] if http else [])]
    return Unit(name, command, arguments, user=user, folder=folder)


def of_openviking(command: Sequence[str], *, user: bool = False) -> Unit:
    """Return the unit of the stock server; no watchdog: how long native code of a large store may hold its loop is not
    known, and a kill in the middle of an import costs more than a stall."""
    arguments = ["openviking", "--config", "%E/openviking/ov.conf"]
    return Unit("openviking", command, arguments, user=user, watchdog=False, credentials=False)


def installed_command(executable: str, scripts: Sequence[str]) -> list[str]:
    """Return how this installation is run: the script beside the interpreter, else the interpreter with `-m`.

    `scripts` are the places the script may be in, the best first.
    """
    for script in (Path(executable).with_name("hotreload"), *map(Path, scripts)):
        if script.is_absolute() and os.access(script, os.X_OK):
            return [str(script)]
    return [executable, "-m", "hotreload"]


def closed_folder(path: Path) -> Path | None:
    """Return the first folder on the way to a file that only its owner and group may enter (`/root`), None without one.

    OSError where a folder cannot be looked at.
    """
    folders = reversed(path.parents)
    return next((each for each in folders if not each.stat().st_mode & stat.S_IXOTH), None)


def _words(words: Sequence[str]) -> str:
    """Join words for `Exec…=` (systemd.service(5)); `%` in a folder is not a specifier, `%E` and `%t` in front are."""
    return " ".join(_word(word) for word in words)


def _word(word: str) -> str:
    word = word if word.startswith(("%E/", "%t/")) else _specifiers(word)
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{word}"' if any(char in word for char in " '\t;") or not word else word


def _specifiers(path: str | Path) -> str:
    return str(path).replace("%", "%%")
