"""One service begun and ended again and again in one event loop: `python -m tests.process.lifetimes FOLDER`.

Prints a JSON object for each way: what was raised, and what was left behind.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import anyio
import httpx

from hotreload import Job, Live, LiveSettings, Service
from hotreload.queue.sqlite import SqliteQueue

JOBS: Final = 4


class Settings(LiveSettings):
    """What goes wrong."""

    fails: Annotated[str, Live] = ""


service = Service("lives", settings=Settings)
closed: list[str] = []
"""Resources whose cleanup ran to its end."""


@service.resource(rebuilt_by=("fails",))
async def client(conf: Settings) -> AsyncIterator[str]:
    """Take a while to be closed."""
    if conf.fails == "resource":
        raise ConnectionError("refused")
    yield "connected"
    await asyncio.sleep(0.1)
    closed.append("client")


@service.resource(rebuilt_by=("fails",))
async def slow(conf: Settings) -> AsyncIterator[str]:
    """Take for ever to be built, if told to."""
    if conf.fails == "hangs":
        print(json.dumps({"way": "building"}), flush=True)
        await asyncio.sleep(600)
    yield "connected"
    closed.append("slow")


@service.worker("work", limit=JOBS)
async def work(job: Job[int], conf: Settings, client: str, slow: str) -> None:
    """Run until it is stopped."""
    del conf, client, slow
    begun.append(job.payload)
    await asyncio.sleep(600)


begun: list[int] = []


async def until(reached: Callable[[], bool]) -> None:
    """Return once `reached`."""
    while not reached():  # noqa: ASYNC110 - whatever it is
        await asyncio.sleep(0.01)


def is_ready() -> bool:
    """Tell whether the service is ready."""
    try:
        return service.status()["phase"] == "running"
    except RuntimeError:
        return False


async def leave(folder: Path) -> None:
    """End the block in order."""
    async with running(folder):
        pass


async def cancel_the_task(folder: Path) -> None:
    """Be cancelled as asyncio cancels, twice."""

    async def run() -> None:
        async with running(folder):
            await asyncio.sleep(600)

    task = asyncio.create_task(run())
    await until(lambda: len(begun) == JOBS)
    task.cancel()
    await asyncio.sleep(0.05)
    task.cancel()
    await task


async def cancel_the_scope(folder: Path) -> None:
    """Be cancelled as anyio cancels."""
    with anyio.CancelScope() as scope:
        async with running(folder):
            scope.cancel()
            await anyio.sleep(600)


async def fail_beside(folder: Path) -> None:
    """Be cancelled as a sibling fails."""

    async def run() -> None:
        async with running(folder):
            ready.set()
            await anyio.sleep(600)

    ready = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run)
        await ready.wait()
        raise LookupError("a sibling")


async def fail_inside(folder: Path) -> None:
    """Fail in the block."""
    async with running(folder):
        raise LookupError("in the block")


async def cancel_the_start(folder: Path) -> None:
    """Be cancelled while a resource is built."""
    conf(folder, fails="hangs")
    with anyio.move_on_after(0.7):
        async with running(folder):
            raise AssertionError("it started")


async def cancel_serve(folder: Path) -> None:
    """Cancel what waits for the drain."""
    task = asyncio.create_task(service.serve(folder / "ov.conf", socket=folder / "run" / "s"))
    await until(is_ready)
    task.cancel()
    await task


async def resource_fails(folder: Path) -> None:
    """Have a resource that cannot be built."""
    conf(folder, fails="resource")
    await leave(folder)


async def part_fails(folder: Path) -> None:
    """Have a scan of a queue that no worker serves: it is found when the host is made, with the store open."""
    service.declared.scans.append(("nowhere", lambda _conf: client))
    try:
        await leave(folder)
    finally:
        service.declared.scans.clear()


async def with_many_descriptors(folder: Path) -> None:
    """Live with more descriptors than select(2) can wait for."""
    many = [os.open(os.devnull, os.O_RDONLY) for _ in range(1_100)]
    try:
        await leave(folder)
    finally:
        for descriptor in many:
            os.close(descriptor)


async def serve_to_the_end(folder: Path) -> None:
    """Drain as `serve` does."""

    async def stop() -> None:
        await until(is_ready)
        transport = httpx.AsyncHTTPTransport(uds=str(folder / "run" / "s"))
        async with httpx.AsyncClient(transport=transport, base_url="http://hotreload") as client:
            (await client.post("/admin/drain", json={})).raise_for_status()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop)
        assert await service.serve(folder / "ov.conf", socket=folder / "run" / "s") == 0


WAYS: Final[tuple[Callable[[Path], Awaitable[None]], ...]] = (
    leave,
    cancel_the_task,
    cancel_the_scope,
    fail_beside,
    fail_inside,
    cancel_the_start,
    cancel_serve,
    resource_fails,
    part_fails,
    with_many_descriptors,
    serve_to_the_end,
)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[None]:
    """Run the service with every place of its pool taken."""
    async with service.running(folder / "ov.conf", socket=folder / "run" / "s"):
        for number in range(JOBS):
            await service.enqueue("work", number, key=str(number))
        await until(lambda: len(begun) == JOBS)
        yield


def conf(folder: Path, **settings: Any) -> None:
    """Write the configuration."""
    own = {"drain_deadline_s": 2.0, "drain_grace_s": 0.0}
    (folder / "ov.conf").write_text(json.dumps({"hotreload": own, **settings}))


def held(folder: Path) -> dict[str, Any]:
    """Return what this process holds."""
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    return {
        "threads": sorted(one.name for one in threading.enumerate() if not one.name.startswith("AnyIO worker")),
        "descriptors": sorted(os.listdir("/proc/self/fd")),
        "handlers": [repr(one)[:40] for one in handlers],
        "tasks": len(asyncio.all_tasks()),
        "factory": repr(asyncio.get_running_loop().get_task_factory()),
        "wakeup": signal.set_wakeup_fd(signal.set_wakeup_fd(-1)),
        "socket": sorted(path.name for path in (folder / "run").glob("*.sock")),
        "switch": sys.getswitchinterval(),
    }


async def main(folder: Path) -> None:
    """Live once in each way."""
    conf(folder)
    await leave(folder)  # what a process holds for good from the first life on is not counted
    before = held(folder)
    for way in WAYS:
        conf(folder)
        closed.clear()
        begun.clear()
        raised = ""
        try:
            await way(folder)
        except BaseException as error:  # noqa: BLE001 - told
            raised = repr(error)
        now = held(folder)
        left = {key: [before[key], now[key]] for key in now if now[key] != before[key]}
        SqliteQueue.open(folder / ".hotreload" / "hotreload.db").close()
        told = {"way": way.__name__, "raised": raised, "left": left, "closed": sorted(closed)}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
