"""Folders that only this user may change, where the control socket and the state are; what files hold."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, cast


def content_of(file: BinaryIO, most: int) -> bytes:
    """Return at most so many bytes of a file opened with O_NONBLOCK; OSError (EAGAIN) where it has none at once.

    A regular file may have to wait, too: one of a FUSE file system, or of /proc.
    """
    content = cast("bytes | None", file.read(most))
    if content is None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return content


def open_own_folder(folder: Path) -> int:
    """Return a descriptor of a folder that is ours and not writable by others; a missing one is made with mode 0700.

    What is checked is the opened folder itself, never one behind a symbolic link. Others may read its list of names
    (systemd's `RuntimeDirectory=` has mode 0755). Parents are not judged: in a folder like `/tmp` the sticky bit keeps
    others from replacing what is ours. OSError, whose `strerror` is a sentence for the operator.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise OSError(error.errno, _why_not_opened(folder, error)) from error
    found = os.fstat(descriptor)
    if found.st_uid == os.geteuid() and not writable_by_others(found):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EPERM, _why_not_ours(folder, found))


def writable_by_others(found: os.stat_result) -> bool:
    """Tell whether the group or everybody may write; the mask of an access control list stands in the group's place."""
    return bool(found.st_mode & (stat.S_IWGRP | stat.S_IWOTH))


def tighten(folder: int, names: Iterable[str]) -> None:
    """Take the permissions of others from files of this folder; OSError for one that is a symbolic link."""
    for name in names:
        try:
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            reason = "is a symbolic link, which is not followed" if error.errno == errno.ELOOP else error.strerror
            raise OSError(error.errno, f"{name} {reason}") from error
        try:
            mode = stat.S_IMODE(os.fstat(file).st_mode)
            if mode & 0o077:
                os.fchmod(file, mode & 0o700)
        finally:
            os.close(file)


def _why_not_opened(folder: Path, error: OSError) -> str:
    if folder.is_symlink():
        return f"{folder} is a symbolic link to {os.readlink(folder)}, which is not followed; name the folder itself"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"{folder} is not a folder"
    return f"{folder} cannot be used: {error.strerror}"


def _why_not_ours(folder: Path, found: os.stat_result) -> str:
    """Say what is wrong; never to change the mode of a folder that others use."""
    me = os.geteuid()
    if found.st_uid != me:
        return f"{folder} belongs to uid {found.st_uid}, not to us (uid {me}); name a folder of our own"
    mode = stat.S_IMODE(found.st_mode)
    return f"{folder} is writable by others (mode {mode:04o}); name a folder that only uid {me} may write to"
