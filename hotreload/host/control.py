"""What callers may ask of a running process and do to it: the host's side of the admin application."""

from __future__ import annotations

import uuid
from contextlib import AbstractAsyncContextManager
from typing import Any

from anyio.streams.memory import MemoryObjectReceiveStream

from hotreload.admin.control import Jobs
from hotreload.admin.metrics import Metrics
from hotreload.config.settings import HotreloadSettings
from hotreload.drain.coordinator import DrainCoordinator
from hotreload.host.documents import Documents, Told
from hotreload.host.feed import Feed
from hotreload.host.parts import Parts
from hotreload.host.records import Records
from hotreload.host.recovering import Recovering
from hotreload.host.start import Started
from hotreload.lifecycle import Phase
from hotreload.recovery.coordinator import RecoveryCoordinator
from hotreload.reload.attempt import Draft
from hotreload.reload.coordinator import ReloadCoordinator, Ticket
from hotreload.reload.report import Trigger
from hotreload.reload.triggers import WatchHealth


class HostControl:
    """Meets `admin.Control` for one host; keeps no state but the process's random `instance`."""

    def __init__(
        self,
        started: Started,
        parts: Parts,
        *,
        reload: ReloadCoordinator,
        drain: DrainCoordinator,
        watch: WatchHealth,
        records: Records,
        recovering: Recovering,
        feed: Feed,
    ) -> None:
        self._started = started
        self._parts = parts
        self._reload = reload
        self._drain = drain
        self._records = records
        self._recovering = recovering
        self._feed = feed
        self._documents = Documents(self._told(watch))
        self.instance = uuid.uuid4().hex[:12]
        self.metrics = Metrics(self.status, loaded=started.degraded is None)
        self._count_recovered()

    def _count_recovered(self) -> None:
        store, parked = self._started.store, set(self._started.store.recovered.parked)
        found = store.recovered
        crashed = [job for job in found.crashed if job not in parked]
        for outcome, ids in (("interrupted", found.interrupted), ("crashed", crashed), ("dead", list(parked))):
            for queue, count in store.queues_of(ids).items():
                self.metrics.observe_job(queue, outcome, count)

    def _told(self, watch: WatchHealth) -> Told:
        started, parts = self._started, self._parts
        return Told(
            name=started.name,
            version=parts.version,
            source=started.source,
            redactor=started.redactor,
            watch=watch,
            snapshot=lambda: started.snapshots.current,
            phase=lambda: self.phase.value,
            degraded=lambda: self.degraded,
            pending_restart=lambda: self._reload.pending_restart,
            pools=parts.pools,
            limits=parts.limits,
            queues=parts.queues,
            generations=parts.generations,
            last_reload=lambda: self._records.last_reload,
            drain=self._drain.progress,
            last_drain=lambda: self._records.last_drain,
            recovery=lambda: self._recovering.reports,
            notify_errors=lambda: started.start_up.notifier.errors,
        )

    @property
    def generation(self) -> int:
        """The generation in force."""
        return self._started.snapshots.current.generation

    @property
    def degraded(self) -> str | None:
        """Why the process runs on less than it was given, None where it does not."""
        mine = (self._started.store.trouble, self._started.degraded)
        lacks = (*mine, self._reload.impaired, self._parts.impaired, self._drain.impaired)
        return next((lack for lack in lacks if lack), None)

    @property
    def phase(self) -> Phase:
        """Where the process stands."""
        return self._started.lifecycle.phase

    @property
    def jobs(self) -> Jobs | None:
        """The queue, for people."""
        return self._parts.jobs

    @property
    def searches(self) -> RecoveryCoordinator | None:
        """Who looks for missing work; None where nobody says what should exist."""
        return self._recovering.searches

    @property
    def ready(self) -> bool:
        """True from READY to the first moment of a drain."""
        return self._started.lifecycle.phase is Phase.RUNNING

    def submit_reload(
        self,
        trigger: Trigger,
        *,
        dry_run: bool = False,
        if_match: int | None = None,
        id: str | None = None,  # noqa: A002 - it is the report's key
    ) -> Ticket:
        """Ask for a reload; never waits."""
        return self._reload.submit(trigger, dry_run=dry_run, if_match=if_match, ticket_id=id)

    def submit_check(
        self,
        trigger: Trigger,
        name: str,
        raw: bytes,
        *,
        id: str | None = None,  # noqa: A002 - it is the report's key
    ) -> Ticket:
        """Ask what a reload would do with these bytes in the file's place; never waits."""
        return self._reload.submit(trigger, draft=Draft(name, raw), ticket_id=id)

    def status(self) -> dict[str, Any]:
        """Return the status document."""
        return self._documents.status()

    def config(self) -> dict[str, Any]:
        """Return the effective settings, redacted."""
        return self._documents.config()

    def history(self) -> list[dict[str, Any]]:
        """Return the last reload reports, newest first, earlier processes' included."""
        return self._records.reloads

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the configuration file."""
        return self._parts.schema()

    def start_drain(self, reason: str, deadline_s: float | None = None) -> dict[str, Any]:
        """Start the drain, or join the one that runs; returns its progress."""
        self._drain.request(reason, deadline_s)
        return self._drain.progress() or {}

    def admin_settings(self) -> HotreloadSettings:
        """Return hotreload's own settings in force."""
        return self._started.snapshots.current.own

    def subscribe(self) -> AbstractAsyncContextManager[MemoryObjectReceiveStream[dict[str, Any]]]:
        """Open a bounded stream of events."""
        return self._feed.subscribe()

    def metrics_text(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return self.metrics.text()
