"""Run one step of a part in a task of its own, so that its limit holds whatever the part does with a cancellation."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import anyio

T = TypeVar("T")
LETTING_GO_S: Final = 0.1
"""How long a step that was cancelled at its limit may take to clean up before it is not waited for any more."""

_running: set[asyncio.Task[Any]] = set()
"""The loop keeps weak references only."""


@dataclass(frozen=True, slots=True)
class Ending(Generic[T]):
    """How a step ended: with a value, a failure (a cancellation the part raised by itself included), or not in time."""

    value: T | None = None
    failure: BaseException | None = None
    overran: bool = False


class Step(Generic[T]):
    """A step under way. Its task is of no task group: one that does not end blocks nothing, not even the end."""

    def __init__(self, step: Callable[[], Awaitable[T]]) -> None:
        self._scope = anyio.CancelScope()
        self.task = asyncio.create_task(self._run(step))
        _running.add(self.task)
        self.task.add_done_callback(_running.discard)

    async def _run(self, step: Callable[[], Awaitable[T]]) -> Ending[T]:
        ending: Ending[T] = Ending(overran=True)
        with self._scope:
            try:
                ending = Ending(value=await step())
            except asyncio.CancelledError as failure:
                if self._scope.cancel_called:
                    raise
                ending = Ending(failure=failure)
            except Exception as failure:  # noqa: BLE001 - whatever a part raises is that part's failure
                ending = Ending(failure=failure)
        return ending

    @property
    def over(self) -> bool:
        """True once it has ended."""
        return self.task.done()

    def ending(self) -> Ending[T]:
        """Return how it ended; it must be over."""
        return Ending(overran=True) if self.task.cancelled() else self.task.result()

    async def wait(self, limit_s: float) -> None:
        """Wait until it is over, at most so long; cancelled, it goes on."""
        await asyncio.wait({self.task}, timeout=limit_s)

    async def stop(self, late: Callable[[T], Awaitable[None]] | None = None) -> None:
        """Cancel it and give it a moment to clean up; what it shields goes on, and is not waited for.

        What it returns even so is given to `late`.
        """
        self._scope.cancel()
        if late is not None:
            self.afterwards(lambda ending: _hand_over(ending, late))
        with anyio.CancelScope(shield=True):
            await self.wait(LETTING_GO_S)

    def afterwards(self, call: Callable[[Ending[T]], object]) -> None:
        """Call `call` once it is over, however long that takes."""
        self.task.add_done_callback(lambda _task: call(self.ending()))


async def bounded(
    step: Callable[[], Awaitable[T]], limit_s: float, late: Callable[[T], Awaitable[None]] | None = None
) -> Ending[T]:
    """Run `step` and wait for it at most `limit_s` seconds; it never raises what the step raises.

    A step that overran is cancelled: what it returns after all is given to `late`. The same where the caller is
    cancelled meanwhile, which then goes on being cancelled.
    """
    run = Step(step)
    try:
        await run.wait(limit_s)
    except asyncio.CancelledError:
        await run.stop(late)
        raise
    if run.over:
        return run.ending()
    await run.stop(late)
    return Ending(overran=True)


def _hand_over(ending: Ending[T], late: Callable[[T], Awaitable[None]]) -> None:
    value = ending.value
    if value is not None:
        Step(lambda: late(value))
