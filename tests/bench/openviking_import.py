"""How long OpenViking takes to import documents, stock's server and this library's.

    python -m tests.bench.openviking_import [ROUNDS] [DOCUMENTS]

The documents are posted one after the other; the time ends once each has its summaries and no queue holds anything.
Model and embeddings are a stub on loopback: it answers after half a second, as models do at best, and after 50 ms,
when the processor is what an import waits for. Each round asks both, one right after the other, each time with a
server and a folder of its own; which is first changes.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import anyio

from examples.openviking.endpoint import Behaviour, serving

sys.path.insert(0, str(Path(__file__).parents[1] / "openviking"))
from ov_forked import warm_interpreter
from ov_home import Home
from ov_process import STOCK, running, wait_until

AT_ONCE = 10
LATENCIES_S = (0.5, 0.05)
LONGEST_S = 600
ROUNDS, DOCUMENTS = 5, 40


async def import_s(which: str, count: int, latency_s: float, warm: Path) -> float:
    """Return the seconds from the first document posted to the last one done."""
    with tempfile.TemporaryDirectory(prefix="hr-import-") as folder:
        async with serving(Behaviour(latency_s=latency_s, embedding_latency_s=latency_s)) as (_, url):
            home = Home(Path(folder), url, warm)
            home.write({"vlm": {"max_concurrent": AT_ONCE}})
            async with running(home, home.ours if which == "ours" else STOCK) as server:
                began = time.perf_counter()
                names = await server.add_documents(count)
                await server.finished(names, LONGEST_S)
                await wait_until(server.idle, LONGEST_S, "empty queues")
                return time.perf_counter() - began


async def measure(rounds: int, count: int) -> None:
    """Print both and their ratio, for each latency."""
    with tempfile.TemporaryDirectory(prefix="hr-warm-") as folder, warm_interpreter(Path(folder)) as warm:
        for latency_s in LATENCIES_S:
            taken: dict[str, list[float]] = {"stock": [], "ours": []}
            for number in range(rounds):
                for which in sorted(taken, reverse=number % 2 == 0):
                    taken[which].append(await import_s(which, count, latency_s, warm))
            for which, figures in taken.items():
                median = statistics.median(figures)
                print(f"{which}, {latency_s:g} s a call: {median:.2f} s ({min(figures):.2f} to {max(figures):.2f})")
            ratios = [ours / stock for stock, ours in zip(taken["stock"], taken["ours"], strict=True)]
            print(f"ratio: {statistics.median(ratios):.2f}")


def main() -> None:
    """Measure as the arguments say."""
    given = [int(each) for each in sys.argv[1:3]]
    anyio.run(measure, *given, *[ROUNDS, DOCUMENTS][len(given) :])


if __name__ == "__main__":
    main()
