"""What a process says of itself when asked: the status document and the settings in force."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from hotreload.config.document import dotted
from hotreload.reload.report import Converging

if TYPE_CHECKING:
    from hotreload.host.host import Host
    from hotreload.host.work import Work


@dataclass(frozen=True, slots=True)
class PoolFigures:
    """A pool now: `waiting` jobs are ready for it, `bound_by` names the limit that holds it back (None: none does)."""

    name: str
    limit: int
    running: int
    waiting: int
    bound_by: str | None


def converging(pools: Sequence[PoolFigures]) -> list[Converging]:
    """Return the pools and shared limits that run more jobs than they may: shrinking cancels none."""
    return [Converging(pool.name, pool.limit, pool.running) for pool in pools if pool.running > pool.limit]


def held_back(work: Work) -> dict[str, str]:
    """Return why the jobs of a queue wait and nothing here runs them, by queue; running ones count as running.

    Of queues that are another server's nothing is said.
    """
    limits = {pool.name.removeprefix("workers."): pool.limit for pool in work.pools()}
    found: dict[str, str] = {}
    for depth in work.queues() if work.jobs is not None and work.serving is None else ():
        waiting = depth.ready + depth.scheduled
        if not waiting or depth.running:
            continue
        has = f"queue {depth.name!r} has {waiting:,} {'job' if waiting == 1 else 'jobs'}"
        if depth.name not in limits:
            found[depth.name] = f"{has}, and this service has no worker for it"
        elif depth.paused:
            found[depth.name] = f"{has} and is paused (hotreload jobs resume)"
        elif limits[depth.name] == 0:
            found[depth.name] = f"{has}, and the limit of its worker is 0"
    return found


def status_document(host: Host) -> dict[str, Any]:
    """Return the status document."""
    snapshot, work = host.started.snapshots.current, host.work
    pools = work.pools()
    return {
        "name": host.started.name,
        "version": work.version,
        "pid": os.getpid(),
        "started_at": host.started_at,
        "phase": host.phase.value,
        "generation": snapshot.generation,
        "fingerprint": snapshot.fingerprint,
        "degraded": host.degraded,
        "store": host.started.store and host.started.store.wake_up,
        "config_file": str(host.started.source.path),
        "pending_restart": [pending.to_dict() for pending in host.reloads.pending_restart],
        "pools": [asdict(pool) for pool in pools],
        "converging": [pool.to_dict() for pool in converging([*pools, *work.limits()])],
        "queues": [asdict(queue) for queue in work.queues()],
        "watch": asdict(host.watch.health),
        "last_reload": host.records.last_reload,
        "drain": host.drain.progress(),
        "last_drain": host.records.last_drain,
        "jobs_on_generation": {str(g): jobs for g, jobs in sorted(Counter(work.generations()).items())},
        "recovery": list(host.recovering.reports),
        "nodes": host.fleet.nodes() if host.fleet is not None else [],
        "notify_errors": host.started.start_up.notifier.errors,
        **work.more(),
    }


def config_document(host: Host) -> dict[str, Any]:
    """Return the effective settings, secrets as keyed fingerprints, and where each value came from."""
    snapshot, source, redactor = host.started.snapshots.current, host.started.source, host.started.redactor
    return {
        "settings": {
            dotted(keys): redactor.show(dotted(keys), value, source.rule(keys))
            for keys, value in snapshot.leaves.items()
        },
        "generation": snapshot.generation,
        "fingerprint": snapshot.fingerprint,
        "provenance": {dotted(keys): source.origin(snapshot, keys) for keys in snapshot.leaves},
        "reload": {dotted(keys): source.rule(keys).effect.value for keys in snapshot.leaves},
        "pending_restart": [pending.to_dict() for pending in host.reloads.pending_restart],
        "config_file": str(source.path),
    }
