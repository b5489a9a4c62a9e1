"""From what a service declares to the parts of one process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hotreload.config.model import Validated
from hotreload.config.settings import LiveSettings, SettingsModel
from hotreload.errors import ConfigInvalid
from hotreload.host.start import Started
from hotreload.host.work import Work
from hotreload.recovery.scan import QueueSearch, Scan, Seen
from hotreload.reload.apply import Reloadable
from hotreload.workers.execution import Execution, Handler, runner
from hotreload.workers.job import Surroundings
from hotreload.workers.kind import Kind
from hotreload.workers.limits import Limit, SharedLimit
from hotreload.workers.pool import Pool
from hotreload.workers.resize import Resize, limit_problems
from hotreload.workers.resources import Resource

Wanted = Callable[[Any], int]
"""Asked for a limit with the settings in force."""
Recovers = Callable[[Any], AsyncIterator[Seen]]


@dataclass(frozen=True, slots=True)
class Worker:
    """A declared worker: its jobs' kind, its handler, the resources it is handed, its limit and those it shares."""

    kind: Kind
    handler: Handler
    process: bool
    resources: tuple[str, ...]
    limit: Wanted
    shares: tuple[str, ...]


@dataclass(slots=True)
class Declared:
    """What a service declared, by name and in that order."""

    workers: dict[str, Worker] = field(default_factory=dict[str, Worker])
    limits: dict[str, Wanted] = field(default_factory=dict[str, Wanted])
    resources: dict[str, Resource] = field(default_factory=dict[str, Resource])
    reloadables: dict[str, Reloadable] = field(default_factory=dict[str, Reloadable])
    scans: list[tuple[str, Recovers]] = field(default_factory=list[tuple[str, Recovers]])

    def check(self) -> None:
        """Raise ValueError where something is asked for that nobody declared."""
        for queue, worker in self.workers.items():
            for name in worker.resources:
                if name not in self.resources:
                    raise ValueError(f"worker {queue!r} asks for {name!r}, and no resource has that name")
            for name in worker.shares:
                if name not in self.limits:
                    raise ValueError(f"worker {queue!r} shares {name!r}, and no limit has that name")
        for queue, _ in self.scans:
            if queue not in self.workers:
                raise ValueError(f"a scan recovers {queue!r}, and no worker serves that queue")

    def all_limits(self) -> dict[str, Wanted]:
        """Return every limit under the name reports call it by."""
        limits = {f"workers.{queue}": worker.limit for queue, worker in self.workers.items()}
        return limits | {f"limits.{name}": wanted for name, wanted in self.limits.items()}

    @property
    def kinds(self) -> dict[str, Kind]:
        """The kind of the jobs of each queue."""
        return {queue: worker.kind for queue, worker in self.workers.items()}


class DeclaredModel(SettingsModel[Any]):
    """A settings model whose settings are valid where each declared limit can be asked of them as well."""

    def __init__(self, model: type[LiveSettings], limits: Mapping[str, Wanted]) -> None:
        super().__init__(model)
        self._limits = limits

    def validate(self, data: Mapping[str, Any], folder: Path) -> Validated[Any]:
        """Validate, then ask the limits; ConfigInvalid with every problem of either."""
        validated = super().validate(data, folder)
        if problems := limit_problems(self._limits, validated.settings):
            raise ConfigInvalid(problems)
        return validated


def compose(declared: Declared, started: Started) -> tuple[Work, list[SharedLimit], list[Reloadable]]:
    """Return the work of one process, the limits its pools share, and what takes part in a reload, in its order.

    Resources come first, then parts of the service's own, then the limits. ValueError as `Declared.check`.
    """
    declared.check()
    settings = started.snapshots.current.settings
    shared = {name: SharedLimit(name, wanted(settings)) for name, wanted in declared.limits.items()}
    work = Work(
        store=started.store,
        kinds=declared.kinds,
        pools=[_pool(worker, declared, started, shared) for worker in declared.workers.values()],
        resources=list(declared.resources.values()),
        snapshots=started.snapshots,
    )
    resizes = [Resize(pool.name, pool.limit, declared.workers[pool.queue_name].limit) for pool in work.pools]
    resizes += [Resize(limit.name, limit, declared.limits[name]) for name, limit in shared.items()]
    return work, list(shared.values()), [*work.resources, *declared.reloadables.values(), *resizes]


def search(declared: Declared, started: Started) -> QueueSearch | None:
    """Return who looks for missing work, None where nobody says what should exist."""
    kinds = declared.kinds
    scans = [Scan(queue, scan, kinds[queue].payload, kinds[queue].version) for queue, scan in declared.scans]
    return QueueSearch(scans, started.store, lambda: started.snapshots.current.settings) if scans else None


def _pool(worker: Worker, declared: Declared, started: Started, shared: Mapping[str, SharedLimit]) -> Pool:
    around = Surroundings(
        queue=started.store,
        kind=worker.kind,
        newest=lambda: started.snapshots.current,
        draining=lambda: started.lifecycle.draining,
        window=lambda: started.lifecycle.window,
        kinds=declared.kinds,
    )
    resources = [declared.resources[name] for name in worker.resources]
    runs = runner(worker.handler, process=worker.process)
    return Pool(
        name=worker.kind.queue,
        queue=started.store,
        limit=Limit(worker.limit(started.snapshots.current.settings)),
        shared=[shared[name] for name in worker.shares],
        execution=Execution(runs, around, resources, started.redactor.scrub),
        window=around.window,
    )
