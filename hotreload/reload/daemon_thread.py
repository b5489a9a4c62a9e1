"""Blocking calls of ours, in threads that neither the event loop nor the end of the process ever waits for.

anyio's own worker threads will not do: the user's calls may hold every place of its limiter, and the interpreter
joins them at its end, however long a file system takes to answer.
"""

from __future__ import annotations

import asyncio
import errno
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Final, Generic, TypeVar

import anyio

T = TypeVar("T")


IDLE_S: Final = 10.0
"""How long a thread waits for its next call: on a busy machine, to start one takes longer than most calls do."""

END_S: Final = 0.1
"""How long `close` waits for threads that have nothing to do."""

_LIBRARIES: Final = frozenset(
    {"hotreload", "threading", "pydantic", "pydantic_settings", "json", "functools", "contextlib"}
)


class DaemonThread:
    """Runs calls in daemon threads named `name`, at most `most` at once; further calls wait for their turn.

    A call that does not return keeps its turn: that many threads at most are left behind. One thread waits for the next
    call, further ones end; that one ends where no call comes for `idle_s` seconds, and the next call starts another.
    """

    def __init__(self, name: str, idle_s: float = IDLE_S, most: int = 1) -> None:
        self._name, self._idle_s = name, idle_s
        self._turns = asyncio.Semaphore(most)  # anyio's limiter goes round the loop for a turn that is free
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._lock = threading.Lock()
        self._free = 0
        """How many threads wait for a call that was not handed over yet."""
        self._threads: set[threading.Thread] = set()

    async def run(self, call: Callable[[], T], within_s: float, longer: Callable[[], float] = float) -> T:
        """Return what `call` returns, or raise what it raises; TimeoutError after `within_s`, the turn included.

        `longer` is asked then how many seconds more it may take. Where it times out or is cancelled a call that has
        begun goes on, and its outcome is dropped. OSError (EAGAIN) where the system gives no thread.
        """
        ends = anyio.current_time() + within_s
        if self._turns.locked():
            with anyio.fail_after(within_s):
                await self._turns.acquire()
        else:
            await self._turns.acquire()
        work = _Work(call, self._ended)
        try:
            self._hand_over(partial(copy_context().run, work.run))
        except RuntimeError as error:
            self._turns.release()
            raise OSError(errno.EAGAIN, str(error)) from error
        return await work.result(ends - anyio.current_time(), longer)

    def _hand_over(self, call: Callable[[], object]) -> None:
        with self._lock:
            if self._free > 0:
                self._free -= 1
            else:
                thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                thread.start()
                self._threads.add(thread)
            self._calls.put(call)

    def _ended(self) -> None:
        with self._lock:
            if self._free:
                self._calls.put(_end)
            else:
                self._free = 1
        self._turns.release()

    def close(self) -> None:
        """Let the threads end that have nothing to do; one whose call does not return is not waited for."""
        with self._lock:
            for _ in range(self._free):
                self._calls.put(_end)
            free, self._free = self._free, 0
            threads = [*self._threads] if free else []
        ends = time.monotonic() + END_S
        for thread in threads:
            thread.join(max(0.0, ends - time.monotonic()))

    def _serve(self) -> None:
        while (call := self._next()) is not _end:
            call()
        with self._lock:
            self._threads.discard(threading.current_thread())

    def _next(self) -> Callable[[], object]:
        while True:
            with suppress(Empty):
                return self._calls.get(timeout=self._idle_s)
            with self._lock:  # a call may have come in between
                if self._calls.empty():
                    self._free -= 1
                    return _end


def _end() -> None:
    """Stand for the end of the calls."""


class _Work(Generic[T]):
    """One call and where its outcome goes."""

    def __init__(self, call: Callable[[], T], release: Callable[[], None]) -> None:
        self._call, self._release = call, release
        self._loop = asyncio.get_running_loop()
        self._outcome: asyncio.Future[T] = self._loop.create_future()

    async def result(self, within_s: float, longer: Callable[[], float]) -> T:
        """Wait for the outcome at most `within_s` seconds, then what `longer` says."""
        try:
            await asyncio.wait({self._outcome}, timeout=within_s)
            if not self._outcome.done():
                await asyncio.wait({self._outcome}, timeout=longer())
            if self._outcome.done():
                return self._outcome.result()
            raise TimeoutError
        finally:
            self._outcome.cancel()

    def run(self) -> None:
        try:
            value = self._call()
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the caller
            self._tell(self._outcome.set_exception, error)
        else:
            self._tell(self._outcome.set_result, value)

    def _tell(self, settle: Callable[..., None], *outcome: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: the caller is gone
            self._loop.call_soon_threadsafe(self._end, settle, outcome)

    def _end(self, settle: Callable[..., None], outcome: tuple[object, ...]) -> None:
        self._release()
        if not self._outcome.done():
            settle(*outcome)


def stuck_in(thread: int) -> str:
    """Name the function of the user's that a thread is in, the outermost that is not of a library known here."""
    frame = sys._current_frames().get(thread)  # pyright: ignore[reportPrivateUsage]
    found = "the configuration"
    while frame is not None:
        if str(frame.f_globals.get("__name__")).split(".")[0] not in _LIBRARIES:
            found = f"{frame.f_code.co_qualname} ({Path(frame.f_code.co_filename).name}:{frame.f_lineno})"
        frame = frame.f_back
    return found
