"""Bind the control socket so that only its own user and root can ever reach it.

The folder is opened once, checked by its descriptor, and the socket is bound through that descriptor: what was
checked is what is used, and a long path fits the 108 bytes of a Unix address. The lock beside the socket is
held as long as the process lives, so a socket found under a free lock has no owner and may be removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import struct
from pathlib import Path
from typing import Final

from hotreload.admin.guard import Peer
from hotreload.errors import ControlSocketUnsafe

_UCRED: Final = struct.Struct("iII")
_BACKLOG: Final = 128


def peer_of(connection: socket.socket) -> Peer:
    """Return who is at the other end of a connected Unix socket (SO_PEERCRED, unix(7)); OSError if nobody can tell."""
    pid, uid, _gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Peer(pid, uid)


class ControlSocket:
    """A listening control socket at `path`."""

    def __init__(self, path: Path, listener: socket.socket, folder: int, lock: int) -> None:
        self.path = path
        self.listener = listener
        self._folder = folder
        self._lock = lock
        self._inode = _inode(folder, path.name)

    def close(self) -> None:
        """Stop listening and remove the socket under its lock. A second call does nothing."""
        if self._lock < 0:
            return
        self.listener.close()
        if self._inode is not None and _inode(self._folder, self.path.name) == self._inode:
            os.unlink(self.path.name, dir_fd=self._folder)
        os.close(self._lock)
        os.close(self._folder)
        self._lock = self._folder = -1


def bind_control_socket(path: Path) -> ControlSocket:
    """Make and listen on the control socket at `path`, mode 0600 from its first moment.

    ControlSocketUnsafe: the folder is not to be trusted, or something that is no socket of ours stands there.
    OSError EADDRINUSE: a running service has it. A socket left by a dead one is replaced.
    """
    path = path.absolute()
    folder = open_folder(path.parent)
    lock = -1
    try:
        lock = _take_lock(folder, path)
        _remove_stale(folder, path)
        return ControlSocket(path, _listen(folder, path.name), folder, lock)
    except BaseException:
        for descriptor in (lock, folder):
            if descriptor >= 0:
                os.close(descriptor)
        raise


def open_folder(folder: Path) -> int:
    """Return a descriptor of a folder that is ours, 0700 and no symlink; it is made where it is missing.

    ControlSocketUnsafe says what is wrong and how to put it right. Parents are not judged: in a folder like
    `/tmp` the sticky bit keeps others from replacing what is ours.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ControlSocketUnsafe(_why_not_opened(folder, error)) from error
    found = os.fstat(descriptor)
    problem = None
    if found.st_uid != os.geteuid():
        problem = f"belongs to uid {found.st_uid}, not to us (uid {os.geteuid()})"
    elif found.st_mode & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        problem = f"has mode {mode:04o}; 0700 is needed (chmod 700, or RuntimeDirectoryMode=0700 in the unit)"
    if problem:
        os.close(descriptor)
        raise ControlSocketUnsafe(f"folder of the control socket: {folder} {problem}")
    return descriptor


def bind_tcp(host: str, port: int) -> socket.socket:
    """Listen on the first address `host` stands for; OSError with the address in its message."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        reason = "is in use by another process" if error.errno == errno.EADDRINUSE else f"cannot be bound: {error}"
        raise OSError(error.errno, f"{host}:{port} {reason}") from error
    return listener


def _why_not_opened(folder: Path, error: OSError) -> str:
    if folder.is_symlink():
        return f"folder of the control socket: {folder} is a symbolic link"
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"folder of the control socket: {folder} is no folder"
    return f"folder of the control socket: {folder}: {error.strerror}"


def _take_lock(folder: int, path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(f"{path.name}.lock", flags, mode=0o600, dir_fd=folder)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise OSError(errno.EADDRINUSE, f"a service is running on {path}") from error
    return lock


def _remove_stale(folder: int, path: Path) -> None:
    """Remove what a dead service left; anything else that stands there is somebody's and stays."""
    try:
        found = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise ControlSocketUnsafe(f"{path} exists and is no socket of ours (uid {found.st_uid}); move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a full backlog answers EAGAIN, and that is an answer
        answer = probe.connect_ex(_address(folder, path.name))
    if answer != errno.ECONNREFUSED:
        raise OSError(errno.EADDRINUSE, f"another process listens on {path}")
    os.unlink(path.name, dir_fd=folder)


def _listen(folder: int, name: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listener.fileno(), 0o600)  # Linux gives the file the mode of the socket: no moment with another
        listener.bind(_address(folder, name))
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def _address(folder: int, name: str) -> str:
    return f"/proc/self/fd/{folder}/{name}"


def _inode(folder: int, name: str) -> tuple[int, int] | None:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
    return found.st_dev, found.st_ino
