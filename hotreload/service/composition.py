"""From what a service declares to the parts of one process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from hotreload.config.model import Validated
from hotreload.config.settings import LiveSettings, SettingsModel
from hotreload.errors import ConfigInvalid
from hotreload.host.start import Started
from hotreload.queue.engines import Store
from hotreload.recovery.scan import QueueSearch, Scan, Seen
from hotreload.reload.apply import Reloadable
from hotreload.service.checks import Place, Shape
from hotreload.service.work import ServiceWork
from hotreload.workers.deaths import Deaths, Hook
from hotreload.workers.execution import Execution
from hotreload.workers.fleet import FleetLimits, divided
from hotreload.workers.job import Surroundings
from hotreload.workers.kind import Kind
from hotreload.workers.limits import Limit, Rate, SharedLimit, checked_limit, checked_rate
from hotreload.workers.live import Follow, Value, read_paths, value_problems
from hotreload.workers.policy import Policy, PolicyOf
from hotreload.workers.pool import Pool
from hotreload.workers.resources import Factory, Resource
from hotreload.workers.runners import Handler, runner

Asked = Callable[[Any], Any]
"""Asked for a value with the settings in force."""
Recovers = Callable[[Any], AsyncIterator[Seen]]


@dataclass(frozen=True, slots=True)
class DeclaredWorker:
    """A declared worker: its jobs' kind, its handler and what that takes, its limit and policy, what it shares."""

    kind: Kind
    handler: Handler
    process: bool
    shape: Shape
    limit: Asked
    shares: tuple[str, ...]
    policy: PolicyOf

    def handed(self, resources: Mapping[str, Resource]) -> list[Resource]:
        """Return the resources its handler is handed."""
        optional = [name for name in self.shape.takes if name in resources and not self.process]
        return [resources[name] for name in (*self.shape.needs, *optional)]


@dataclass(slots=True)
class Declared:
    """What a service declared, by name and in that order."""

    settings: type[LiveSettings]
    workers: dict[str, DeclaredWorker] = field(default_factory=dict[str, DeclaredWorker])
    limits: dict[str, Asked] = field(default_factory=dict[str, Asked])
    rates: dict[str, Asked] = field(default_factory=dict[str, Asked])
    across: set[str] = field(default_factory=set[str])
    """The limits and rates that hold over all processes on the store."""
    resources: dict[str, Resource] = field(default_factory=dict[str, Resource])
    factories: dict[str, Factory] = field(default_factory=dict[str, Factory])
    reloadables: dict[str, Reloadable] = field(default_factory=dict[str, Reloadable])
    scans: list[tuple[str, Recovers]] = field(default_factory=list[tuple[str, Recovers]])
    on_dead: list[Hook] = field(default_factory=list[Hook])

    def check(self) -> None:
        """Raise DeclarationError where something is asked for that was not declared."""
        shares = [*self.limits, *self.rates]
        for queue, worker in self.workers.items():
            place = Place(f"worker {queue!r}", worker.handler)
            for name in worker.shape.needs:
                if name not in self.resources:
                    place.refuse(f"its handler takes {name!r}, and no resource has that name", _of(self.resources))
            for name in worker.shares:
                if name not in shares:
                    place.refuse(f"it shares {name!r}, and no limit or rate has that name", _of(shares))
        for queue, scan in self.scans:
            if queue not in self.workers:
                Place(f"scan of {queue!r}", scan).refuse("no worker serves that queue", _of(self.workers))

    def values(self) -> dict[str, Asked]:
        """Return all that follows the settings, under the name reports call it by."""
        values = {f"workers.{queue}": worker.limit for queue, worker in self.workers.items()}
        values |= {f"limits.{name}": value for name, value in self.limits.items()}
        checked = {name: _in_range(value, checked_limit) for name, value in values.items()}
        checked |= {f"rates.{name}": _in_range(value, checked_rate) for name, value in self.rates.items()}
        return checked | {f"workers.{queue}.policy": worker.policy.at for queue, worker in self.workers.items()}

    @property
    def kinds(self) -> dict[str, Kind]:
        """The kind of the jobs of each queue."""
        return {queue: worker.kind for queue, worker in self.workers.items()}


def _of(known: Iterable[str]) -> str:
    return f"there is {', '.join(known)}" if known else "none is declared"


def _in_range(asked: Asked, check: Callable[[Any], object]) -> Asked:
    return lambda settings: check(asked(settings))


class DeclaredModel(SettingsModel[Any]):
    """A settings model whose settings are valid where each value that follows them can be asked as well."""

    def __init__(self, model: type[LiveSettings], values: Mapping[str, Asked]) -> None:
        super().__init__(model)
        self._values = values

    def validate(self, data: Mapping[str, Any], folder: Path) -> Validated[Any]:
        """Validate, then ask the values; ConfigInvalid with every problem of either."""
        validated = super().validate(data, folder)
        if problems := value_problems(self._values, validated.settings):
            raise ConfigInvalid(problems)
        return validated


def compose(declared: Declared, started: Started, version: str, schema: Mapping[str, Any]) -> ServiceWork:
    """Return the work of one process.

    What takes part in a reload does so in this order: resources, parts of the service's own, limits, policies, rates.
    """
    settings = started.snapshots.current.settings
    shared: dict[str, SharedLimit] = {
        name: SharedLimit(name, value(settings)) for name, value in declared.limits.items()
    }
    shared |= {name: Rate(name, value(settings)) for name, value in declared.rates.items()}
    values = declared.values()
    store = started.store
    if store is not None:
        store.payload_most = lambda: started.snapshots.current.own.max_payload_bytes
    workers = declared.workers.values() if store is not None else ()
    pools = [_pool(worker, declared, started, store, shared) for worker in workers if store is not None]
    resources = list(declared.resources.values())

    def follow(name: str, value: Value[Any]) -> Follow:
        return Follow(name, value, values[name], read_paths([values[name]], settings))

    follows = [follow(pool.name, pool.limit) for pool in pools]
    follows += [follow(f"{pool.name}.policy", PolicyInForce(pool, store)) for pool in pools if store is not None]
    follows += [follow(limit.name, limit) for limit in shared.values()]
    return ServiceWork(
        version=version,
        store=store,
        kinds=declared.kinds,
        pools=pools,
        shared=list(shared.values()),
        divides=_divides([shared[name] for name in sorted(declared.across)], store),
        resources=resources,
        reloadables=[*resources, *declared.reloadables.values(), *follows],
        snapshots=started.snapshots,
        deaths=Deaths(declared.on_dead, lambda: started.snapshots.current.settings, partial(_payload_of, store)),
        search=None if store is None else _search(declared, started, store),
        schema=schema,
    )


class PolicyInForce:
    """The policy of one pool, as a reload moves it; how long results are kept is the store's matter."""

    def __init__(self, pool: Pool, store: Store) -> None:
        self._pool = pool
        self._store = store
        self.set(pool.execution.policy or Policy())

    def get(self) -> Policy:
        """Return the policy in force."""
        return self._policy

    def set(self, value: Policy, /) -> None:
        """Put a policy in force."""
        self._policy = self._pool.execution.policy = value
        self._store.keep_done(self._pool.queue_name, value.keep_done_s)


def _divides(limits: Sequence[SharedLimit], store: Store | None) -> list[FleetLimits]:
    """Have these limits hold over all nodes on the store; a store in a file has one."""
    if not limits or store is None or store.fleet is None:
        return []

    def ready(pool: str) -> int:
        return next((one.ready for one in store.depths() if f"workers.{one.name}" == pool), 0)

    return [divided(limits, store.fleet, ready)]


async def _payload_of(store: Store | None, job_id: str) -> Any:
    job = None if store is None else await store.job(job_id)
    return None if job is None else job.payload


def _search(declared: Declared, started: Started, store: Store) -> QueueSearch | None:
    kinds = declared.kinds
    scans = [Scan(queue, scan, kinds[queue].payload, kinds[queue].version) for queue, scan in declared.scans]
    return QueueSearch(scans, store, lambda: started.snapshots.current.settings) if scans else None


def _pool(
    worker: DeclaredWorker, declared: Declared, started: Started, store: Store, shared: Mapping[str, SharedLimit]
) -> Pool:
    around = Surroundings(
        queue=store,
        kind=worker.kind,
        newest=lambda: started.snapshots.current,
        draining=lambda: started.lifecycle.draining,
        window=lambda: started.lifecycle.window,
        kinds=declared.kinds,
        most_bytes=store.payload_most,
    )
    settings = started.snapshots.current.settings
    resources = worker.handed(declared.resources)
    runs = runner(worker.handler, process=worker.process)
    return Pool(
        name=worker.kind.queue,
        queue=store,
        limit=Limit(worker.limit(settings)),
        shared=[shared[name] for name in worker.shares],
        execution=Execution(runs, around, resources, started.redactor.scrub, worker.policy.at(settings)),
        window=around.window,
    )
