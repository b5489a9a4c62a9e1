"""One job, from claim to verdict."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, Protocol

import anyio
from pydantic import TypeAdapter

from hotreload.config.masking import mask_text
from hotreload.queue.job import Done, Failed, JobRow, Verdict
from hotreload.queue.rows import to_json
from hotreload.workers.children import Children
from hotreload.workers.job import Job, Surroundings
from hotreload.workers.resources import Resource
from hotreload.workers.threads import Threads
from hotreload.workers.verdicts import verdict_on

Handler = Callable[..., Any]
_RESULT: Final[TypeAdapter[Any]] = TypeAdapter(Any)


class Runner(Protocol):
    """How a handler is run; `close` ends what it keeps between jobs."""

    def __call__(self, job: Job[Any], settings: Any, **handed: Any) -> Awaitable[Any]:
        """Run it for one job."""
        ...

    async def trim(self, most: int) -> None:
        """End what is kept for more than `most` jobs at once."""
        ...

    async def close(self) -> None:
        """End what is kept."""
        ...


class Coroutines:
    """Runs an `async def` handler."""

    def __init__(self, handler: Callable[..., Awaitable[Any]]) -> None:
        self._handler = handler

    def __call__(self, job: Job[Any], settings: Any, **handed: Any) -> Awaitable[Any]:
        """Call the handler."""
        return self._handler(job, settings, **handed)

    async def trim(self, most: int) -> None:
        """Nothing is kept between jobs."""

    async def close(self) -> None:
        """Nothing is kept between jobs."""


def runner(handler: Handler, *, process: bool = False) -> Runner:
    """Return how `handler` is run: coroutine functions in the loop, others in a thread or with `process` in a child.

    ValueError for a coroutine function with `process`.
    """
    if not inspect.iscoroutinefunction(handler):
        return Children(handler) if process else Threads(handler)
    if process:
        raise ValueError(f"{handler.__qualname__}: a process handler is a plain function")
    return Coroutines(handler)


class Execution:
    """How the jobs of one queue are done.

    `run` never raises for what the job does: an exception is a failure (an attempt), the service's cancellation
    an interruption (none); see `verdicts` for what is neither. What a failure says is kept and shown, so it goes
    through `scrub` first.
    """

    def __init__(
        self,
        runs: Runner,
        around: Surroundings,
        resources: Sequence[Resource] = (),
        scrub: Callable[[str], str] = mask_text,
    ) -> None:
        self._runs = runs
        self._around = around
        self._resources = resources
        self._scrub = scrub

    def open(self, row: JobRow) -> Job[Any] | Failed:
        """Make the job its handler sees; a payload that does not fit parks it."""
        payload = self._around.kind.open_payload(row)
        return self._scrubbed(payload) if isinstance(payload, Failed) else Job(row, payload, self._around)

    async def run(self, job: Job[Any]) -> Verdict:
        """Run the handler on one snapshot and say how it ended. Cancelled by no word of the pool, it raises that on."""
        settings = self._around.newest().settings
        try:
            if not self._resources:
                return _done(await self._runs(job, settings))
            with _taken(self._resources) as handed:
                return _done(await self._runs(job, settings, **handed))
        except BaseException as error:
            cancelled = anyio.current_effective_deadline() == -math.inf
            if isinstance(error, GeneratorExit) or (cancelled and isinstance(error, asyncio.CancelledError)):
                raise
            verdict = verdict_on(error, job, stopped=cancelled or job.stopping)
            return self._scrubbed(verdict) if isinstance(verdict, Failed) else verdict

    async def trim(self, most: int) -> None:
        """End what is kept between jobs for more than `most` of them."""
        await self._runs.trim(most)

    async def close(self) -> None:
        """End what is kept between jobs."""
        await self._runs.close()

    def _scrubbed(self, failed: Failed) -> Failed:
        trace = failed.traceback
        return replace(failed, error=self._scrub(failed.error), traceback=trace and self._scrub(trace))


def _done(result: Any) -> Done:
    """Return the verdict; raises where the result is no JSON value, before anybody else waits for its writing."""
    if result is None:
        return Done()
    value = _RESULT.dump_python(result, mode="json")
    to_json(value)
    return Done(value)


@contextmanager
def _taken(resources: Sequence[Resource]) -> Generator[dict[str, Any]]:
    instances = [(resource.parameter, resource.current()) for resource in resources]
    try:
        yield {name: instance.take() for name, instance in instances}
    finally:
        for _, instance in instances:
            instance.give_back()
