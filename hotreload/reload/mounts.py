"""Which file system an open file lies on (proc(5): fdinfo, mountinfo), and what may be believed of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

LOCAL: Final = frozenset(
    {"bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"}
)
"""The kernel itself knows all that happens to files here: who has one open, and each change.

Elsewhere (NFS, CIFS, 9p, FUSE) it knows what this machine does, a lease may be refused for reasons of its own, and
any call may block for ever: `inotify_add_watch` too, which watchfiles makes while it holds the interpreter.
"""
_MOUNTS: Final = "/proc/self/mountinfo"


@dataclass(frozen=True, slots=True)
class Mount:
    """A mount: where it is, and the kind of its file system."""

    point: str
    kind: str

    @property
    def local(self) -> bool:
        """Whether the kernel knows all that happens there."""
        return self.kind in LOCAL


def mount_of(descriptor: int) -> Mount:
    """Return the mount an open file lies on; an unknown one (`""`) where proc(5) does not tell. Asks no file system."""
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", encoding="utf-8") as info:
            number = next(line.split()[1] for line in info if line.startswith("mnt_id:"))
        return _mount(number, os.fstat(descriptor).st_dev)
    except (OSError, StopIteration, IndexError, ValueError):
        return Mount("", "")


@lru_cache(maxsize=16)
def _mount(number: str, _device: int) -> Mount:
    """Find a mount among all, once: each reload asks for the same one, and no other soon has both of its numbers."""
    with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as mounts:
        fields = next(fields for line in mounts if (fields := line.split(" "))[0] == number)
    return Mount(_unescaped(fields[4]), fields[fields.index("-", 6) + 1])


def _unescaped(text: str) -> str:
    """Undo the octal escapes of proc(5)."""
    head, *rest = text.split("\\")
    return head + "".join(chr(int(part[:3], 8)) + part[3:] for part in rest)
