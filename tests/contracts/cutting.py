"""A proxy before a PostgreSQL that cuts a connection at its COMMIT, before or after the server has seen it."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from tempfile import mkdtemp
from typing import Literal

PORT = 5432


class CuttingProxy:
    """Passes bytes between clients and the server in `folder`, each on a unix socket named as PostgreSQL does.

    `cut` says what becomes of the next COMMIT: passed on and its answer lost, or lost itself; it is None afterwards.
    """

    def __init__(self, folder: Path) -> None:
        self._server = folder / f".s.PGSQL.{PORT}"
        self.folder = Path(mkdtemp(prefix="hr-cut-"))
        self.cut: Literal["the answer", "the commit"] | None = None
        self.cut_done = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.folder / f".s.PGSQL.{PORT}"))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def dsn(self, dsn: str, folder: Path) -> str:
        """Return the server's address with the proxy in its place."""
        return dsn.replace(str(folder), str(self.folder))

    def close(self) -> None:
        """Refuse further clients."""
        self._listener.close()
        os.unlink(self.folder / f".s.PGSQL.{PORT}")
        self.folder.rmdir()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(self._server))
            threading.Thread(target=self._up, args=(client, server), daemon=True).start()
            threading.Thread(target=self._down, args=(client, server), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while said := client.recv(65_536):
                if self.cut is not None and b"COMMIT" in said:
                    cut, self.cut = self.cut, None
                    client.shutdown(socket.SHUT_RDWR)
                    if cut == "the answer":
                        server.sendall(said)
                    break
                server.sendall(said)
            server.shutdown(socket.SHUT_WR)
        except OSError:
            pass
        finally:
            self.cut_done.set()

    @staticmethod
    def _down(client: socket.socket, server: socket.socket) -> None:
        try:
            while said := server.recv(65_536):
                client.sendall(said)
            client.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        finally:
            client.close()
            server.close()
