"""A declared worker as the code around it uses it: to add jobs, and to wait for their results."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Concatenate, Generic, TypeVar, overload

from hotreload.workers.job import Job, SyncJob

if TYPE_CHECKING:
    from hotreload.queue.job import Enqueued
    from hotreload.service.declaration import Service

P = TypeVar("P")
R = TypeVar("R")
S = TypeVar("S")


class Worker(Generic[P, R]):
    """The handle of one queue: what `@service.worker(…)` makes of a handler.

    Calling it calls the handler. `P` is the type of its payloads, `R` that of its results.
    """

    def __init__(self, service: Service[Any], queue: str, handler: Callable[..., Any]) -> None:
        self._service = service
        self.queue = queue
        self.handler = handler
        self.__wrapped__ = handler
        self.__name__ = getattr(handler, "__name__", queue)
        self.__qualname__ = getattr(handler, "__qualname__", queue)
        self.__module__ = getattr(handler, "__module__", __name__)
        self.__doc__ = handler.__doc__

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call the handler itself, as tests do; a job is made by `enqueue`."""
        return self.handler(*args, **options)

    async def enqueue(self, payload: P, *, key: str | None = None, priority: int = 0, delay_s: float = 0.0) -> Enqueued:
        """Add a job, durable on return; see `Service.enqueue`."""
        return await self._service.enqueue(self.queue, payload, key=key, priority=priority, delay_s=delay_s)

    async def enqueue_many(
        self,
        payloads: Iterable[P],
        *,
        key: Callable[[P], str] | None = None,
        priority: int = 0,
        delay_s: float = 0.0,
    ) -> list[Enqueued]:
        """Add a job for each payload, all or none, in one transaction; see `Service.enqueue_many`."""
        return await self._service.enqueue_many(self.queue, payloads, key=key, priority=priority, delay_s=delay_s)

    async def result(self, job: Enqueued | str) -> R:
        """Wait for a job's end and return its result as JSON values; see `Service.result`."""
        return await self._service.result(job)


class Declares(Generic[S]):
    """The decorator that `service.worker(…)` returns."""

    def __init__(self, declare: Callable[[Callable[..., Any]], Worker[Any, Any]]) -> None:
        self._declare = declare

    @overload
    def __call__(self, handler: Callable[Concatenate[Job[P, S], S, ...], Awaitable[R]]) -> Worker[P, R]: ...

    @overload
    def __call__(self, handler: Callable[Concatenate[SyncJob[P, S], S, ...], R]) -> Worker[P, R]: ...

    def __call__(self, handler: Callable[..., Any]) -> Worker[Any, Any]:
        """Declare a handler and return its handle; DeclarationError where it cannot be one."""
        return self._declare(handler)
