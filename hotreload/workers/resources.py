"""What jobs share and a reload rebuilds: built beside the old, swapped, the old ended when its last job is done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
from anyio.abc import TaskGroup

log = logging.getLogger(__name__)
END_S: Final = 30.0
"""How long the end of a value may take that nobody uses any more."""

Factory = Callable[[Any], AsyncGenerator[Any]]


class Instance:
    """One built value and the jobs that use it. Its generator lives and ends in one task of its own."""

    def __init__(self, factory: Factory, settings: Any) -> None:
        self._factory = factory
        self._settings = settings
        self._ready = anyio.Event()
        self._scope = anyio.CancelScope()
        self._retired = anyio.Event()
        self._users = 0
        self._failure: Exception | None = RuntimeError("was cancelled while it was built")
        self.value: Any = None

    async def hold(self) -> None:
        """Build the value, keep it until it is retired and unused, then run the generator's end.

        Retired before it is there, its building is cancelled; its end is cancelled after `END_S`.
        """
        try:
            with self._scope:
                await self._live()
            if self._scope.cancelled_caught and self._ready.is_set():
                log.error("resource.end_hung factory=%s limit_s=%g", self._named, END_S)
        except Exception as failure:
            if self._ready.is_set():
                log.exception("resource.end_failed factory=%s", self._named)
            self._failure = failure
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise  # one that the factory raises by itself would end the host's task group
        finally:
            self._ready.set()

    async def _live(self) -> None:
        async with asynccontextmanager(self._factory)(self._settings) as self.value:
            self._failure = None
            self._ready.set()
            await self._retired.wait()
            self._scope.deadline = anyio.current_time() + END_S

    @property
    def _named(self) -> str:
        return getattr(self._factory, "__name__", repr(self._factory))

    async def built(self) -> None:
        """Wait until the value is there; raises what its factory raised."""
        await self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def take(self) -> Any:
        """Use the value; `give_back` afterwards."""
        self._users += 1
        return self.value

    def give_back(self) -> None:
        """End one use."""
        self._users -= 1
        if self._leaving and not self._users:
            self._retired.set()

    _leaving = False

    def retire(self) -> None:
        """End the value once nobody uses it, or its building; a second call changes nothing."""
        self._leaving = True
        if not self._ready.is_set():
            self._scope.cancel()
        if not self._users:
            self._retired.set()


class Resource:
    """A named value handed to jobs, rebuilt when one of `paths` changes. Takes part in reloads as `resources.NAME`."""

    def __init__(self, name: str, factory: Factory, paths: Sequence[str]) -> None:
        self.name = f"resources.{name}"
        self.paths = paths
        self.parameter = name
        self._factory = factory
        self._tasks: TaskGroup | None = None
        self._current: Instance | None = None

    async def start(self, tasks: TaskGroup, settings: Any) -> None:
        """Build the first value; raises what the factory raises."""
        self._tasks = tasks
        self._current = await self._build(settings)

    async def _build(self, settings: Any) -> Instance:
        assert self._tasks is not None
        instance = Instance(self._factory, settings)
        self._tasks.start_soon(instance.hold, name=self.name)
        try:
            await instance.built()
        except BaseException:
            instance.retire()
            raise
        return instance

    def current(self) -> Instance:
        """Return the value in force."""
        assert self._current is not None
        return self._current

    async def prepare(self, transition: Any) -> Rebuilt:
        """Build the new value beside the old."""
        return Rebuilt(self, await self._build(transition.new))

    def swap(self, new: Instance) -> Instance:
        """Put `new` in force and return the one before."""
        old, self._current = self.current(), new
        return old

    def close(self) -> None:
        """Retire the value in force, at the end of the process."""
        if self._current is not None:
            self._current.retire()


class Rebuilt:
    """A new value that waits for its commit."""

    def __init__(self, resource: Resource, new: Instance) -> None:
        self._resource = resource
        self._new = new
        self._old: Instance | None = None

    def commit(self) -> None:
        """Hand the new value to jobs that start from now on."""
        self._old = self._resource.swap(self._new)

    def revert(self) -> None:
        """Put the old value back; jobs that took the new one meanwhile keep it to their end."""
        if self._old is not None:
            self._resource.swap(self._old)
            self._old = None

    async def undo(self) -> None:
        """Throw the new value away."""
        self._new.retire()

    async def retire(self) -> None:
        """End the old value when the last job that uses it ends."""
        if self._old is not None:
            self._old.retire()
