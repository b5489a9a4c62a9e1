"""Publish a configuration and new limits in a running OpenViking: the parts of a reload."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

from hotreload.errors import Problem
from hotreload.openviking import fields
from hotreload.openviking.fields import Pool
from hotreload.openviking.limits import QueueWorkers
from hotreload.reload.apply import Transition

REMOVED: Final = {
    "rerank": "was removed: searches are ordered by the scores of the vectors alone",
    "query_planner": "was removed: queries are planned by the model of vlm",
}
"""Sections a running server goes on without; that nothing is summarised without `vlm`, each report says."""


class Publication:
    """The part of a reload that gives OpenViking a new configuration. Meets `Reloadable`."""

    def __init__(
        self,
        publish: Callable[[Any], Awaitable[None]],
        overridden: Callable[[Sequence[str]], Awaitable[Sequence[Problem]]] | None = None,
    ) -> None:
        self.name = "configuration"
        self.paths: Sequence[str] = fields.PUBLISHED
        self._publish = publish
        self._overridden = overridden

    async def prepare(self, transition: Transition) -> Published:
        """Hold the two configurations, which are validated already; say what the new one will not do."""
        old, new = transition.old.config, transition.new.config
        warnings = [Problem(section, text) for section, text in REMOVED.items() if _is_removed(section, old, new)]
        if self._overridden is not None:
            warnings += await self._overridden(transition.paths)
        return Published(self._publish, old, new, warnings)


class Published:
    """A configuration that waits for its publication, which must be awaited. Meets `Prepared` and `Publishes`."""

    def __init__(
        self, publish: Callable[[Any], Awaitable[None]], old: Any, new: Any, warnings: Sequence[Problem] = ()
    ) -> None:
        self.warnings = warnings
        self._publish = publish
        self._old = old
        self._new = new
        self._begun = False

    async def publish(self) -> None:
        """Replace the configuration in force; calls under way keep the clients they have."""
        self._begun = True
        await self._publish(self._new)

    def commit(self) -> None:
        """Nothing is left to switch."""

    def revert(self) -> None:
        """Nothing was switched."""

    async def undo(self) -> None:
        """Publish the old one again, if the new one was."""
        if self._begun:
            await self._publish(self._old)

    async def retire(self) -> None:
        """OpenViking closes a client after its last call."""


def _is_removed(section: str, old: Any, new: Any) -> bool:
    before, after = getattr(old, section, None), getattr(new, section, None)
    return before is not None and before.is_available() and not (after is not None and after.is_available())


async def publish(config: Any) -> None:
    """Hand OpenViking a validated configuration as its new baseline; settings it keeps per account stay.

    Its own value of `agent_evolution` comes from the server section and is carried over.
    """
    from openviking.server.dependencies import get_service

    service: Any = get_service()
    carried = {"agent_evolution": deepcopy(service._agent_evolution_base_config)}
    await service.runtime_config_manager.replace_base_config(config.model_copy(update=carried))


class LimitChange:
    """The part of a reload that resizes one pool. Meets `Reloadable`."""

    def __init__(self, pool: Pool, workers: QueueWorkers) -> None:
        self.name = f"workers.{pool.name}"
        self.paths: Sequence[str] = (pool.path,)
        self._pool = pool.name
        self._workers = workers

    async def prepare(self, transition: Transition) -> Resized | None:
        """Take the new limit, which was validated; None when it stays."""
        old, new = transition.old.limits[self._pool], transition.new.limits[self._pool]
        return None if old == new else Resized(self._workers, {self._pool: old}, {self._pool: new})


class Resized:
    """Limits that wait for their commit. Meets `Prepared`."""

    def __init__(self, workers: QueueWorkers, old: Mapping[str, int], new: Mapping[str, int]) -> None:
        self._workers = workers
        self._old = old
        self._new = new

    def commit(self) -> None:
        """Move the limits: growing wakes waiters at once, shrinking cancels nothing."""
        self._workers.set_limits(self._new)

    def revert(self) -> None:
        """Move them back."""
        self._workers.set_limits(self._old)

    async def undo(self) -> None:
        """Nothing was built."""

    async def retire(self) -> None:
        """Nothing stays behind a limit."""
