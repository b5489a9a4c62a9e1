"""How long a reload takes, seen from outside: asked to done, saved to applied, beside a bare watch of the same folder.

    python -m tests.bench.reload [ROUNDS]

Rounds are interleaved, medians of a run are compared. The service has 200 keys and 10 parts.
"""

from __future__ import annotations

import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import anyio
import httpx
from watchfiles import awatch

from hotreload.reload.triggers import QUIET_S
from tests.bench.keys import KEYS
from tests.process.serving import Running, serving

BLOCK = 20


def save(path: Path, value: int, *, watch: bool) -> None:
    """Rename a new configuration into place."""
    new = path.with_name(".new")
    conf = {"hotreload": {"watch": watch}, **{f"key_{number}": 0 for number in range(KEYS)}, "key_0": value}
    new.write_text(json.dumps(conf, indent=1))
    new.replace(path)


async def posted(service: Running, value: int) -> float:
    """POST → the answer says that the value is in force."""
    save(service.conf, value, watch=False)
    began = time.perf_counter()
    report = (await service.http.post("/admin/config/reload")).json()
    took = time.perf_counter() - began
    assert report["outcome"] == "applied", report
    return took


async def signalled(service: Running, value: int) -> float:
    """SIGHUP → a reader of the event stream is told the new value."""
    save(service.conf, value, watch=False)
    service.reloads.clear()
    began = time.perf_counter()
    service.process.send_signal(signal.SIGHUP)
    await service.until("told", bool)
    return time.perf_counter() - began


async def saved(service: Running, value: int) -> float:
    """File renamed into place → applied, without the time for which a save must rest."""
    service.reloads.clear()
    began = time.perf_counter()
    save(service.conf, value, watch=True)
    await service.until("told", bool)
    return time.perf_counter() - began - QUIET_S


async def bare_watch(folder: Path, rounds: int) -> list[float]:
    """watchfiles with its defaults: file renamed into place → the loop hears of it. Nothing is read or applied."""
    took: list[float] = []
    path = folder / "other.conf"
    events = awatch(folder)
    async with anyio.create_task_group() as tasks:
        heard = anyio.Event()

        async def listen() -> None:
            nonlocal heard
            async for _ in events:
                heard.set()
                heard = anyio.Event()

        tasks.start_soon(listen)
        await anyio.sleep(0.3)
        for value in range(rounds):
            began = time.perf_counter()
            waiting = heard
            save(path, value, watch=False)
            with anyio.fail_after(10):
                await waiting.wait()
            took.append(time.perf_counter() - began)
            await anyio.sleep(0.06)
        tasks.cancel_scope.cancel()
    return took


def show(name: str, took: Sequence[float]) -> float:
    """Print one line; return the median in ms."""
    ms = sorted(each * 1000 for each in took)
    median = statistics.median(ms)
    print(f"{name:42} p50 {median:7.2f} ms   p99 {ms[int(len(ms) * 0.99)]:7.2f} ms   n {len(ms)}")
    return median


async def main(rounds: int) -> None:
    """Run all and print."""
    folder = Path(tempfile.mkdtemp(prefix="hr-bench-"))
    beside = Path(tempfile.mkdtemp(prefix="hr-bench-"))
    conf = folder / "ov.conf"
    save(conf, 0, watch=False)
    taken: dict[str, list[float]] = {}
    value = 0
    async with serving(folder, conf=conf, target="tests.bench.keys:service") as service:
        for _ in range(max(1, rounds)):
            save(conf, value := value + 1, watch=False)
            await service.reload()
            await anyio.sleep(0.1)
            for way in (posted, signalled):
                for _ in range(BLOCK):
                    taken.setdefault(way.__name__, []).append(await way(service, value := value + 1))
            save(conf, value := value + 1, watch=True)
            await service.reload()
            await anyio.sleep(0.1)
            for _ in range(BLOCK):
                taken.setdefault("saved", []).append(await saved(service, value := value + 1))
            taken.setdefault("watchfiles", []).extend(await bare_watch(beside, BLOCK // 2))
    show("POST → applied, answered", taken["posted"])
    show("SIGHUP → applied, told on the event stream", taken["signalled"])
    ours = show(f"file saved → applied, {QUIET_S * 1000:.0f} ms of rest excluded", taken["saved"])
    theirs = show("watchfiles, defaults: file saved → heard", taken["watchfiles"])
    print(f"a bare watch takes {theirs / ours:.1f} times as long as ours with the reload in it")


if __name__ == "__main__":
    try:
        anyio.run(main, int(sys.argv[1]) if sys.argv[1:] else 5)
    except httpx.HTTPError as error:
        sys.exit(f"the service went away: {error}")
