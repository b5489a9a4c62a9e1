"""Where code that does not stop stands: of a coroutine what it waits for, of a thread what it does."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

DEEPEST: Final = 4


def of_task(task: asyncio.Task[Any]) -> str:
    """Return the innermost places of a task; from any thread."""
    return _line(
        [frame for frame in _awaited(task.get_coro()) if "/hotreload/workers/" not in frame.f_code.co_filename]
    )


def of_thread(ident: int) -> str:
    """Return the innermost places of a thread."""
    frames: list[FrameType] = []
    frame = sys._current_frames().get(ident)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        frames.insert(0, frame)
        frame = frame.f_back
    return _line(frames)


def _awaited(waits: Any) -> Iterator[FrameType]:
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
