"""Clients that never stop asking: some on new connections, some on one kept alive.

Prints a line after every 100 answers, and at the end what they got and lost, as JSON. A client opens a new connection
after an answer that said `Connection: close`; whatever else keeps a request from its whole answer is a loss.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections import Counter

REQUEST = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n%b\r\n"
TIMEOUT_S = 20.0


def _ask(connection: socket.socket, header: bytes) -> bool:
    """Ask once; returns whether the connection may be used again. ConnectionError where no whole answer came."""
    connection.sendall(REQUEST % header)
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


def client(port: int, keep: bool, stop: threading.Event, counts: Counter[str], pause_s: float) -> None:
    """Ask until `stop`."""
    kind = "kept" if keep else "new"
    connection: socket.socket | None = None
    while not stop.wait(pause_s):
        try:
            connection = connection or socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
            usable = _ask(connection, b"" if keep else b"Connection: close\r\n")
            counts[f"{kind} answered"] += 1
            if not (counts["new answered"] + counts["kept answered"]) % 100:
                print("asking", flush=True)
        except OSError as error:
            counts[f"{kind} lost"] += 1
            counts[f"{kind}: {error!r}"] += 1
            usable = False
        if not usable and connection is not None:
            connection.close()
            connection = None


def main(port: int, pause_s: float) -> None:
    """Run 4 clients of each kind until standard input ends."""
    stop, counts = threading.Event(), Counter[str]()
    arguments = [(port, keep, stop, counts, pause_s) for keep in (False, True) for _ in range(4)]
    threads = [threading.Thread(target=client, args=argument) for argument in arguments]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
