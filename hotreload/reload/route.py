"""Where a file really is, and what must be watched so that no way of replacing it goes unseen."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hotreload.reload.inotify import Route
from hotreload.reload.load import read_file

LINKS: Final = 40
MOUNTS: Final = "/proc/self/mountinfo"

Versions = dict[Path, tuple[object, ...]]
"""What tells one version of each file from another; () for a file that is not there."""


@dataclass(frozen=True, slots=True)
class Survey:
    """One look at some files: what to watch, their versions, which are empty, whether the first can be watched."""

    route: Route = field(default_factory=dict[Path, frozenset[str]])
    versions: Versions = field(default_factory=dict[Path, tuple[object, ...]])
    empty: frozenset[Path] = frozenset()
    reachable: bool = False
    warning: str | None = None


def survey(files: Sequence[Path]) -> Survey:
    """Look at the files; blocks as long as their file systems do."""
    readings = {file: read_file(file) for file in files}
    return Survey(
        route=route_to(files),
        versions={file: reading.version for file, reading in readings.items()},
        empty=frozenset(file for file, reading in readings.items() if reading.raw == b""),
        reachable=files[0].parent.is_dir(),
        warning=mounted_alone(files[0]),
    )


def route_to(files: Sequence[Path]) -> Route:
    """Return what to watch: folder and name of every link on the way to each file and of the file itself.

    A watch on a file goes deaf at the first atomic rename; one on its folder only misses the swap of a symlink
    further along (Kubernetes' `..data`) and what is written through another name of the file. So the file itself is
    watched too, but only where it has another name: mounted alone, or linked.
    """
    found: dict[Path, set[str]] = {}
    for file in files:
        for folder, name in _steps(file):
            found.setdefault(folder, set()).add(name)
        if mounted_alone(file) or _links(file) > 1:
            found[file.absolute()] = {""}
    return {path: frozenset(names) for path, names in found.items() if path.exists()}


def _links(file: Path) -> int:
    try:
        return file.stat().st_nlink
    except OSError:
        return 0


def _steps(file: Path) -> list[tuple[Path, str]]:
    """Resolve a path component by component; returns folder and name of each link met and of the file itself."""
    met: list[tuple[Path, str]] = []
    here, parts = Path("/"), deque(file.absolute().parts[1:])
    while parts and len(met) < LINKS:
        name = parts.popleft()
        step = here / name
        if step.is_symlink():
            met.append((here, name))
            target = Path(os.readlink(step))
            here = Path("/") if target.is_absolute() else here
            parts.extendleft(reversed(target.parts[target.is_absolute() :]))
        elif name == "..":
            here = here.parent
        elif parts:
            here = step
        else:
            met.append((here, name))
    return met


def mounted_alone(file: Path) -> str | None:
    """Return a warning where a file is a mount point itself: what replaces it on the other side is not seen here."""
    try:
        real = os.path.realpath(file)
        gone = os.stat(real).st_nlink == 0
        with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as mounts:
            alone = any(_unescaped(line.split(" ", 5)[4]) == real for line in mounts)
    except (OSError, IndexError):
        return None
    if not alone:
        return None
    what = "was replaced or deleted on the other side" if gone else "cannot be replaced from the other side"
    return f"{file.name} is mounted as a single file and {what}: only writes in place are seen; mount its folder"


def _unescaped(text: str) -> str:
    """Undo the octal escapes of proc(5)."""
    head, *rest = text.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)
