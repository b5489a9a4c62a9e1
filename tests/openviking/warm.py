"""Fork servers from an interpreter that has imported what takes OpenViking longest to import, and no test uses.

Three vendors' libraries are most of its time. Everything else, this library and OpenViking included, each
server imports itself, as `python -m MODULE` would; tests about the first moments of a process start it that way.
It is not measured itself; what it forks is, where `env` says so.

    python warm.py ADDRESS

prints a line once it listens at ADDRESS, and leaves when its standard input is closed. A client sends one order
(`command`, `cwd`, `env`, and the files `log` and `errors`), and is told the process id, then the exit code and the
monotonic second at which the process was gone.
"""

import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
import time
from typing import Any, NoReturn

import coverage

ORDER_BYTES = 1 << 17


def main(address: str) -> None:
    """Fork until nobody wants it any more."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it asks the network for its prices
    import lark_oapi.ws.client  # noqa: F401
    import litellm  # noqa: F401
    import volcenginesdkarkruntime  # noqa: F401

    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(address)
        listener.listen()
        print("listening", flush=True)
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            client, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                look_after(client)
            client.close()


def look_after(client: socket.socket) -> NoReturn:
    """Fork the server, and stay to tell how it ended: its parent is who learns that."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    order = json.loads(client.recv(ORDER_BYTES))
    pid = os.fork()
    if pid == 0:
        client.close()
        become(order)
    client.send(str(pid).encode())
    status = os.waitpid(pid, 0)[1]
    client.send(f"{os.waitstatus_to_exitcode(status)} {time.monotonic()}".encode())
    os._exit(0)


def become(order: dict[str, Any]) -> NoReturn:
    """Be the process that `python -m MODULE ...` would have started."""
    _, dash_m, module, *arguments = order["command"]
    assert dash_m == "-m"
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    with open(os.devnull, "rb") as nothing, open(order["log"], "ab") as log, open(order["errors"], "ab") as errors:
        os.dup2(nothing.fileno(), 0)
        os.dup2(log.fileno(), 1)
        os.dup2(errors.fileno(), 2)
    coverage.process_startup()
    sys.orig_argv = list(order["command"])
    sys.argv = [module, *arguments]
    sys.path[0] = order["cwd"]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    main(sys.argv[1])
