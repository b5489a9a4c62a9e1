"""What jobs share and a reload rebuilds: built beside the old, swapped, the old closed when its last job is done."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio

log = logging.getLogger(__name__)
END_S: Final = 30.0
"""How long the cleanup of a value may take that no job uses any more."""

Factory = Callable[[Any], AsyncGenerator[Any]]


class Instance:
    """One built value and the jobs that use it. Its generator lives and ends in one task of its own.

    That task belongs to no task group: what cancels jobs does not cancel the cleanup of what they share.
    """

    def __init__(self, name: str, factory: Factory, settings: Any, end_s: float) -> None:
        self.name = name
        self.value: Any = None
        self._factory = factory
        self._settings = settings
        self._end_s = end_s
        self._ready = anyio.Event()
        self._retired = anyio.Event()
        self._scope = anyio.CancelScope()
        self._users = 0
        self._leaving = False
        self._failure: Exception | None = RuntimeError("was cancelled while it was built")
        self.task = asyncio.create_task(self._hold(), name=name)

    async def _hold(self) -> None:
        """Build the value, keep it until it is retired and unused, then run the generator's end.

        Retired before it is there, its building is cancelled; its end is cancelled after its time.
        """
        try:
            with self._scope:
                await self._live()
            if self._scope.cancelled_caught and self._ready.is_set():
                log.error("resource.end_hung resource=%s (its cleanup was cancelled)", self.name)
        except Exception as failure:
            if self._ready.is_set():
                log.exception("resource.end_failed resource=%s", self.name)
            self._failure = failure
        except asyncio.CancelledError:
            if self._ready.is_set():
                log.error("resource.end_cancelled resource=%s", self.name)
        finally:
            self._ready.set()

    async def _live(self) -> None:
        async with asynccontextmanager(self._factory)(self._settings) as self.value:
            self._failure = None
            self._ready.set()
            await self._retired.wait()
            self._scope.deadline = anyio.current_time() + self._end_s

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

    def retire(self) -> None:
        """End the value once no job uses it, or its building; a second call changes nothing."""
        self._leaving = True
        if not self._ready.is_set():
            self._scope.cancel()
        if not self._users:
            self._retired.set()

    def close(self, within_s: float) -> None:
        """End the value now, whatever still uses it; what takes longer than `within_s` is cancelled."""
        self._end_s = min(self._end_s, within_s)
        self._scope.deadline = min(self._scope.deadline, anyio.current_time() + within_s)
        self._users = 0
        self.retire()


class Resource:
    """A named value handed to jobs, rebuilt when one of `paths` changes. Takes part in reloads as `resources.NAME`."""

    def __init__(self, name: str, factory: Factory, paths: Sequence[str], *, end_s: float = END_S) -> None:
        self.name = f"resources.{name}"
        self.paths = paths
        self.parameter = name
        self._factory = factory
        self._end_s = end_s
        self._current: Instance | None = None
        self._instances: set[Instance] = set()

    async def start(self, settings: Any) -> None:
        """Build the first value; raises what the factory raises."""
        self._current = await self._build(settings)

    async def _build(self, settings: Any) -> Instance:
        instance = Instance(self.name, self._factory, settings, self._end_s)
        self._instances.add(instance)
        instance.task.add_done_callback(lambda _ended: self._instances.discard(instance))
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

    async def close(self, within_s: float) -> None:
        """Run the cleanup of every value to its end, at the end of a host; a second call does nothing.

        What takes longer than `within_s` is cancelled and named in the log; what does not stop even then is left.
        """
        tasks = [instance.task for instance in self._instances]
        for instance in list(self._instances):
            instance.close(within_s * 0.8)
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=within_s)
            if left:
                log.error("resource.left_behind resource=%s (its cleanup does not stop)", self.name)
        self._current = None


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
