"""A proxy before a PostgreSQL whose network fails: it cuts, delays, half-closes, or swallows all that is sent."""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp

from .cutting import PORT


class FailingProxy:
    """Passes bytes between clients and the server in `folder`, each on a unix socket named as PostgreSQL does."""

    def __init__(self, folder: Path) -> None:
        self._server = folder
        self.folder = Path(mkdtemp(prefix="hr-net-"))
        self._passing = threading.Event()
        self._passing.set()
        self._closed = threading.Event()
        self._delay_s = 0.0
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.folder / f".s.PGSQL.{PORT}"))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def dsn(self, dsn: str) -> str:
        """Return the server's address with the proxy in its place."""
        return dsn.replace(str(self._server), str(self.folder))

    def swallow(self) -> None:
        """Pass nothing on any more, and end no connection, until `heal`."""
        self._passing.clear()

    def delay(self, seconds: float) -> None:
        """Hold each piece back for so long, until `heal`."""
        self._delay_s = seconds

    def heal(self) -> None:
        """Pass everything on again; what was swallowed is gone, and so are its connections."""
        if not self._passing.is_set():
            self.cut()
        self._delay_s = 0.0
        self._passing.set()

    def cut(self) -> None:
        """End every connection on both sides."""
        self._shut(socket.SHUT_RDWR)

    def half_close(self) -> None:
        """End every connection towards the clients alone; the server hears nothing of it until a client ends."""
        for client, _ in self._pairs:
            with suppress(OSError):
                client.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Refuse further clients, and end those there are."""
        self._closed.set()
        self._listener.close()
        self.heal()
        self.cut()
        os.unlink(self.folder / f".s.PGSQL.{PORT}")
        self.folder.rmdir()

    def _shut(self, how: int) -> None:
        pairs, self._pairs = self._pairs, []
        for one in [one for pair in pairs for one in pair]:
            with suppress(OSError):
                one.shutdown(how)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(str(self._server / f".s.PGSQL.{PORT}"))
            except OSError:  # the server is down
                client.close()
                continue
            self._pairs.append((client, server))
            for of, to in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=(of, to), daemon=True).start()

    def _pass(self, of: socket.socket, to: socket.socket) -> None:
        with suppress(OSError):
            while said := of.recv(65_536):
                self._closed.wait(self._delay_s)
                if not self._passing.is_set():
                    self._passing.wait()
                    break
                to.sendall(said)
        for one in (of, to):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
