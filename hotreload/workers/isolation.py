"""Keep what ends an event loop inside the job that did it: `sys.exit()` in a task or callback, `loop.stop()`.

asyncio lets SystemExit and KeyboardInterrupt of any task out of `run_forever`, so a command-line tool that a job calls
would end the service. Tasks that a job starts get the error as a `JobExit` instead (in any event loop); `ServiceLoop`
also survives what a callback raises, which a task factory does not see.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar
from typing import Any, cast

from hotreload.errors import describe
from hotreload.workers.failures import JobExit

log = logging.getLogger(__name__)
_job: ContextVar[str | None] = ContextVar("hotreload_job", default=None)
Factory = Callable[..., "asyncio.Future[Any]"]


def enter(job_id: str) -> None:
    """Mark the current context, and what is started from it, as that of a job."""
    _job.set(job_id)


def end_forked(owner: int) -> None:
    """End this process where it is not `owner`: a child that a job's code forked and let return to its caller.

    It shares the parent's event loop, sockets and store, and would live on as a second service that nothing stops.
    """
    if os.getpid() != owner:
        os.write(2, b"hotreload: a process that a job forked returned from the job's code: it is ended\n")
        os._exit(1)


def contain_exits(loop: asyncio.AbstractEventLoop) -> None:
    """Contain the exits of tasks that jobs start in `loop`; a task factory set before is kept. Idempotent."""
    before = loop.get_task_factory()
    if not isinstance(before, ContainedTasks):
        loop.set_task_factory(cast("Any", ContainedTasks(cast("Factory | None", before))))


class ContainedTasks:
    """A task factory that wraps the coroutines of tasks which jobs start."""

    def __init__(self, before: Factory | None) -> None:
        self._before = before

    def __call__(self, loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Future[Any]:
        """Make a task as the factory before did, or as the loop does without one."""
        job_id = _job.get()
        if job_id is not None and asyncio.iscoroutine(coro):
            coro = Contained(coro, job_id)
        return self._before(loop, coro, **options) if self._before else asyncio.Task(coro, loop=loop, **options)


class Contained(Coroutine[Any, Any, Any]):
    """A coroutine whose SystemExit and KeyboardInterrupt are a `JobExit`; for the rest it is the one it wraps."""

    def __init__(self, coro: Coroutine[Any, Any, Any], job_id: str) -> None:
        self._coro = coro
        self._job_id = job_id

    def send(self, value: Any, /) -> Any:
        """Run to the next await."""
        try:
            return self._coro.send(value)
        except (SystemExit, KeyboardInterrupt) as error:
            raise self._contained(error) from error

    def throw(self, *error: Any) -> Any:
        """Raise an error at the current await."""
        try:
            return self._coro.throw(*error)
        except (SystemExit, KeyboardInterrupt) as raised:
            raise self._contained(raised) from raised

    def _contained(self, error: BaseException) -> JobExit:
        text = describe(error)
        log.warning("job.exit_contained job=%s task=%s error=%s", self._job_id, self._named, text)
        return JobExit(text)

    def close(self) -> None:
        """Close it."""
        self._coro.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coro.__await__()

    def __getattr__(self, name: str) -> Any:  # cr_frame, cr_await and the like, of debuggers and of our stacks
        return getattr(self._coro, name)

    @property
    def _named(self) -> str:
        return getattr(self._coro, "__qualname__", type(self._coro).__name__)


class ServiceLoop(asyncio.SelectorEventLoop):
    """The event loop of a process that runs jobs: what a callback or a signal handler raises, and a job's `stop`,
    do not end it.

    Before the first pool runs (`contain_exits`) it is a plain one, so that Ctrl-C ends a process that starts.
    """

    def run_forever(self) -> None:
        """Run until `stop`, which a job cannot call."""
        while True:
            try:
                return super().run_forever()
            except BaseException as error:
                failed = isinstance(error, OSError) and error.errno is not None  # the loop's own: it would fail again
                if failed or not isinstance(self.get_task_factory(), ContainedTasks):
                    raise
                log.error(
                    "loop.error_ignored error=%s: raised by a callback or signal handler that a job left behind",
                    type(error).__name__,
                )

    def stop(self) -> None:
        """Stop the loop; from a job's own code this is logged and nothing else."""
        if _job.get() is None:
            super().stop()
        else:
            log.error("loop.stop_ignored job=%s", _job.get())
