"""Blocking calls of ours, in threads that neither the event loop nor the end of the process ever waits for.

anyio's own worker threads will not do: the user's calls may hold every place of its limiter, and the interpreter
joins them at its end, however long a file system takes to answer.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from queue import Empty, SimpleQueue
from typing import Final, Generic, TypeVar

import anyio

T = TypeVar("T")


IDLE_S: Final = 10.0
"""How long a thread waits for its next call: on a busy machine, to start one takes longer than most calls do."""

END_S: Final = 0.1
"""How long `close` waits for a thread that has nothing to do."""


class DaemonThread:
    """Runs one call at a time in a daemon thread named `name`; calls wait for their turn.

    A call that does not return keeps the turn: one thread at most is left behind, and the next call waits for it. The
    thread ends where no call comes for `idle_s` seconds, and the next one starts another.
    """

    def __init__(self, name: str, idle_s: float = IDLE_S) -> None:
        self._name, self._idle_s = name, idle_s
        self._turn = anyio.CapacityLimiter(1)
        self._calls: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._lock = threading.Lock()
        self._serving = False
        self._thread: threading.Thread | None = None

    async def run(self, call: Callable[[], T], within_s: float) -> T:
        """Return what `call` returns, or raise what it raises; TimeoutError after `within_s`, the turn included.

        Where it times out or is cancelled a call that has begun goes on, and its outcome is dropped. OSError (EAGAIN)
        where the system gives no thread.
        """
        with anyio.fail_after(within_s):
            token = object()
            await self._turn.acquire_on_behalf_of(token)
            work = _Work(call, lambda: self._turn.release_on_behalf_of(token))
            try:
                self._hand_over(partial(copy_context().run, work.run))
            except RuntimeError as error:
                self._turn.release_on_behalf_of(token)
                raise OSError(errno.EAGAIN, str(error)) from error
            return await work.outcome

    def _hand_over(self, call: Callable[[], object]) -> None:
        with self._lock:
            if not self._serving:
                self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                self._thread.start()
                self._serving = True
            self._calls.put(call)

    def close(self) -> None:
        """Let the thread end after the calls it was given; one that does not return is not waited for."""
        with self._lock:
            thread = self._thread if self._serving else None
            if thread is not None:
                self._calls.put(_end)
        if thread is not None:
            thread.join(END_S)

    def _serve(self) -> None:
        while True:
            with suppress(Empty):
                call = self._calls.get(timeout=self._idle_s)
                if call is not _end:
                    call()
                    continue
            with self._lock:  # a call may have come in between
                if self._calls.empty():
                    self._serving = False
                    return


def _end() -> None:
    """Stand for the end of the calls."""


class _Work(Generic[T]):
    """One call and where its outcome goes."""

    def __init__(self, call: Callable[[], T], release: Callable[[], None]) -> None:
        self._call, self._release = call, release
        self._loop = asyncio.get_running_loop()
        self.outcome: asyncio.Future[T] = self._loop.create_future()

    def run(self) -> None:
        try:
            value = self._call()
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the caller
            self._tell(self.outcome.set_exception, error)
        else:
            self._tell(self.outcome.set_result, value)

    def _tell(self, settle: Callable[..., None], *outcome: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: the caller is gone
            self._loop.call_soon_threadsafe(self._end, settle, outcome)

    def _end(self, settle: Callable[..., None], outcome: tuple[object, ...]) -> None:
        self._release()
        if not self.outcome.done():
            settle(*outcome)
