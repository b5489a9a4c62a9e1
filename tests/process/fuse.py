"""A FUSE mount that serves one folder read-only: `python -m tests.process.fuse SOURCE MOUNTPOINT`.

After SIGUSR1 it is a file system that does not answer, until SIGUSR2; SIGTERM unmounts it. No request is under way
while it does not answer: a process cannot be killed while it waits for a request that the server has read. What is
written into SOURCE is not told to whoever watches the mount, as on a network file system. A file beside which there is
a BUSY cannot be read at once: EAGAIN. The protocol is that of linux/fuse.h, 7.31.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

IN_HEADER = struct.Struct("<IIQQIIII")
OUT_HEADER = struct.Struct("<IiQ")
ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")
LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE, FLUSH, INIT = 1, 2, 3, 14, 15, 17, 18, 25, 26
OPENDIR, READDIR, RELEASEDIR, ACCESS, INTERRUPT, DESTROY, BATCH_FORGET = 27, 28, 29, 34, 36, 38, 42
PAUSE, GO_ON = signal.SIGUSR1, signal.SIGUSR2
BUSY = ".busy"
SILENT = (FORGET, BATCH_FORGET, INTERRUPT)
LAZY = 2  # MNT_DETACH
READ_BYTES = 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


class Mount:
    """Answers the kernel's requests one after another, from a folder of another file system."""

    def __init__(self, source: Path, point: Path) -> None:
        self._point = os.fsencode(point)
        self._paths = {1: source}
        self._nodes = {source: 1}
        self._kernel = os.open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK)
        self._signals, told = os.pipe2(os.O_NONBLOCK)
        signal.set_wakeup_fd(told)
        options = f"fd={self._kernel},rootmode=40000,user_id=0,group_id=0,allow_other".encode()
        if _libc.mount(b"test", self._point, b"fuse", 0, options) != 0:
            raise OSError(ctypes.get_errno(), "mount")
        self._answers: dict[int, Callable[[Path, bytes], bytes]] = {
            INIT: lambda _path, _body: struct.pack("<IIIIHHIIHHI28x", 7, 31, 0, 0, 12, 10, 1 << 17, 1, 32, 0, 0),
            LOOKUP: lambda path, body: self._entry(path / os.fsdecode(body.rstrip(b"\0"))),
            GETATTR: lambda path, _body: struct.pack("<QII", 0, 0, 0) + self._attributes(path),
            OPEN: lambda _path, _body: struct.pack("<QII", 0, 1, 0),  # direct: nothing is kept by the kernel
            OPENDIR: lambda _path, _body: bytes(16),
            READ: self._read,
            READDIR: self._list,
            STATFS: lambda _path, _body: bytes(80),
            **dict.fromkeys((RELEASE, RELEASEDIR, FLUSH, ACCESS, DESTROY), lambda _path, _body: b""),
        }

    def serve(self) -> None:
        """Answer until it is unmounted."""
        while True:
            ready, _, _ = select.select([self._kernel, self._signals], [], [])
            if self._signals in ready and PAUSE in os.read(self._signals, 64):
                print("paused", flush=True)
                signal.sigwait([GO_ON])
                continue
            try:
                request = os.read(self._kernel, READ_BYTES)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                if error.errno in (errno.EINTR, errno.ENOENT, errno.EAGAIN):
                    continue
                raise
            _length, code, unique, node = IN_HEADER.unpack_from(request)[:4]
            if code not in SILENT:
                self._answer(unique, code, node, request[IN_HEADER.size :])

    def _answer(self, unique: int, code: int, node: int, body: bytes) -> None:
        try:
            number, answer = 0, self._answers[code](self._paths.get(node, self._paths[1]), body)
        except KeyError:
            number, answer = -errno.ENOSYS, b""
        except OSError as error:
            number, answer = -(error.errno or errno.EIO), b""
        os.write(self._kernel, OUT_HEADER.pack(OUT_HEADER.size + len(answer), number, unique) + answer)

    def unmount(self) -> None:
        """Take the mount away, whoever uses it."""
        _libc.umount2(self._point, LAZY)

    def _node(self, path: Path) -> int:
        node = self._nodes.setdefault(path, len(self._nodes) + 1)
        self._paths[node] = path
        return node

    def _entry(self, path: Path) -> bytes:
        attributes = self._attributes(path)
        return struct.pack("<QQQQII", self._node(path), 0, 0, 0, 0, 0) + attributes

    def _attributes(self, path: Path) -> bytes:
        found = path.lstat()
        times = [divmod(stamp, 10**9) for stamp in (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)]
        seconds, parts = zip(*times, strict=True)
        rest = (found.st_mode, found.st_nlink, found.st_uid, found.st_gid, 0, 4096, 0)
        return ATTRIBUTES.pack(found.st_ino, found.st_size, found.st_blocks, *seconds, *parts, *rest)

    def _read(self, path: Path, body: bytes) -> bytes:
        if path.with_name(BUSY).exists():
            raise BlockingIOError(errno.EAGAIN, "busy")
        offset, size = struct.unpack_from("<QI", body, 8)
        return path.read_bytes()[offset : offset + size]

    def _list(self, path: Path, body: bytes) -> bytes:
        offset, size = struct.unpack_from("<QI", body, 8)
        answer = b""
        for index, name in enumerate(sorted(os.listdir(os.fsencode(path)))[offset:], offset + 1):
            entry = struct.pack("<QQII", index + 1, index, len(name), 0) + name
            entry += bytes(-len(entry) % 8)
            if len(answer) + len(entry) > size:
                break
            answer += entry
        return answer


def main() -> None:
    """Mount, say so, serve."""
    mount = Mount(Path(sys.argv[1]), Path(sys.argv[2]))

    def leave(_number: int, _frame: object) -> NoReturn:
        mount.unmount()
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, leave)
    signal.signal(PAUSE, lambda _number, _frame: None)
    signal.pthread_sigmask(signal.SIG_BLOCK, [GO_ON])
    print("mounted", flush=True)
    mount.serve()


if __name__ == "__main__":
    main()
