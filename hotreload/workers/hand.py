"""The jobs a pool has in hand: at work, or ended and not yet settled."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import anyio

from hotreload.queue.job import JobRow, Verdict
from hotreload.workers import stacks
from hotreload.workers.job import Job


@dataclass(slots=True, eq=False)
class Running:
    """One claimed job; `job` is None until its payload was read, `verdict` until its code ended."""

    row: JobRow
    job: Job[Any] | None = None
    verdict: Verdict | None = None
    scope: anyio.CancelScope | None = None
    task: asyncio.Task[Any] | None = None

    @property
    def needed_until(self) -> float | None:
        """Until when its code said to need (monotonic), None where it said nothing."""
        return self.job.needed_until if self.job else None

    @property
    def stopping(self) -> bool:
        """True once its code was told to stop."""
        return self.job is not None and self.job.stopping

    def stop_soon(self) -> None:
        """Let its code stop at the next point where it can be told."""
        if self.job is not None:
            self.job.stopping = True

    def interrupt(self) -> None:
        """Cancel its code."""
        self.stop_soon()
        if self.scope is not None:
            self.scope.cancel()

    def why(self) -> str:
        """Tell people what it is left for."""
        if self.verdict is not None:
            return "its verdict is being written"
        if self.job is not None and self.job.stopping:
            return "told to stop and still running" + (", in a thread" if self.job.thread else "")
        left_s = (self.needed_until or 0.0) - time.monotonic()
        return f"needs {left_s:.1f} s more" if left_s > 0 else ""

    def stuck(self) -> str:
        """Return which job this is and where its code stands; from any thread."""
        stack = "not begun"
        if self.job is not None and self.job.thread is not None:
            stack = stacks.of_thread(self.job.thread)
        elif self.task is not None:
            stack = stacks.of_task(self.task)
        return f"job {self.row.id} ({self.row.queue}): {stack}"


class Hand:
    """Changed on the loop's thread only; `all` and what it returns may be read from any."""

    def __init__(self) -> None:
        self._running: dict[str, Running] = {}
        self._ended: list[Running] = []
        self._changed = anyio.Event()

    def __len__(self) -> int:
        return len(self._running)

    @property
    def working(self) -> int:
        """How many have code that runs."""
        return len(self._running) - len(self._ended)

    def all(self) -> list[Running]:
        """Return every job in hand."""
        return list(self._running.values())

    def at_work(self) -> list[Running]:
        """Return those whose code runs."""
        return [entry for entry in self.all() if entry.verdict is None]

    def ended(self) -> list[Running]:
        """Return those that wait to be settled, in the order they ended."""
        return list(self._ended)

    def take(self, row: JobRow) -> Running:
        """Add a claimed job."""
        entry = self._running[row.id] = Running(row)
        return entry

    def end(self, entry: Running, verdict: Verdict) -> None:
        """Note how a job's code ended; it stays in hand until that is durable."""
        entry.verdict = verdict
        self._ended.append(entry)
        self._changed.set()

    def settled(self, count: int) -> None:
        """Drop the first `count` of those that ended."""
        for entry in self._ended[:count]:
            del self._running[entry.row.id]
        del self._ended[:count]
        self._changed.set()

    def drop(self, entry: Running) -> None:
        """Drop a job whose code stopped without a verdict."""
        del self._running[entry.row.id]
        self._changed.set()

    async def until(self, reached: Callable[[], bool]) -> None:
        """Return once `reached`; asked anew at each change."""
        while not reached():
            if self._changed.is_set():  # else somebody waits on it already
                self._changed = anyio.Event()
            await self._changed.wait()
