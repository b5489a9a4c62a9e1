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
from hotreload.folder import open_own_folder

_UCRED: Final = struct.Struct("iII")
_BACKLOG: Final = 1024


def peer_of(connection: socket.socket) -> Peer:
    """Return who is at the other end of a connected Unix socket (SO_PEERCRED, unix(7)); OSError if it is not known."""
    pid, uid, _gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Peer(pid, uid)


class ControlSocket:
    """A listening control socket at `path`."""

    def __init__(self, path: Path, listener: socket.socket, folder: int, lock: int) -> None:
        self.path = path
        self.listener = listener
        self._folder = folder
        self._lock = lock
        self._inode = _inode(path.name, folder)

    def renewed(self) -> ControlSocket | None:
        """Make the socket again where it, or its whole folder, was removed; None where something stands at `path`.

        The old one stays open until `close`. ControlSocketUnsafe and OSError as `bind_control_socket`: another service
        may have taken the place.
        """
        if _inode(self.path) is not None:
            return None
        folder = _open_folder(self.path.parent)
        name = _lock_name(self.path)
        kept = os.path.samestat(os.fstat(folder), os.fstat(self._folder)) and _inode(name, folder) == _held(self._lock)
        return _bind(self.path, folder, os.dup(self._lock) if kept else -1)

    def close(self) -> None:
        """Stop listening and remove the socket under its lock. A second call does nothing."""
        if self._lock < 0:
            return
        self.listener.close()
        if self._inode is not None and _inode(self.path.name, self._folder) == self._inode:
            os.unlink(self.path.name, dir_fd=self._folder)
        os.close(self._lock)
        os.close(self._folder)
        self._lock = self._folder = -1


def bind_control_socket(path: Path) -> ControlSocket:
    """Make and listen on the control socket at `path`, mode 0600 from its first moment.

    ControlSocketUnsafe: the folder is not to be trusted, or something that is not a socket of ours stands there.
    OSError EADDRINUSE: a running service has it. A socket left by a dead one is replaced.
    """
    path = path.absolute()
    return _bind(path, _open_folder(path.parent))


def _bind(path: Path, folder: int, lock: int = -1) -> ControlSocket:
    """Take both descriptors; without a lock, take that first."""
    try:
        if lock < 0:
            lock = _take_lock(folder, path)
        _remove_stale(folder, path)
        return ControlSocket(path, _listen(folder, path.name), folder, lock)
    except BaseException:
        for descriptor in (lock, folder):
            if descriptor >= 0:
                os.close(descriptor)
        raise


def _open_folder(folder: Path) -> int:
    try:
        return open_own_folder(folder)
    except OSError as error:
        raise ControlSocketUnsafe(f"folder of the control socket: {error.strerror}") from error


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


def _take_lock(folder: int, path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(_lock_name(path), flags, mode=0o600, dir_fd=folder)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        reason = f"a service is running on {path}; give this one another --name or --socket"
        raise OSError(errno.EADDRINUSE, reason) from error
    return lock


def _remove_stale(folder: int, path: Path) -> None:
    """Remove what a dead service left; anything else that stands there stays."""
    try:
        found = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid != os.geteuid():
        raise ControlSocketUnsafe(f"{path} exists and is not a socket of ours (uid {found.st_uid}); move it away")
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
    except BaseException as error:
        listener.close()
        if isinstance(error, OSError) and error.errno is None:  # Python's own, which names no file
            raise OSError(errno.ENAMETOOLONG, f"{name}: the name of a socket has 80 characters at most") from error
        raise
    return listener


def _address(folder: int, name: str) -> str:
    return f"/proc/self/fd/{folder}/{name}"


def _lock_name(path: Path) -> str:
    return f"{path.name}.lock"


def _inode(path: str | Path, folder: int | None = None) -> tuple[int, int] | None:
    """Return what tells a file from all others; None where there is none, or it cannot be looked at."""
    try:
        found = os.stat(path, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _held(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino
