"""A real pgbouncer in transaction mode before a PostgreSQL of the tests, without a port."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import mkdtemp

from .postgres import NOBODY, Server


class Bouncer:
    """One pgbouncer, from the constructor to `close`; each transaction gets any of its `connections` to the server."""

    def __init__(self, server: Server, connections: int = 4) -> None:
        program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
        assert Path(program).exists(), "no pgbouncer: install Debian's pgbouncer"
        self.folder = Path(mkdtemp(prefix="hr-pgb-"))
        ini, users = self.folder / "pgbouncer.ini", self.folder / "users"
        users.write_text('"tests" ""\n')
        settings = {
            "listen_addr": "",
            "listen_port": 5432,
            "unix_socket_dir": self.folder,
            "auth_type": "trust",
            "auth_file": users,
            "pool_mode": "transaction",
            "default_pool_size": connections,
            "server_round_robin": 1,
        }
        said = [f"{name} = {value}\n" for name, value in settings.items()]
        ini.write_text(f"[databases]\n* = host={server.folder}\n[pgbouncer]\n{''.join(said)}")
        root = os.geteuid() == 0
        if root:
            os.chown(self.folder, NOBODY, NOBODY)
        self._process = subprocess.Popen(
            [program, str(ini)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            user=NOBODY if root else None,
            group=NOBODY if root else None,
            extra_groups=[] if root else None,
        )
        assert self._process.stderr is not None
        lines: list[bytes] = []
        for line in self._process.stderr:
            lines.append(line)
            if b"process up" in line:
                return
        raise AssertionError(b"".join(lines).decode())

    def dsn(self, database: str) -> str:
        """Return the address of a database through it."""
        return f"postgresql://tests@/{database}?host={self.folder}"

    def close(self) -> None:
        """End it, and every connection through it."""
        self._process.terminate()
        self._process.communicate()
        shutil.rmtree(self.folder)
