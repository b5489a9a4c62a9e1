"""End the waits of requests when a drain begins: what they wait for goes on after the restart.

A request with `wait=true` waits for the end of its task, for hours if need be. A drain cannot; it answers with 503 and
the task's id, instead of cutting the connection when its time is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class _Request:
    """The request a task belongs to; what it leaves behind is not answered any more."""

    answered: bool = False


_request: ContextVar[_Request | None] = ContextVar("openviking_request", default=None)


class RequestWaits:
    """Waits for the end of a task inside requests; for one event loop, the server's."""

    def __init__(self) -> None:
        self._over = asyncio.Event()

    def attach(self) -> None:
        """Put this around OpenViking's wait for a task, where this release has one."""
        with suppress(ImportError, AttributeError):
            from openviking.service.task_tracker import TaskTracker

            tracker: Any = TaskTracker
            tracker.wait = self._around(tracker.wait)

    @contextmanager
    def request(self) -> Generator[None]:
        """Mark what runs inside the block as part of a request."""
        request = _Request()
        token = _request.set(request)
        try:
            yield
        finally:
            request.answered = True
            _request.reset(token)

    def end(self) -> None:
        """End those there are and those to come; on the loop's thread."""
        self._over.set()

    def _around(self, stock: Any) -> Any:
        async def wait(tracker: Any, task_id: str, *args: Any, **options: Any) -> Any:
            request = _request.get()
            if request is None:
                return await stock(tracker, task_id, *args, **options)
            task = asyncio.ensure_future(stock(tracker, task_id, *args, **options))
            over = asyncio.ensure_future(self._over.wait())
            try:
                await asyncio.wait((task, over), return_when=asyncio.FIRST_COMPLETED)
                if not task.done() and not request.answered:
                    raise _unavailable(task_id)
                return await task
            finally:
                task.cancel()
                over.cancel()

        return wait


def _unavailable(task_id: str) -> Exception:
    """Return OpenViking's own error for it, which it answers with 503."""
    from openviking_cli.exceptions import UnavailableError

    error: Any = UnavailableError("openviking", f"the server stops; task {task_id} goes on after its restart")
    error.details = {**(error.details or {}), "task_id": task_id}
    return error
