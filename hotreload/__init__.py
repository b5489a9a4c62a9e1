"""Live reconfiguration, graceful drain and a durable queue for anyio services.

    trigger → load → validate → plan → apply → report            (reload: hotreload/reload/)
    request → quiesce → grace → interrupt → flush → report        (drain:  hotreload/drain/)

A service is declared with `Service` and run by `hotreload run MODULE:ATTR`; the same host carries stock
OpenViking (`hotreload openviking`). Names are loaded when first used, so that the command can install its
SIGHUP handler before any third-party import.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hotreload.client.client import AsyncClient, Client, backup
    from hotreload.config.fields import Effect, Live, Mark, Public, Refused, Restart, Secret
    from hotreload.config.settings import LiveSettings
    from hotreload.errors import (
        ConfigError,
        ConfigInvalid,
        ConfigUnreadable,
        ControlSocketUnsafe,
        DeclarationError,
        Discard,
        HotreloadError,
        JobCancelled,
        JobFailed,
        LeaseLost,
        PayloadTooLarge,
        Problem,
        QueueDraining,
        QueueError,
        Retry,
        ServiceMisnamed,
        ServiceUnreachable,
        StoreLost,
        StoreOwned,
        StoreUnavailable,
    )
    from hotreload.queue.job import Backoff, Enqueued, JobState
    from hotreload.recovery.scan import Missing, PassedOver, Present
    from hotreload.reload.apply import Prepared, Reloadable, Transition
    from hotreload.service.declaration import Service
    from hotreload.service.handle import Worker
    from hotreload.workers.deaths import DeadJob
    from hotreload.workers.job import Job, SyncJob

_HOME = {
    "AsyncClient": "client.client",
    "Backoff": "queue.job",
    "Client": "client.client",
    "ConfigError": "errors",
    "ConfigInvalid": "errors",
    "ConfigUnreadable": "errors",
    "ControlSocketUnsafe": "errors",
    "DeadJob": "workers.deaths",
    "DeclarationError": "errors",
    "Discard": "errors",
    "Effect": "config.fields",
    "Enqueued": "queue.job",
    "HotreloadError": "errors",
    "Job": "workers.job",
    "JobCancelled": "errors",
    "JobFailed": "errors",
    "JobState": "queue.job",
    "LeaseLost": "errors",
    "Live": "config.fields",
    "LiveSettings": "config.settings",
    "Mark": "config.fields",
    "Missing": "recovery.scan",
    "PassedOver": "recovery.scan",
    "PayloadTooLarge": "errors",
    "Prepared": "reload.apply",
    "Present": "recovery.scan",
    "Problem": "errors",
    "Public": "config.fields",
    "QueueDraining": "errors",
    "QueueError": "errors",
    "Refused": "config.fields",
    "Reloadable": "reload.apply",
    "Restart": "config.fields",
    "Retry": "errors",
    "Secret": "config.fields",
    "Service": "service.declaration",
    "ServiceMisnamed": "errors",
    "ServiceUnreachable": "errors",
    "StoreLost": "errors",
    "StoreOwned": "errors",
    "StoreUnavailable": "errors",
    "SyncJob": "workers.job",
    "Transition": "reload.apply",
    "Worker": "service.handle",
    "backup": "client.client",
}

__all__ = [
    "AsyncClient",
    "Backoff",
    "Client",
    "ConfigError",
    "ConfigInvalid",
    "ConfigUnreadable",
    "ControlSocketUnsafe",
    "DeadJob",
    "DeclarationError",
    "Discard",
    "Effect",
    "Enqueued",
    "HotreloadError",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobState",
    "LeaseLost",
    "Live",
    "LiveSettings",
    "Mark",
    "Missing",
    "PassedOver",
    "PayloadTooLarge",
    "Prepared",
    "Present",
    "Problem",
    "Public",
    "QueueDraining",
    "QueueError",
    "Refused",
    "Reloadable",
    "Restart",
    "Retry",
    "Secret",
    "Service",
    "ServiceMisnamed",
    "ServiceUnreachable",
    "StoreLost",
    "StoreOwned",
    "StoreUnavailable",
    "SyncJob",
    "Transition",
    "Worker",
    "backup",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
