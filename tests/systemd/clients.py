"""Clients that never stop asking: some on new connections, some on one kept alive, one of those that thinks for long.

Each line on standard input asks for a round: once every client was answered since the line came (`answers` times, the
one that thinks once), what all of them got and lost is printed as JSON. A client that keeps its connection opens a new
one after an answer that said `Connection: close`, and only then; whatever keeps a request from its whole answer is a
loss.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections import Counter

REQUEST = b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n"
TIMEOUT_S = 600.0
"""When a client is taken for one that hangs: a connection that waits for the next process is not lost."""
THINKS_S = 1.0


class Clients:
    """What they share: where to ask, and what they were answered."""

    def __init__(self, port: int, path: str, pause_s: float, each: int) -> None:
        self._port = port
        self._path = path.encode()
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._counts = Counter[str]()
        kinds = [(kind, pause_s) for kind in ("new", "kept") for _ in range(each)] + [("kept, thinking", THINKS_S)]
        self._answered = [0] * len(kinds)
        self._needed = [1 if pause == THINKS_S else 0 for _, pause in kinds]
        self._threads = [
            threading.Thread(target=self._ask, args=(number, kind, pause)) for number, (kind, pause) in enumerate(kinds)
        ]

    def start(self) -> None:
        """Begin to ask."""
        for thread in self._threads:
            thread.start()

    def round(self, answers: int) -> Counter[str]:
        """Return the counts once every client got that many answers more."""
        with self._changed:
            wanted = [had + (needed or answers) for had, needed in zip(self._answered, self._needed, strict=True)]
            self._changed.wait_for(lambda: all(map(int.__ge__, self._answered, wanted)))
            return self._counts.copy()

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int, kind: str, pause_s: float) -> None:
        connection: socket.socket | None = None
        while not self._stop.wait(pause_s):
            try:
                connection = connection or socket.create_connection(("127.0.0.1", self._port), timeout=TIMEOUT_S)
                usable = self._answer(connection, b"Connection: close\r\n" if kind == "new" else b"")
                self._count(number, f"{kind} answered")
            except OSError as error:
                usable = False
                self._count(None, f"{kind} lost: {error!r}")
            if not usable and connection is not None:
                connection.close()
                connection = None

    def _count(self, number: int | None, what: str) -> None:
        with self._changed:
            self._counts[what] += 1
            if number is not None:
                self._answered[number] += 1
                self._changed.notify_all()

    def _answer(self, connection: socket.socket, header: bytes) -> bool:
        """Ask once; returns whether the connection may be used again. ConnectionError where no whole answer came."""
        connection.sendall(REQUEST % (self._path, header))
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += _more(connection)
        head, _, body = answer.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        while len(body) < int(fields[b"content-length"]):
            body += _more(connection)
        if not head.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(head[:60].decode())
        return fields.get(b"connection") != b"close"


def _more(connection: socket.socket) -> bytes:
    read = connection.recv(4096)
    if not read:
        raise ConnectionError("closed before the answer was whole")
    return read


def main(port: str, path: str, pause_s: str, answers: str, each: str) -> None:
    """Run so many clients of each kind, and the one that thinks, until standard input ends."""
    clients = Clients(int(port), path, float(pause_s), int(each))
    clients.start()
    for _ in sys.stdin:
        print(json.dumps(clients.round(int(answers))), flush=True)
    clients.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
