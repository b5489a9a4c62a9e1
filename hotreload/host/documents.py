"""What a process says of itself when asked: the status document and the settings in force."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hotreload.clock import iso, now_ms
from hotreload.config.redact import Redactor
from hotreload.config.store import Snapshot
from hotreload.queue.contract import QueueDepth
from hotreload.reload.report import Converging, PendingRestart
from hotreload.reload.triggers import WatchHealth
from hotreload.reload.validate import Source


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


@dataclass(frozen=True, slots=True)
class Told:
    """Where the figures of the status document come from; each is asked anew at every reading."""

    name: str
    version: str
    source: Source[Any]
    redactor: Redactor
    watch: WatchHealth
    snapshot: Callable[[], Snapshot[Any]]
    phase: Callable[[], str]
    degraded: Callable[[], str | None]
    pending_restart: Callable[[], Sequence[PendingRestart]]
    pools: Callable[[], Sequence[PoolFigures]]
    limits: Callable[[], Sequence[PoolFigures]]
    queues: Callable[[], Sequence[QueueDepth]]
    generations: Callable[[], Sequence[int]]
    last_reload: Callable[[], dict[str, Any] | None]
    drain: Callable[[], dict[str, Any] | None]
    last_drain: Callable[[], dict[str, Any] | None]
    recovery: Callable[[], Sequence[dict[str, Any]]]
    notify_errors: Callable[[], int]


class Documents:
    """Makes the documents of one process."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._started_at = iso(now_ms())

    def status(self) -> dict[str, Any]:
        """Return the status document."""
        told = self._told
        snapshot = told.snapshot()
        pools = told.pools()
        return {
            "name": told.name,
            "version": told.version,
            "pid": os.getpid(),
            "started_at": self._started_at,
            "phase": told.phase(),
            "generation": snapshot.generation,
            "fingerprint": snapshot.fingerprint,
            "degraded": told.degraded(),
            "config_file": str(told.source.path),
            "pending_restart": [pending.to_dict() for pending in told.pending_restart()],
            "pools": [asdict(pool) for pool in pools],
            "converging": [pool.to_dict() for pool in converging([*pools, *told.limits()])],
            "queues": [asdict(queue) for queue in told.queues()],
            "watch": asdict(told.watch),
            "last_reload": told.last_reload(),
            "drain": told.drain(),
            "last_drain": told.last_drain(),
            "jobs_on_generation": {str(g): jobs for g, jobs in sorted(Counter(told.generations()).items())},
            "recovery": list(told.recovery()),
            "notify_errors": told.notify_errors(),
        }

    def config(self) -> dict[str, Any]:
        """Return the effective settings, secrets as keyed fingerprints, and where each value came from."""
        told = self._told
        snapshot = told.snapshot()
        settings = {
            path: told.redactor.show(path, value, told.source.rule(path)) for path, value in snapshot.leaves.items()
        }
        return {
            "settings": settings,
            "generation": snapshot.generation,
            "fingerprint": snapshot.fingerprint,
            "provenance": {path: snapshot.provenance.get(path, "default") for path in snapshot.leaves},
            "reload": {path: told.source.rule(path).effect.value for path in snapshot.leaves},
            "pending_restart": [pending.to_dict() for pending in told.pending_restart()],
            "config_file": str(told.source.path),
        }
