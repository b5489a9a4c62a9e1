"""A real PostgreSQL for the tests: the machine's, as an ordinary user, in a temporary folder, without a port."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp

import psycopg
from psycopg import sql

NOBODY = 65534


def binaries() -> Path | None:
    """Return the folder of the newest PostgreSQL of this machine, None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    named = shutil.which("initdb")
    return found[-1].parent if found else Path(named).parent if named else None


class Server:
    """One server and its data, from the constructor to `remove`; `dsn` is the address of its database.

    What a client was told is on the disk only where the server is `durable`: processes are killed here, the power stays
    on, and a commit takes 0.1 ms instead of 4.
    """

    def __init__(self, *, durable: bool = False) -> None:
        bin_folder = binaries()
        assert bin_folder is not None, "no initdb: install Debian's postgresql"
        self._bin = bin_folder
        self.folder = Path(mkdtemp(prefix="hr-pg-"))
        if os.geteuid() == 0:
            os.chown(self.folder, NOBODY, NOBODY)
        self._data = self.folder / "data"
        self._run("initdb", "-D", str(self._data), "-U", "tests", "-A", "trust", "-E", "UTF8", "--no-sync")
        with (self._data / "postgresql.conf").open("a") as conf:
            conf.write(f"listen_addresses = ''\nunix_socket_directories = '{self.folder}'\nmax_connections = 200\n")
            conf.write("" if durable else "fsync = off\n")
        self.start()

    @property
    def dsn(self) -> str:
        """The address, with the socket's folder as host."""
        return f"postgresql://tests@/postgres?host={self.folder}"

    @property
    def pid(self) -> int:
        """The pid of the server's first process."""
        return int((self._data / "postmaster.pid").read_text().split()[0])

    def backends(self) -> list[int]:
        """Return the pids of the processes that serve clients now."""
        with psycopg.connect(self.dsn) as connection:
            asked = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            return [pid for (pid,) in connection.execute(asked)]

    def cut_all(self) -> int:
        """End every connection of a client, and return how many there were."""
        pids = self.backends()
        with psycopg.connect(self.dsn) as connection:
            for pid in pids:
                connection.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))
        return len(pids)

    def hang(self) -> None:
        """Stop every process of the server where it is, until `wake`."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let a server that hangs go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if (self._data / "postmaster.pid").exists():
            for pid in self._processes():
                with suppress(ProcessLookupError):  # one that ends by itself meanwhile
                    os.kill(pid, number)

    def _processes(self) -> list[int]:
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [self.pid, *map(int, children)]

    def kill(self) -> None:
        """Kill the first process with SIGKILL, and wait until the others have noticed; the next start recovers."""
        os.kill(self.pid, signal.SIGSTOP)  # no further ones, and none is reaped
        ends = [os.pidfd_open(pid) for pid in self._processes()]
        os.kill(self.pid, signal.SIGKILL)
        for end in ends:
            gone, _, _ = select.select([end], [], [], 20)
            assert gone, "a process of the server did not notice that the first one is gone"
            os.close(end)
        # Its locks name a process that the machine's init may not have reaped yet.
        for lock in (self._data / "postmaster.pid", *self.folder.glob(".s.PGSQL.*.lock")):
            lock.unlink()

    def start(self) -> None:
        """Start it where it does not run, and wait until it answers."""
        if (self._data / "postmaster.pid").exists():
            return
        self._run("pg_ctl", "-D", str(self._data), "-w", "-l", str(self.folder / "log"), "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it and wait until it is gone; `immediate` as a crash does."""
        self._run("pg_ctl", "-D", str(self._data), "-w", "-m", mode, "stop")

    def remove(self) -> None:
        """Stop it and remove its data."""
        self.stop("immediate")
        shutil.rmtree(self.folder)

    def schema(self, name: str) -> str:
        """Return the address of a schema of its own, made where there is none."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(name)))
        return f"{self.dsn}&options=-csearch_path%3D{name}"

    def _run(self, *command: str) -> None:
        root = os.geteuid() == 0
        done = subprocess.run(
            [str(self._bin / command[0]), *command[1:]],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE if command[0] == "initdb" else subprocess.DEVNULL,
            stderr=subprocess.STDOUT if command[0] == "initdb" else subprocess.DEVNULL,
            check=False,
            user=NOBODY if root else None,
            group=NOBODY if root else None,
            extra_groups=[] if root else None,
        )
        log = self.folder / "log"
        said = (done.stdout or b"").decode() + (log.read_text() if log.exists() else "")
        assert done.returncode == 0, f"{command}: {said}"
