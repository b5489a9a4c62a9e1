"""Disks below SQLite: one that loses power (what was not synced is kept, lost or torn), one that fails."""

from __future__ import annotations

import itertools
import random
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

SECTOR = 512
_names = itertools.count()


@dataclass
class Platter:
    """One file: what is safe, and the writes (offset, bytes) and truncations (size, None) since the last sync."""

    safe: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def sync(self) -> None:
        """Make everything safe."""
        for change in self.pending:
            _apply(self.safe, *change)
        self.pending.clear()

    def after_loss(self, chance: random.Random) -> bytes:
        """Return what is found after the power is back: of each unsynced write all, nothing or some sectors."""
        left = bytearray(self.safe)
        for at, data in self.pending:
            fate = chance.random()
            if fate < 0.4:
                _apply(left, at, data)
            elif fate < 0.6 and data is not None:
                for start in range(0, len(data), SECTOR):
                    if chance.random() < 0.5:
                        _apply(left, at + start, data[start : start + SECTOR])
        return bytes(left)


def _apply(content: bytearray, at: int, data: bytes | None) -> None:
    if data is None:
        del content[at:]
        return
    if len(content) < at:
        content.extend(bytes(at - len(content)))
    content[at : at + len(data)] = data


class Disk(apsw.VFS):
    """A file layer over the system's own; after `operations` writes and syncs the power is gone for good."""

    def __init__(self, operations: int) -> None:
        self.name = f"power{next(_names)}"
        self.left = operations
        self.files: dict[str, Platter] = {}
        self.turn = threading.Lock()
        super().__init__(self.name, base="unix-excl")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _File(self, name, flags)

    def connect(self, path: str) -> apsw.Connection:
        """Open a connection; this layer has no shared memory, so the WAL's index is in the process's own."""
        connection = apsw.Connection(path, vfs=self.name)
        connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
        return connection

    def operate(self) -> None:
        """Count one operation; the one on which the power goes does not happen, nor does any later one."""
        self.left -= 1
        if self.left <= 0:
            raise apsw.IOError("the power is gone")

    def write_remains(self, folder: Path, chance: random.Random) -> None:
        """Write into `folder` what a restart would find."""
        for name, platter in self.files.items():
            if name.endswith((".db", "-wal")):
                (folder / Path(name).name).write_bytes(platter.after_loss(chance))


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        self.disk = disk
        text = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        there = Path(text).read_bytes() if Path(text).exists() else b""  # left by an earlier life
        self.platter = disk.files.setdefault(text, Platter(bytearray(there)))
        super().__init__("unix-excl", name, flags)

    def xWrite(self, data: Any, offset: int) -> None:
        with self.disk.turn:
            self.disk.operate()
            self.platter.pending.append((offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        with self.disk.turn:
            self.disk.operate()
            self.platter.pending.append((newsize, None))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        with self.disk.turn:
            self.disk.operate()
            self.platter.sync()
        super().xSync(flags)


class FailingDisk(apsw.VFS):
    """A file layer over the system's own whose writes or syncs fail as long as they are told to."""

    def __init__(self) -> None:
        self.name = f"failing{next(_names)}"
        self.write_error: type[apsw.Error] | None = None
        self.sync_error: type[apsw.Error] | None = None
        super().__init__(self.name, base="unix-excl")

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _FailingFile(self, name, flags)

    def connect(self, path: str) -> apsw.Connection:
        """Open a connection; see `Disk.connect`."""
        connection = apsw.Connection(path, vfs=self.name)
        connection.execute("PRAGMA locking_mode = EXCLUSIVE").fetchall()
        return connection


class _FailingFile(apsw.VFSFile):
    def __init__(self, disk: FailingDisk, name: Any, flags: list[int]) -> None:
        self.disk = disk
        super().__init__("unix-excl", name, flags)

    def xWrite(self, data: Any, offset: int) -> None:
        if self.disk.write_error is not None:
            raise self.disk.write_error("as told")
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        if self.disk.sync_error is not None:
            raise self.disk.sync_error("as told")
        super().xSync(flags)
