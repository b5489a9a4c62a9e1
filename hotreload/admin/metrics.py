"""The metrics of one process, in a registry of its own.

What happened is counted when it happens; what is (pools, queues, phase) is read from the status document when
it is scraped, so a series that has ended is simply no longer there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from hotreload.clock import now_ms
from hotreload.lifecycle import ORDER, Phase
from hotreload.reload.report import Outcome, ReloadReport, TriggerKind
from hotreload.workers.active import JobEnd

_GOOD: Final = frozenset({Outcome.APPLIED, Outcome.UNCHANGED})
_BAD: Final = frozenset({Outcome.REJECTED, Outcome.ROLLED_BACK})
_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)
_JOB_BUCKETS: Final = (0.001, 0.01, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0)
_ATTEMPTS: Final = (1, 2, 3, 5, 10, 25)
_RECOVERY: Final = {
    "scanned": "were looked at",
    "queued": "were missing and queued",
    "already_queued": "were missing and queued already",
    "passed_over": "could not be looked at",
}
_DRAIN_OUTCOMES: Final = ("finished", "requeued", "checkpointed", "abandoned")
_QUEUE_STATES: Final = ("ready", "scheduled", "running", "dead")


class Metrics:
    """Counts what the host tells; `status` gives the status document at scrape time.

    Beyond its promised keys the document may have `jobs_on_generation`, generations mapped to running jobs.
    `loaded` is False where the process started on something else than its configuration file.
    """

    def __init__(self, status: Callable[[], Mapping[str, Any]], *, loaded: bool = True) -> None:
        self._registry = registry = _Registry()
        self._successful = Gauge(
            "hotreload_config_last_reload_successful",
            "1 if the last reload, or the start, took the configuration file",
            registry=registry,
        )
        self._success_at = Gauge(
            "hotreload_config_last_reload_success_timestamp_seconds",
            "When the configuration file was last taken",
            registry=registry,
        )
        self._reloads = Counter(
            "hotreload_config_reloads",
            "Reloads by verdict, dry runs left out",
            ("trigger", "outcome"),
            registry=registry,
        )
        self._duration = Histogram(
            "hotreload_config_reload_duration_seconds",
            "Time a reload took, by stage and in total",
            ("phase",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._jobs = Counter("hotreload_jobs", "Jobs ended, by verdict", ("queue", "outcome"), registry=registry)
        self._ran = Histogram(
            "hotreload_job_duration_seconds",
            "Time a job ran, from its first line to its end",
            ("queue", "outcome"),
            buckets=_JOB_BUCKETS,
            registry=registry,
        )
        self._waited = Histogram(
            "hotreload_job_wait_seconds",
            "Time a job waited from when it was due to its first line",
            ("queue",),
            buckets=_JOB_BUCKETS,
            registry=registry,
        )
        self._attempts = Histogram(
            "hotreload_job_attempts",
            "Attempts a job had taken when it was done or dead",
            ("queue",),
            buckets=_ATTEMPTS,
            registry=registry,
        )
        for kind in TriggerKind:
            for outcome in sorted(_GOOD | _BAD):
                self._reloads.labels(kind.value, outcome.value)
        self._loaded(loaded)
        registry.register(_StatusCollector(status))

    def observe_reload(self, report: ReloadReport) -> None:
        """Count a reload that ended; a dry run counts nowhere, a refused one says nothing of the file."""
        if report.dry_run:
            return
        self._reloads.labels(report.trigger.kind.value, report.outcome.value).inc()
        for stage, ms in report.timings_ms.items():
            self._duration.labels(stage).observe(ms / 1000)
        if report.outcome in _GOOD | _BAD:
            self._loaded(report.outcome in _GOOD)

    def observe_job(self, queue: str, outcome: str, count: int = 1) -> None:
        """Count ends of jobs: `done`, `failed`, `dead` (for good), `interrupted`, `crashed`, `fenced`.

        What ended with the process before this one is counted at the start of this one.
        """
        self._jobs.labels(queue, outcome).inc(count)

    def observe_end(self, end: JobEnd) -> None:
        """Count the end of a run: how long it took and its job had waited, and the attempts of one that is over."""
        self.observe_job(end.queue, end.outcome)
        if end.ran_s is not None:
            self._ran.labels(end.queue, end.outcome).observe(end.ran_s)
        if end.waited_s is not None:
            self._waited.labels(end.queue).observe(end.waited_s)
        if end.attempt is not None and end.outcome in ("done", "dead"):
            self._attempts.labels(end.queue).observe(end.attempt)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)

    def _loaded(self, good: bool) -> None:
        self._successful.set(int(good))
        if good:
            self._success_at.set(now_ms() / 1000)


class _Registry(CollectorRegistry):
    """A registry without the `_created` series that prometheus_client adds to each counter and histogram."""

    def collect(self) -> Iterator[Metric]:
        """Yield one family after the other."""
        for family in super().collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


class _StatusCollector(Collector):
    """Turns the status document into gauges at each scrape."""

    def __init__(self, status: Callable[[], Mapping[str, Any]]) -> None:
        self._status = status

    def describe(self) -> Sequence[Metric]:
        """Keep the registry from scraping at registration, when there is no status yet."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield one family after the other."""
        status = self._status()
        yield from _config(status)
        yield from _work(status)
        yield from _endpoints(status)
        yield from _recovery(status)
        yield from _drain(status)
        yield from _last_drain(status)


def _config(status: Mapping[str, Any]) -> Iterator[Metric]:
    watch = _part(status, "watch")
    yield _gauge("hotreload_config_generation", "The generation in force", status.get("generation", 0))
    yield _labelled(
        "hotreload_config_hash_info",
        "Keyed fingerprint of the settings in force",
        "hash",
        {status.get("fingerprint", ""): 1},
    )
    yield _gauge(
        "hotreload_config_pending_restart_fields",
        "Fields whose value on disk waits for a restart",
        len(status.get("pending_restart") or ()),
    )
    yield _gauge("hotreload_config_degraded", "1 while running on less than was given", bool(status.get("degraded")))
    yield _gauge(
        "hotreload_config_watch_healthy", "1 while changes of the file are seen at once", bool(watch.get("healthy"))
    )
    overflows = CounterMetricFamily("hotreload_config_watch_overflows", "Times the kernel dropped file events")
    overflows.add_metric([], float(watch.get("overflows") or 0))
    yield overflows
    running = _part(status, "jobs_on_generation")
    yield _labelled(
        "hotreload_config_jobs_on_generation",
        "Running jobs by the generation they read",
        "generation",
        {str(generation): jobs for generation, jobs in running.items() if jobs},
    )


def _work(status: Mapping[str, Any]) -> Iterator[Metric]:
    pools = status.get("pools") or ()
    yield _labelled("hotreload_pool_limit", "Jobs a pool may run", "pool", {p["name"]: p["limit"] for p in pools})
    yield _labelled("hotreload_pool_running", "Jobs a pool runs", "pool", {p["name"]: p["running"] for p in pools})
    jobs = GaugeMetricFamily("hotreload_queue_jobs", "Jobs in a queue, by state", labels=("queue", "state"))
    for queue in status.get("queues") or ():
        for state in _QUEUE_STATES:
            jobs.add_metric((queue["name"], state), float(queue[state]))
    yield jobs


def _endpoints(status: Mapping[str, Any]) -> Iterator[Metric]:
    """Tell of the endpoints that jobs call, where the host knows them."""
    endpoints = status.get("endpoints") or ()
    if not endpoints:
        return
    for key, what in (("up", "1 while it answers"), ("held", "Calls that wait for it")):
        values = {each["name"]: each[key] for each in endpoints}
        yield _labelled(f"hotreload_endpoint_{key}", what, "endpoint", values)
    refused = CounterMetricFamily("hotreload_endpoint_refused", "Calls refused for their content", labels=("endpoint",))
    for each in endpoints:
        refused.add_metric((each["name"],), float(each["refused"]))
    yield refused


def _recovery(status: Mapping[str, Any]) -> Iterator[Metric]:
    """Tell of the newest search for missing work that is not a dry run; nothing before the first."""
    if "given_up" in status:
        what = "Entries that could not be made and wait to be tried again"
        yield _gauge("hotreload_recovery_given_up", what, len(status["given_up"]))
    last = next((found for found in status.get("recovery") or () if not found["dry_run"]), None)
    if last is None:
        return
    yield _gauge("hotreload_recovery_running", "1 while a search for missing work runs", not last["ended"])
    yield _gauge("hotreload_recovery_failed", "1 if the last search did not come to its end", last["error"] is not None)
    for key, what in _RECOVERY.items():
        yield _gauge(f"hotreload_recovery_{key}", f"Entries of the last search that {what}", last[key])
    yield _labelled(
        "hotreload_recovery_missing", "Entries of the last search that were missing", "reason", last["reasons"]
    )


def _drain(status: Mapping[str, Any]) -> Iterator[Metric]:
    drain = _part(status, "drain")
    phase = ORDER.index(Phase(status.get("phase", Phase.STARTING)))
    yield _gauge(
        "hotreload_drain_phase",
        "0 not draining, 1 quiescing, 2 grace, 3 interrupting, 4 flushing, 5 stopped",
        max(0, phase - ORDER.index(Phase.RUNNING)),
    )
    yield _gauge("hotreload_drain_remaining_jobs", "Jobs a drain still waits for", len(drain.get("remaining") or ()))
    yield _gauge(
        "hotreload_drain_deadline_seconds", "The deadline of the drain, 0 without one", drain.get("deadline_s") or 0
    )


def _last_drain(status: Mapping[str, Any]) -> Iterator[Metric]:
    """Tell of the last drain that ended, this process' or an earlier one's; nothing before the first."""
    last = _part(status, "last_drain")
    if not last:
        return
    yield _gauge("hotreload_last_drain_duration_seconds", "Time the last drain took", last.get("elapsed_s") or 0)
    yield _labelled(
        "hotreload_last_drain_jobs",
        "Jobs of the last drain by what became of them; a requeued one may be checkpointed as well",
        "outcome",
        {outcome: len(last.get(outcome) or ()) for outcome in _DRAIN_OUTCOMES},
    )
    yield _gauge("hotreload_last_drain_lost_jobs", "Jobs that the last drain lost; must be 0", last.get("lost") or 0)
    cut = bool(last.get("reconstructed") or last.get("forced") or last.get("abandoned"))
    yield _gauge("hotreload_last_drain_cut", "1 if the last drain was killed, or left code that did not stop", cut)


def _part(status: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return an object of the status document, {} where it is null or absent."""
    return status.get(key) or {}


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value=float(value))


def _labelled(name: str, documentation: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=(label,))
    for value, number in values.items():
        family.add_metric((value,), float(number))
    return family
