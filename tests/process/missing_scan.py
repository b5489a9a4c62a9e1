"""Search COUNT entries of a service that has only a scan, every thousandth missing; print what it took as JSON.

    python -m tests.process.missing_scan COUNT FOLDER [--files]

With `--files` the entries are the documents of the example `summaries` below FOLDER/documents, made before.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
from pydantic import TypeAdapter

from examples.summaries.service import without_summary
from examples.summaries.settings import Documents, OvConf, Storage
from hotreload import Missing, Present
from hotreload.queue.sqlite import SqliteQueue
from hotreload.recovery.coordinator import RecoveryCoordinator
from hotreload.recovery.findings import Wanted
from hotreload.recovery.scan import QueueSearch, Scan, Seen

EVERY = 1_000
FOLDER = 1_000


def _peak_kb() -> int:
    """Return the most memory this program held; `ru_maxrss` would count what its parent held before the exec."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


async def entries(count: int) -> AsyncIterator[Seen]:
    """Yield the entries, one by one, as the slowest scan would tell them."""
    for number in range(count):
        name = f"folder{number // FOLDER}/entry{number}"
        yield Present() if number % EVERY else Missing(name, "no abstract", {"name": name})


async def main(count: int, folder: Path, *, files: bool) -> None:
    """Search as a service does, and look at the progress meanwhile."""
    store = SqliteQueue.open(folder / "queue.db")
    conf = OvConf(
        documents=Documents(path=folder / "documents", limit=0, min_bytes=0), storage=Storage(workspace=folder / "w")
    )
    scan = Scan("semantic", without_summary if files else lambda _conf: entries(count), TypeAdapter(Any))
    searches = RecoveryCoordinator(QueueSearch([scan], store, lambda: conf))
    seen: set[int] = set()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(searches.run)
        began = time.monotonic()
        ticket = searches.submit(Wanted())
        while not ticket.findings.ended:
            seen.add(searches.reports[0]["scanned"])
            with anyio.move_on_after(0.01):
                await ticket.wait()
        took_s = time.monotonic() - began
        tasks.cancel_scope.cancel()
    store.close()
    peak_mb = _peak_kb() / 1024
    print(json.dumps({**ticket.findings.summary(), "took_s": took_s, "peak_mb": peak_mb, "looks": len(seen)}))


if __name__ == "__main__":
    anyio.run(lambda: main(int(sys.argv[1]), Path(sys.argv[2]), files="--files" in sys.argv))
