"""What a caller asks of an engine's writer thread, and how the outcome comes back: to an event loop or to a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar, cast

A = TypeVar("A")
R = TypeVar("R")

Verb = Callable[[Any, Sequence[A]], Sequence[R | BaseException]]
"""Does many calls at once over the writer's connection and returns their results in order; all or none."""


class Call(Generic[A, R]):
    """One caller's request and, once done, its outcome."""

    __slots__ = ("abandoned", "arg", "error", "future", "loop", "posted", "result", "verb")

    def __init__(self, verb: Verb[A, R], arg: A) -> None:
        self.verb = verb
        self.arg = arg
        self.result: R | None = None
        self.error: BaseException | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.future: asyncio.Future[R] | None = None
        self.abandoned: Callable[[R], None] | None = None
        self.posted = False
        """True where it is to be done again until the store took it."""

    def give_back(self) -> None:
        """Have undone what was done for the caller, who is told that it failed."""
        if self.abandoned is not None:
            self.abandoned(cast("R", self.result))

    def unwanted(self) -> bool:
        """True where the caller was cancelled before its turn."""
        return self.future is not None and self.future.cancelled()

    def resolve(self) -> None:
        """Hand the outcome to the caller; in its loop's thread."""
        future = self.future
        assert future is not None
        if not future.done():
            if self.error is None:
                future.set_result(cast("R", self.result))
            else:
                future.set_exception(self.error)
        elif self.error is None:
            self.give_back()


class SyncCall(Call[A, R]):
    """A request of a thread that waits without an event loop."""

    __slots__ = ("settled",)

    def __init__(self, verb: Verb[A, R], arg: A) -> None:
        super().__init__(verb, arg)
        self.settled = threading.Event()

    def resolve(self) -> None:
        """Wake the waiting thread."""
        self.settled.set()


AnyCall = Call[Any, Any]
Put = Callable[[AnyCall], None]
"""Puts a call before a writer."""


def deliver(calls: Iterable[AnyCall]) -> None:
    """Wake the callers: threads one by one, each event loop once."""
    by_loop: dict[asyncio.AbstractEventLoop, list[AnyCall]] = {}
    for call in calls:
        if call.loop is None:
            call.resolve()
        else:
            by_loop.setdefault(call.loop, []).append(call)
    for loop, waiting in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, waiting)
        except RuntimeError:  # the loop is closed: its callers are gone
            continue


def _resolve(calls: Sequence[AnyCall]) -> None:
    for call in calls:
        call.resolve()


def ask(put: Put, verb: Verb[A, R], arg: A, abandoned: Callable[[R], None] | None) -> asyncio.Future[R]:
    """Hand a request to a writer by `put` and return where its result will be; see `Writer.run` of each engine."""
    call = Call(verb, arg)
    call.loop = loop = asyncio.get_running_loop()
    call.future = future = loop.create_future()
    call.abandoned = abandoned
    put(call)
    return future


def ask_sync(put: Put, verb: Verb[A, R], arg: A, timeout_s: float, who: str) -> R:
    """As `ask`, without an event loop; TimeoutError where `who` did not answer in time: it may happen yet."""
    call = SyncCall(verb, arg)
    put(call)
    if not call.settled.wait(timeout_s):
        raise TimeoutError(f"{who} did not answer within {timeout_s:g} s")
    if call.error is not None:
        raise call.error
    return cast("R", call.result)
