"""Where a file really is, and what must be watched so that no way of replacing it goes unseen."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hotreload.reload.mounts import Mount, mount_of
from hotreload.reload.reading import Reading

LINKS: Final = 40


@dataclass(frozen=True, slots=True)
class Place:
    """A folder as it was found, or a file with several names: device and inode, and the names in it that matter."""

    identity: tuple[int, int]
    names: frozenset[str]


Route = Mapping[Path, Place]
"""What to watch, on local file systems only."""


@dataclass(frozen=True, slots=True)
class Survey:
    """One look at some files: what to watch and what was read; of the first whether its folder is there.

    `local`: all that leads to them is on local file systems, so that each change is told where it is watched.
    """

    route: Route = field(default_factory=dict[Path, Place])
    readings: Mapping[Path, Reading] = field(default_factory=dict[Path, Reading])
    reachable: bool = False
    local: bool = False
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class Found:
    """What is at a path, found without opening it for reading."""

    status: os.stat_result
    mount: Mount

    @classmethod
    def at(cls, path: Path) -> Found | None:
        """Return what is at `path`, links followed; None where nothing is, or nothing that may be looked at."""
        try:
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            return cls(os.fstat(descriptor), mount_of(descriptor))
        except OSError:
            return None
        finally:
            os.close(descriptor)

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode."""
        return self.status.st_dev, self.status.st_ino


def survey(files: Sequence[Path], read: Callable[[Sequence[Path]], dict[Path, Reading]]) -> Survey:
    """Look at the files; blocks as long as their file systems do."""
    first, names = Found.at(files[0]), _names(files)
    found = {path: place for path in names if (place := Found.at(path)) is not None}
    return Survey(
        route={path: Place(at.identity, frozenset(names[path])) for path, at in found.items() if at.mount.local},
        readings=read(files),
        reachable=os.path.isdir(files[0].parent),
        local=all(at.mount.local for at in found.values()),
        warning=_warning(files[0], first) if first is not None and _alone(files[0], first) else None,
    )


def _names(files: Sequence[Path]) -> dict[Path, set[str]]:
    """Return folder and name of every link on the way to each file and of the file itself.

    A watch on a file goes deaf at the first atomic rename; one on its folder only misses the swap of a symlink
    further along (Kubernetes' `..data`) and what is written through another name of the file. So the file itself is
    watched too, but only where it has another name: mounted alone, or linked.
    """
    names: dict[Path, set[str]] = {}
    for file in files:
        for folder, name in _steps(file):
            names.setdefault(folder, set()).add(name)
        found = Found.at(file)
        if found is not None and (found.status.st_nlink > 1 or _alone(file, found)):
            names[file.absolute()] = set()
    return names


def _steps(file: Path) -> list[tuple[Path, str]]:
    """Resolve a path component by component; returns folder and name of each link met and of the file itself."""
    met: list[tuple[Path, str]] = []
    here, parts = Path("/"), deque(file.absolute().parts[1:])
    while parts and len(met) < LINKS:
        name = parts.popleft()
        step = here / name
        try:
            target = Path(os.readlink(step))
        except OSError:  # not a link, or not there
            if name == "..":
                here = here.parent
            elif parts:
                here = step
            else:
                met.append((here, name))
            continue
        met.append((here, name))
        here = Path("/") if target.is_absolute() else here
        parts.extendleft(reversed(target.parts[target.is_absolute() :]))
    return met


def _alone(file: Path, found: Found) -> bool:
    """Tell whether a file is a mount point itself: what replaces it on the other side is not seen here."""
    return found.mount.point == os.path.realpath(file)


def _warning(file: Path, found: Found) -> str:
    gone = found.status.st_nlink == 0
    what = "was replaced or deleted on the other side" if gone else "cannot be replaced from the other side"
    return f"{file.name} is mounted as a single file and {what}: only writes in place are seen; mount its folder"
