"""The active jobs of a pool: claimed, at work, or ended and not yet settled."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from types import FrameType
from typing import Any, Final

import anyio

from hotreload.queue.job import JobRow, Verdict
from hotreload.workers.job import Job

DEEPEST: Final = 4
"""How many frames are told of code that does not stop."""
MOST_FRAMES: Final = 10_000


@dataclass(slots=True)  # not frozen, as `JobRow`: one is made for every job
class JobEnd:
    """One end of a job's run: its outcome and, where they are known, how long it ran and had waited since it was due.

    `attempt` counts from 1.
    """

    queue: str
    outcome: str
    ran_s: float | None = None
    waited_s: float | None = None
    attempt: int | None = None


@dataclass(slots=True, eq=False)
class ActiveJob:
    """One job that began at `began` (monotonic), `waited_s` after it was due.

    `job` is None until its payload was read, `verdict` until its code ended.

    `timed_out_s` is the limit that passed, `cancelled` means that a caller cancelled it: its row is settled already.
    A `fenced` one has a verdict although its code still runs: whatever that does comes too late.
    """

    row: JobRow
    waited_s: float = 0.0
    began: float = field(default_factory=time.monotonic)
    job: Job[Any, Any] | None = None
    verdict: Verdict | None = None
    scope: anyio.CancelScope | None = None
    task: asyncio.Task[Any] | None = None
    stopping: bool = False
    timed_out_s: float | None = None
    cancelled: bool = False
    fenced: bool = False

    def ended(self, outcome: str) -> JobEnd:
        """Return what is told of its end now."""
        row, ran_s = self.row, time.monotonic() - self.began
        return JobEnd(row.queue, outcome, ran_s, self.waited_s, row.attempts + 1)

    @property
    def needed_until(self) -> float | None:
        """Until when its code said to need (monotonic), None where it said nothing."""
        return self.job.needed_until if self.job else None

    def stop_soon(self) -> None:
        """Let its code stop at the next point where it can be told."""
        self.stopping = True
        if self.job is not None:
            self.job.stopping = True

    def interrupt(self) -> None:
        """Cancel its code."""
        self.stop_soon()
        if self.scope is not None:
            self.scope.cancel()

    def fence(self) -> None:
        """Refuse what its code asks for from now on."""
        self.fenced = True
        if self.job is not None:
            self.job.over = True

    def why(self) -> str:
        """Tell people what it is left for."""
        if self.verdict is not None:
            return "its verdict is being written"
        if self.stopping:
            in_thread = self.job is not None and self.job.thread is not None
            return "told to stop and still running" + (", in a thread" if in_thread else "")
        left_s = (self.needed_until or 0.0) - time.monotonic()
        return f"needs {left_s:.1f} s more" if left_s > 0 else ""

    def stuck(self) -> str:
        """Return which job this is and where its code stands; from any thread. Raises nothing."""
        try:
            stack = self._stack()
        except BaseException:  # noqa: BLE001 - what a job awaits may be any object
            stack = "not found"
        return f"job {self.row.id} ({self.row.queue}): {stack}"

    def _stack(self) -> str:
        if self.job is not None and self.job.thread is not None:
            return _line(_frames_of_thread(self.job.thread))
        if self.task is None:
            return "not begun"
        frames = islice(_frames_of_awaited(self.task.get_coro()), MOST_FRAMES)
        return _line([frame for frame in frames if "/hotreload/workers/" not in frame.f_code.co_filename])


class ActiveJobs:
    """Changed on the loop's thread only; `all` and what it returns may be read from any."""

    def __init__(self) -> None:
        self._active: dict[str, ActiveJob] = {}
        self._ended: list[ActiveJob] = []
        self._changed = anyio.Event()

    def __len__(self) -> int:
        return len(self._active)

    @property
    def working(self) -> int:
        """How many have code that runs."""
        return len(self._active) - len(self._ended)

    def all(self) -> list[ActiveJob]:
        """Return every active job."""
        return list(self._active.values())

    def get(self, job_id: str) -> ActiveJob | None:
        """Return the active job of an id."""
        return self._active.get(job_id)

    def at_work(self) -> list[ActiveJob]:
        """Return those whose code runs."""
        return [entry for entry in self.all() if entry.verdict is None]

    def ended(self) -> list[ActiveJob]:
        """Return those that wait to be settled, in the order they ended."""
        return list(self._ended)

    def add(self, row: JobRow, now_ms: int) -> ActiveJob:
        """Add a claimed job that begins now."""
        waited_s = max(0.0, (now_ms - row.run_at_ms) / 1000)
        entry = self._active[row.id] = ActiveJob(row, waited_s)
        return entry

    def end(self, entry: ActiveJob, verdict: Verdict) -> None:
        """Note how a job's code ended; it stays active until that is durable."""
        entry.verdict = verdict
        self._ended.append(entry)
        self._changed.set()

    def settled(self, count: int) -> None:
        """Drop the first `count` of those that ended."""
        for entry in self._ended[:count]:
            del self._active[entry.row.id]
        del self._ended[:count]
        self._changed.set()

    def drop(self, entry: ActiveJob) -> None:
        """Drop a job whose code stopped without a verdict."""
        del self._active[entry.row.id]
        self._changed.set()

    async def until(self, reached: Callable[[], bool]) -> None:
        """Return once `reached`; asked again at each change."""
        while not reached():
            if self._changed.is_set():  # else another waiter has made one already
                self._changed = anyio.Event()
            await self._changed.wait()


def _frames_of_thread(ident: int) -> list[FrameType]:
    frames: list[FrameType] = []
    frame = sys._current_frames().get(ident)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        frames.insert(0, frame)
        frame = frame.f_back
    return frames


def _frames_of_awaited(waits: Any) -> Iterator[FrameType]:
    """Yield the frames of a coroutine and of what it awaits, outermost first."""
    while waits is not None:
        frame = getattr(waits, "cr_frame", None) or getattr(waits, "gi_frame", None)
        if frame is None:
            return
        yield frame
        waits = getattr(waits, "cr_await", None) or getattr(waits, "gi_yieldfrom", None)


def _line(frames: list[FrameType]) -> str:
    places = [f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}" for frame in frames[-DEEPEST:]]
    return " → ".join(places) or "not found"
