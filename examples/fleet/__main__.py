"""Two nodes of the quickstart on a PostgreSQL of their own: `python -m examples.fleet FOLDER`; Ctrl-C drains all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

NODES = ("one", "two")
TEXTS, LINES = 200, 20
UNPRIVILEGED = 65534
"""PostgreSQL refuses to run as root: then it runs as this user."""


def binaries() -> Path:
    """Return the folder with `initdb` and `pg_ctl`: Debian's newest, or that of the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    named = shutil.which("initdb")
    if not found and named is None:
        sys.exit("there is no initdb: install PostgreSQL (Debian: apt install postgresql)")
    return found[-1].parent if found else Path(str(named)).parent


class Database:
    """A PostgreSQL in a folder, reached by a socket there; it has no port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._data = folder / "data"
        self.address = f"postgresql://fleet@/postgres?host={folder}"

    def start(self) -> None:
        """Make it where it is not there, and start it."""
        if not self._folder.exists():
            self._folder.mkdir()
            if os.geteuid() == 0:
                os.chown(self._folder, UNPRIVILEGED, UNPRIVILEGED)
            self._run("initdb", "-D", str(self._data), "-U", "fleet", "-A", "trust", "-E", "UTF8")
        options = f"-c listen_addresses='' -c unix_socket_directories='{self._folder}'"
        self._run("pg_ctl", "-D", str(self._data), "-w", "-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        """Stop it."""
        self._run("pg_ctl", "-D", str(self._data), "-w", "-m", "fast", "stop")

    def _run(self, name: str, *arguments: str) -> None:
        user = UNPRIVILEGED if os.geteuid() == 0 else None
        command = [str(binaries() / name), *arguments]
        subprocess.run(command, check=True, user=user, group=user, cwd=self._folder, stdout=subprocess.DEVNULL)


def write(folder: Path, address: str) -> None:
    """Write the texts, and a configuration for each node where there is none."""
    texts = folder / "texts"
    texts.mkdir(exist_ok=True)
    for number in range(TEXTS):
        (texts / f"{number:03}.txt").write_text("some words in a line\n" * LINES)
    for node in NODES:
        conf = folder / node / "ov.conf"
        conf.parent.mkdir(exist_ok=True)
        own = {"store": address, "node_ttl_s": 5, "watch": False}
        if not conf.exists():
            conf.write_text(json.dumps({"hotreload": own, "folder": str(texts), "max_concurrent": 2}, indent=2) + "\n")


def start(folder: Path, node: str) -> subprocess.Popen[bytes]:
    """Start a node; what it logs is in `FOLDER/NODE/log`."""
    own = folder / node
    command = [sys.executable, "-m", "hotreload", "run", "examples.quickstart.service:service"]
    with (own / "log").open("ab") as log:
        return subprocess.Popen(
            [*command, "--config", str(own / "ov.conf"), "--socket", str(own / "run" / "s")], stdout=log, stderr=log
        )


def main() -> None:
    """Run until SIGINT or SIGTERM; a node that is killed is started again, as a service manager does."""
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: over.set())
    database = Database(folder / "postgresql")
    database.start()
    write(folder, database.address)
    nodes = {node: start(folder, node) for node in NODES}
    for node, process in nodes.items():
        print(f"node {node}: pid {process.pid}, control socket {folder / node / 'run' / 's'}", flush=True)
    while not over.wait(0.5):
        for node, process in nodes.items():
            if process.poll() is not None:
                nodes[node] = start(folder, node)
                print(f"node {node}: ended with {process.returncode}, now pid {nodes[node].pid}", flush=True)
    for process in nodes.values():
        process.terminate()
    for process in nodes.values():
        process.wait()
    database.stop()


main()
