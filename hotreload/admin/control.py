"""What the admin application needs of a running process; the host meets it structurally."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from anyio.streams.memory import MemoryObjectReceiveStream
from pydantic import SecretStr

from hotreload.lifecycle import Phase
from hotreload.queue.job import JobState
from hotreload.recovery.coordinator import SearchTicket
from hotreload.recovery.findings import Making, Wanted
from hotreload.reload.report import ReloadReport, Trigger


class Ticket(Protocol):
    """A claim to the verdict on one request; several requests may share a reload, and then its id."""

    @property
    def id(self) -> str:
        """The id the report will have."""
        ...

    async def wait(self) -> ReloadReport:
        """Return the verdict; cancelled, the reload goes on."""
        ...


class AdminSettings(Protocol):
    """What is read of hotreload's own settings, at each call: a reload may change them."""

    @property
    def root_key(self) -> SecretStr | None:
        """The key asked for over TCP; None: /admin answers on the control socket only."""
        ...

    @property
    def allowed_hosts(self) -> Sequence[str]:
        """Names accepted in `Host`; empty: loopback names and the bound address."""
        ...


class Searches(Protocol):
    """Looks for what should exist and does not."""

    @property
    def full(self) -> bool:
        """True while so many searches wait that no further one should."""
        ...

    def submit(self, wanted: Wanted) -> SearchTicket:
        """Ask for a search; never waits."""
        ...

    def find(self, search_id: str) -> SearchTicket | None:
        """Return one of the last searches."""
        ...

    async def making(self, ticket: SearchTicket) -> Making:
        """Return how far the work is that a search found."""
        ...


class Jobs(Protocol):
    """The queue, for people; jobs are JSON objects. What is asked of a job that is gone is passed over."""

    @property
    def payload_most(self) -> int:
        """How many bytes a payload may have as JSON."""
        ...

    async def backup(self, file: str) -> int:
        """Write a consistent copy of the store into a file; its size in bytes."""
        ...

    async def page(
        self, queue: str | None, state: JobState | None, limit: int, before: str | None
    ) -> Sequence[dict[str, Any]]:
        """Return up to `limit` jobs, newest first, before the id `before`."""
        ...

    async def job(self, job_id: str, *, within_s: float = 0.0) -> dict[str, Any] | None:
        """Return one job whole, once it has ended or `within_s` have passed."""
        ...

    async def add(
        self, queue: str, jobs: Sequence[Mapping[str, Any]], *, priority: int, delay_s: float
    ) -> list[dict[str, Any]]:
        """Add jobs, all or none, each a `payload` and maybe a `key`; return the `id` and `existing` of each.

        `existing` is the state of the job that has the key already, None for a new one. ValueError where no worker
        takes them, QueueDraining in a drain.
        """
        ...

    async def cancel(self, ids: Sequence[str]) -> list[str]:
        """Remove waiting jobs, stop running ones; return those cancelled."""
        ...

    async def retry(self, ids: Sequence[str]) -> list[str]:
        """Make dead jobs ready; return those that were dead."""
        ...

    async def discard(self, ids: Sequence[str]) -> list[str]:
        """Remove jobs that do not run; return those removed."""
        ...

    async def dead(self, queue: str) -> list[str]:
        """Return the dead jobs of a queue."""
        ...

    async def pause(self, queue: str, *, paused: bool) -> bool:
        """Pause a queue or end its pause; False where there is no such queue."""
        ...


class Fleet(Protocol):
    """The processes that share a store. StoreUnavailable where the database is out."""

    async def reload(self, asked_by: str, timeout_s: float) -> dict[str, Any]:
        """Have every living node reload, or none; the verdict has a row for each."""
        ...

    async def drain(self, asked_by: str, names: Sequence[str], deadline_s: float | None) -> dict[str, Any]:
        """Ask these nodes to drain, without any all but this one; returns whom."""
        ...


class Control(Protocol):
    """One running process, as the admin application sees it. Nothing here blocks; documents are JSON values."""

    def submit_reload(
        self,
        trigger: Trigger,
        *,
        dry_run: bool = False,
        if_match: int | None = None,
        id: str | None = None,  # noqa: A002 - it is the report's key
    ) -> Ticket:
        """Ask for a reload; `id` is the one it should have where it is not shared.

        Refused by state is a report too: outcome `refused`, `errors[0].path` `phase` (draining) or `generation`
        (it is not `if_match`).
        """
        ...

    def submit_check(
        self,
        trigger: Trigger,
        name: str,
        raw: bytes,
        *,
        expands: bool = True,
        id: str | None = None,  # noqa: A002 - it is the report's key
    ) -> Ticket:
        """Ask what a reload would do with a file of these bytes in the configuration's place; a dry run.

        Its variables are those of this process; without `expands` they stay as they are written.
        """
        ...

    @property
    def instance(self) -> str:
        """Random id of this process."""
        ...

    @property
    def generation(self) -> int:
        """The generation in force."""
        ...

    @property
    def ready(self) -> bool:
        """True while new work is welcome; False from the first moment of a drain."""
        ...

    @property
    def draining(self) -> bool:
        """True from the request of a drain on."""
        ...

    @property
    def degraded(self) -> str | None:
        """Why the process runs on less than it was given, None where it does not."""
        ...

    @property
    def phase(self) -> Phase:
        """Where the process stands."""
        ...

    @property
    def jobs(self) -> Jobs | None:
        """The queue, None where this host keeps none that people may look into."""
        ...

    @property
    def searches(self) -> Searches | None:
        """What looks for missing work; None where nothing says what should exist."""
        ...

    @property
    def fleet(self) -> Fleet | None:
        """The other processes on the same store; None where the store is a file."""
        ...

    def status(self) -> dict[str, Any]:
        """Return the status document."""
        ...

    def config(self) -> dict[str, Any]:
        """Return effective settings (redacted), generation, fingerprint, provenance and pending restart."""
        ...

    def history(self) -> list[dict[str, Any]]:
        """Return the last reload reports, newest first."""
        ...

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of the configuration file."""
        ...

    def start_drain(self, reason: str, deadline_s: float | None = None) -> dict[str, Any]:
        """Start the drain, or join the one that runs; return its progress."""
        ...

    def admin_settings(self) -> AdminSettings:
        """Return the settings in force."""
        ...

    def subscribe(self) -> AbstractAsyncContextManager[MemoryObjectReceiveStream[dict[str, Any]]]:
        """Open a bounded stream of `{"event": "reload|drain|status", "data": {…}}`, closed when the drain has ended."""
        ...

    def metrics_text(self) -> bytes:
        """Return the metrics in Prometheus' text format 0.0.4."""
        ...
