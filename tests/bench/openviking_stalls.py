"""How long the event loop of stock OpenViking is away while it imports documents, sampled inside the server.

    python -m tests.bench.openviking_stalls [DOCUMENTS]

The documents are modules of this Python's standard library; the models are a stub on loopback that answers after 50 ms.
The server is OpenViking alone, without this library: its loop is asked to wake a task each 5 ms, and what it comes too
late is the lag. A watchdog's ping is such a task.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import sysconfig
import tempfile
import time
from array import array
from itertools import islice
from pathlib import Path
from typing import Any

import anyio

from examples.openviking.endpoint import Behaviour, serving

EVERY_S = 0.005
AT_ONCE = 16
DOCUMENT_CHARS = 20_000
SHARES = (0.5, 0.99, 0.999)
BOUNDS_S = (0.1, 1.0)


def serve(lags: Path, config: str) -> None:
    """Be the server; the lags are written when it stops."""
    import uvicorn
    from openviking_cli import server_bootstrap

    seen = array("d")
    stock_startup, stock_shutdown = uvicorn.Server.startup, uvicorn.Server.shutdown
    sampling: list[asyncio.Task[None]] = []

    async def sample() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(EVERY_S)
            seen.append(time.perf_counter() - began - EVERY_S)

    async def startup(self: uvicorn.Server, sockets: Any = None) -> None:
        await stock_startup(self, sockets)
        sampling.append(asyncio.create_task(sample()))

    async def shutdown(self: uvicorn.Server, sockets: Any = None) -> None:
        sampling[0].cancel()
        await asyncio.to_thread(lags.write_text, json.dumps(list(seen)))
        await stock_shutdown(self, sockets)

    uvicorn.Server.startup, uvicorn.Server.shutdown = startup, shutdown
    sys.argv = ["openviking-server", "--config", config]
    server_bootstrap.main()


async def measure(count: int) -> None:
    """Import `count` documents and print what the loop's lags were until each had its summaries."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "openviking"))
    from ov_home import Home
    from ov_process import running

    texts = await anyio.to_thread.run_sync(_texts, count)
    folder = Path(tempfile.mkdtemp(prefix="hr-stalls-"))
    lags = folder / "lags.json"
    async with serving(Behaviour(latency_s=0.05, embedding_latency_s=0.05)) as (_, url):
        home = Home(folder, url)
        home.write({"vlm": {"max_concurrent": AT_ONCE}})
        command = (sys.executable, "-m", "tests.bench.openviking_stalls", "serve", str(lags))
        async with running(home, command) as server:
            began = time.monotonic()
            names = await _post(server, texts)
            await server.finished(names, 3600)
            took = time.monotonic() - began
            server.signal(signal.SIGTERM)
            await server.ended(60)
    seen = sorted(json.loads(lags.read_text()))
    print(f"{count} documents, {AT_ONCE} model calls at once, {took:.0f} s; {len(seen)} samples of the loop's lag")
    for share in SHARES:
        print(f"  {share:6.1%} of them up to {seen[int(len(seen) * share)] * 1000:7.1f} ms")
    print(f"  the longest        {seen[-1] * 1000:9.1f} ms")
    for bound_s in BOUNDS_S:
        print(f"  longer than {bound_s:g} s: {sum(lag > bound_s for lag in seen)}")


def _texts(count: int) -> list[str]:
    files = sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))
    long_enough = (text for path in files if len(text := path.read_text(errors="replace")) > 1000)
    return [text[:DOCUMENT_CHARS] for text in islice(long_enough, count)]


async def _post(server: Any, texts: list[str]) -> list[str]:
    limiter = anyio.CapacityLimiter(AT_ONCE)

    async def post(number: int, text: str) -> None:
        async with limiter:
            await server.add_document(f"doc{number}", text)

    async with anyio.create_task_group() as tasks:
        for number, text in enumerate(texts):
            tasks.start_soon(post, number, text)
    return [f"doc{number}" for number in range(len(texts))]


def main(arguments: list[str]) -> None:
    """Measure, or be the server that is measured."""
    if arguments[:1] == ["serve"]:
        serve(Path(arguments[1]), arguments[3])
    else:
        anyio.run(measure, int(arguments[0]) if arguments else 300)


if __name__ == "__main__":
    main(sys.argv[1:])
