"""Where a service's control socket is: one rule for the service that makes it and the client that looks for it.

`$RUNTIME_DIRECTORY/hotreload.sock` where systemd gives us one (an ExecReload has it too); else, for a name,
`/run/NAME/hotreload.sock`, `$XDG_RUNTIME_DIR/hotreload/NAME.sock`, `hotreload-UID/NAME.sock` in the temporary folder.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from hotreload.folder import writable_by_others

SOCKET_NAME: Final = "hotreload.sock"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Places:
    """The folders in which control sockets are made and looked for, as one user sees them."""

    uid: int
    runtime_directory: Path | None
    system: Path
    user: Path | None
    temporary: Path

    @classmethod
    def of_process(cls, environ: Mapping[str, str] = os.environ) -> Places:
        """Return those of this process; `$RUNTIME_DIRECTORY` may list several folders, the first counts."""
        runtime = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
        user = environ.get("XDG_RUNTIME_DIR")
        uid = os.geteuid()
        return cls(
            uid=uid,
            runtime_directory=Path(runtime) if runtime else None,
            system=Path("/run"),
            user=Path(user) if user else None,
            temporary=Path(tempfile.gettempdir()) / f"hotreload-{uid}",
        )

    def of_name(self, name: str) -> list[Path]:
        """Return the default sockets of a service, in the order they are tried. ValueError for a bad name."""
        check_name(name)
        user = [self.user / "hotreload" / f"{name}.sock"] if self.user else []
        return [self.system / name / SOCKET_NAME, *user, self.temporary / f"{name}.sock"]

    def to_create(self, name: str) -> Path:
        """Return the socket a service of this name makes: the first of the places that fits this user."""
        if self.runtime_directory is not None:
            return self.runtime_directory / SOCKET_NAME
        *others, last = self.of_name(name)
        return next((path for path in others if self._fits(path.parent)), last)

    def existing(self) -> list[tuple[str, Path]]:
        """Return name and path of every control socket there is in the default places, running or not."""
        found = [(path.parent.name, path) for path in sorted(self.system.glob(f"*/{SOCKET_NAME}"))]
        for folder in (self.user / "hotreload" if self.user else None, self.temporary):
            found += [(path.stem, path) for path in sorted(folder.glob("*.sock"))] if folder else []
        return found

    def shown(self, name: str) -> list[str]:
        """Return the default places of `name` for a message (`*` for any name)."""
        user = [str(self.user / "hotreload" / f"{name}.sock")] if self.user else []
        return [str(self.system / name / SOCKET_NAME), *user, str(self.temporary / f"{name}.sock")]

    def _fits(self, folder: Path) -> bool:
        """Tell whether a folder is ours and not writable by others, or one that we may make."""
        try:
            found = folder.lstat()
        except FileNotFoundError:
            return os.access(folder.parent, os.W_OK | os.X_OK)
        except OSError:
            return False
        return stat.S_ISDIR(found.st_mode) and found.st_uid == self.uid and not writable_by_others(found)


def default_socket_path(name: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Return the control socket a service of this name creates when none is given."""
    return Places.of_process(environ).to_create(name)


def check_name(name: str) -> str:
    """Return `name`; ValueError where it could not be part of a path."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a service name: letters, digits, '.', '_' and '-', 64 at most")
    return name


def parse_address(text: str) -> tuple[str, int]:
    """Split `HOST:PORT` (`[::1]:8750`, `127.0.0.1:0`); ValueError with what would be right."""
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or port is None or any(char in text for char in "/@?# "):
        raise ValueError(f"{text!r} is not of the form HOST:PORT, for example 127.0.0.1:8750 or [::1]:8750")
    return host, port
