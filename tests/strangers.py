"""Jobs that do to their service whatever a job can do: errors that bite when touched, exits, results, leftovers.

A way is named `KIND what`; `kinds()` lists all of them. One function runs a way in a coroutine, one in a thread or
child process; a good job beside it only counts.
"""

from __future__ import annotations

import asyncio
import math
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, Final

import anyio
import anyio.lowlevel

from hotreload import Job, SyncJob

DUNDERS: Final = (
    *("__str__", "__repr__", "__eq__", "__hash__", "__bool__", "__len__", "__reduce__", "__reduce_ex__", "__format__"),
    *("__class__", "__cause__", "__context__", "__traceback__", "__notes__", "__suppress_context__", "__dict__"),
    *("args", "with_traceback", "__getattribute__"),
)
BITES: Final = (ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError)
BASES: Final = (
    *(SystemExit, KeyboardInterrupt, GeneratorExit, BaseException, asyncio.CancelledError, StopIteration),
    *(StopAsyncIteration, MemoryError, RecursionError, OSError, TimeoutError, UnicodeDecodeError, ImportError),
)
RESULTS: Final = ("object", "nan", "recursive", "deep", "generator", "endless", "lambda", "bytes", "huge", "bad model")
CURSORS: Final = ("object", "nan", "recursive", "deep", "lambda")
LEFT_IN_LOOP: Final = (
    *("cancels itself later", "cancels itself last", "exits in a child", "exits in a group", "interrupts in a child"),
    *("exits in a stray", "exits in a callback", "exits in a timer", "stops the loop", "context bites"),
    *("stray that swallows", "closes a generator", "child that bites", "thread that exits", "future that bites"),
)
LEFT_IN_THREAD: Final = ("thread that exits", "context bites", "exits", "recursion limit", "prints")


def kinds(*, in_loop: bool) -> list[str]:
    """Return every way there is, for a coroutine or for a plain function."""
    return [
        *(f"bites {dunder} {bite.__name__}" for dunder in DUNDERS for bite in BITES),
        *(f"raises {base.__name__}" for base in BASES),
        *(f"groups {base.__name__}" for base in BASES),
        *(f"returns {what}" for what in RESULTS),
        *(f"keeps {what}" for what in CURSORS),
        *(f"leaves {what}" for what in (LEFT_IN_LOOP if in_loop else LEFT_IN_THREAD)),
    ]


def biting(dunder: str, bite: type[BaseException]) -> BaseException:
    """Return an error that raises `bite` when `dunder` of it is used."""

    def bites(*_args: Any, **_options: Any) -> Any:
        raise bite("bitten")

    method = dunder.startswith("__") and dunder not in (
        *("__class__", "__cause__", "__context__", "__traceback__", "__notes__", "__suppress_context__", "__dict__"),
    )
    return type("Biting", (Exception,), {dunder: bites if method else property(bites)})("never seen")


def error_of(words: list[str]) -> BaseException:
    """Return the error a way raises."""
    named = {base.__name__: base for base in (*BASES, *BITES)}
    if words[0] == "bites":
        return biting(words[1], named[words[2]])
    made = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad") if words[1] == "UnicodeDecodeError" else named[words[1]]()
    return made if words[0] == "raises" else BaseExceptionGroup("several", [ValueError("one"), made])


def value_of(what: str) -> Any:
    """Return what no store can keep."""
    return VALUES[what]()


class BadModel:
    """Cannot be looked at."""

    def __getattr__(self, name: str) -> Any:
        raise SystemExit(name)

    def __reduce_ex__(self, _protocol: Any) -> Any:
        raise KeyboardInterrupt


class Biting:
    """Cannot be compared."""

    def __eq__(self, _other: object) -> bool:
        raise ValueError("not to be compared")

    __hash__ = None  # type: ignore[assignment]


def _deep() -> Any:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    return value


def _endless() -> Iterator[int]:
    while True:
        yield 1


def _recursive() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


VALUES: Final[dict[str, Callable[[], Any]]] = {
    "object": object,
    "nan": lambda: {"value": math.nan},
    "recursive": _recursive,
    "deep": _deep,
    "generator": lambda: (number for number in range(3)),
    "endless": _endless,
    "lambda": lambda: {"do": lambda: None},
    "bytes": lambda: b"\xff\xfe",
    "huge": lambda: "x" * (17 * 1024 * 1024),
    "bad model": BadModel,
}
CONTEXT: ContextVar[Any] = ContextVar("stranger")
LEFT: Final[list[Any]] = []


async def do(job: Job[str]) -> Any:
    """Do a way in a coroutine; "good" is a good job."""
    if job.payload == "good":
        await job.checkpoint("half")
        return "good"
    first, *words = job.payload.split()
    if first in ("bites", "raises", "groups"):
        await anyio.lowlevel.checkpoint()
        raise error_of([first, *words])
    what = " ".join(words)
    if first == "returns":
        return value_of(what)
    if first == "keeps":
        await job.checkpoint(value_of(what))
        return None
    await LEAVES[what]()
    raise ValueError("it left something behind")


def do_in_thread(job: SyncJob[str]) -> Any:
    """Do a way in a thread or child process."""
    if job.payload == "good":
        job.checkpoint("half")
        return "good"
    first, *words = job.payload.split()
    if first in ("bites", "raises", "groups"):
        raise error_of([first, *words])
    what = " ".join(words)
    if first == "returns":
        return value_of(what)
    if first == "keeps":
        job.checkpoint(value_of(what))
        return None
    LEAVES_IN_THREAD[what]()
    raise ValueError("it left something behind")


def _thread_exits() -> None:
    threading.Thread(target=sys.exit, args=(3,)).start()


def _recurses() -> None:
    _recurses()


LEAVES_IN_THREAD: Final[dict[str, Callable[[], Any]]] = {
    "thread that exits": _thread_exits,
    "context bites": lambda: CONTEXT.set(Biting()),
    "exits": lambda: sys.exit(3),
    "recursion limit": _recurses,
    "prints": lambda: print("between the frames", flush=True),
}


async def exits(code: int = 3) -> None:
    """End the process, as a command-line tool does."""
    await asyncio.sleep(0)
    sys.exit(code)


async def _in_a_child() -> None:
    await asyncio.gather(exits(), asyncio.sleep(1))


async def _in_a_group() -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(exits)


async def _interrupts() -> None:
    async def interrupt() -> None:
        raise KeyboardInterrupt

    await asyncio.create_task(interrupt())


async def _stray() -> None:
    LEFT.append(asyncio.create_task(exits()))


async def _swallows() -> None:
    async def swallow() -> None:
        while True:
            with suppress(BaseException):
                await asyncio.sleep(3600)

    LEFT.append(asyncio.create_task(swallow()))


async def _callback() -> None:
    asyncio.get_running_loop().call_soon(sys.exit, 3)


async def _timer() -> None:
    asyncio.get_running_loop().call_later(0.001, sys.exit, 3)


async def _stops_the_loop() -> None:
    asyncio.get_running_loop().stop()


async def _context() -> None:
    CONTEXT.set(Biting())


async def _cancels_later() -> None:
    task = asyncio.current_task()
    assert task is not None
    for wait_s in (0, 0.001, 0.01, 0.1):
        asyncio.get_running_loop().call_later(wait_s, task.cancel)


async def _cancels_last() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


async def _generator() -> None:
    async def numbers() -> Any:
        try:
            yield 1
        finally:
            raise ValueError("in its end")

    LEFT.append(await anext(numbers()))


async def _child_bites() -> None:
    async def bites() -> None:
        raise biting("__str__", SystemExit)

    await asyncio.gather(bites(), asyncio.sleep(0.01))


async def _thread() -> None:
    _thread_exits()


async def _future() -> None:
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.set_exception(biting("__repr__", KeyboardInterrupt))
    del future


LEAVES: Final[dict[str, Callable[[], Any]]] = {
    "cancels itself later": _cancels_later,
    "cancels itself last": _cancels_last,
    "exits in a child": _in_a_child,
    "exits in a group": _in_a_group,
    "interrupts in a child": _interrupts,
    "exits in a stray": _stray,
    "exits in a callback": _callback,
    "exits in a timer": _timer,
    "stops the loop": _stops_the_loop,
    "context bites": _context,
    "stray that swallows": _swallows,
    "closes a generator": _generator,
    "child that bites": _child_bites,
    "thread that exits": _thread,
    "future that bites": _future,
}
