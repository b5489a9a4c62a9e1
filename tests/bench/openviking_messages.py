"""How many messages without work a second pass through OpenViking's Semantic worker, stock's and this library's.

    python -m tests.bench.openviking_messages [ROUNDS] [MESSAGES]

Each is measured in a process of its own, one right after the other, in OpenViking's own store on the disk, at a limit
of 10. Stock looks into its queue every 0.2 s, whatever is in it.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

LIMIT = 10
FIGURE = "messages_per_s"
GOAL_PER_S = 1_000
ROUNDS, MESSAGES = 5, 2_000
STOCK_SHARE = 10
"""Stock is given so much less to do."""


def one_round(which: str, folder: Path, count: int) -> float:
    """Return the messages a second from the start of the worker to the acknowledgement of the last one."""
    from openviking.pyagfs import get_binding_client
    from openviking.storage.queuefs.named_queue import DequeueHandlerBase
    from openviking.storage.queuefs.process_result import ProcessResult
    from openviking.storage.queuefs.queue_manager import QueueManager

    from hotreload.openviking.limits import QueueWorkers
    from hotreload.openviking.patches import attach_limits

    class Nothing(DequeueHandlerBase):
        async def on_dequeue(self, data: dict[str, Any] | None) -> ProcessResult:
            return ProcessResult.success(data)

    if which == "ours":
        attach_limits(QueueWorkers({"semantic": LIMIT}))
    client: Any = get_binding_client()[0]()
    client.mount("queuefs", "/queue", {"backend": "sqlite", "db_path": str(folder / "queue.db")})
    manager: Any = QueueManager(client, max_concurrent_semantic=LIMIT)
    manager.set_vlm_resolver(object())
    queue = manager.get_queue("Semantic", dequeue_handler=Nothing(), allow_create=True)
    client.mkdir("/queue/Semantic")
    for number in range(count):
        client.write("/queue/Semantic/enqueue", json.dumps({"uri": f"viking://resources/{number}"}).encode())
    done, stock_ack, left = threading.Event(), queue._ack, count  # noqa: SLF001 - stock has no public name for it

    async def ack(context: Any) -> None:
        nonlocal left
        await stock_ack(context)
        left -= 1
        if not left:
            done.set()

    queue._ack = ack  # noqa: SLF001
    began = time.perf_counter()
    manager.start()
    assert done.wait(120), f"{left} of {count} are left"
    rate = count / (time.perf_counter() - began)
    manager.stop()
    return rate


def apart(which: str, count: int) -> float:
    """Measure in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.bench.openviking_messages", which, folder, str(count)]
        subprocess.run(command, capture_output=True, check=True)
        return float(Path(folder, FIGURE).read_text())


def main() -> int:
    """Print both and their ratio; 1 where ours misses its goal."""
    if sys.argv[1:2] in (["stock"], ["ours"]):
        which, folder, count = sys.argv[1:]
        Path(folder, FIGURE).write_text(str(one_round(which, Path(folder), int(count))))
        return 0
    given = [int(each) for each in sys.argv[1:3]]
    rounds, count = given + [ROUNDS, MESSAGES][len(given) :]
    pairs = [(apart("stock", count // STOCK_SHARE), apart("ours", count)) for _ in range(rounds)]
    for name, figures in zip(("stock", "ours"), zip(*pairs, strict=True), strict=True):
        print(f"{name}: {statistics.median(figures):.0f} messages/s ({min(figures):.0f} to {max(figures):.0f})")
    print(f"ratio: {statistics.median(ours / stock for stock, ours in pairs):.1f}")
    return int(statistics.median(ours for _, ours in pairs) < GOAL_PER_S)


if __name__ == "__main__":
    sys.exit(main())
