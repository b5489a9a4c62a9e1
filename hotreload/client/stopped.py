"""Add a job to the store of a service that is down."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, cast

from hotreload.config.document import parse
from hotreload.config.settings import SECTION, HotreloadSettings
from hotreload.host.start import STORE, open_store
from hotreload.queue.job import Enqueued
from hotreload.reload.first import state_folder
from hotreload.workers.kind import Kind

WORKERS: Final = "workers"
"""The document in which a running service keeps what its queues are."""


def add_to_stopped(
    config: Path, queue: str, payload: Any, *, key: str | None, priority: int, delay_s: float
) -> Enqueued:
    """Add a job of JSON to the store of the service whose ov.conf this is, durable on return.

    What ran when the service ended without a drain is put right first, as its next start would. The payload is checked
    against its type when the job runs. ConfigError where the file cannot be read, LookupError where the service has
    not run with it, ValueError where it has no worker for `queue`, StoreOwned while it runs.
    """
    own = _own_settings(config.absolute())
    folder = state_folder(config.absolute(), own.state_dir)
    if own.store is None and not (folder / STORE).exists():
        raise LookupError(f"no store in {folder}: the service has not run with this configuration")
    store = open_store(folder, own)
    store.payload_most = lambda: own.max_payload_bytes
    try:
        kept = store.documents_sync(WORKERS, 1)
        versions: dict[str, int] = kept[0].body if kept else {}
        if queue not in versions:
            raise ValueError(f"no worker serves the queue {queue!r}; there is {', '.join(sorted(versions)) or 'none'}")
        kind = Kind(queue, version=versions[queue])
        new = kind.new(payload, key=key, priority=priority, delay_s=delay_s, from_json=True)
        [added] = store.enqueue_sync([new]).jobs
        return added
    finally:
        store.close()


def _own_settings(config: Path) -> HotreloadSettings:
    section: object = parse(config, config.read_bytes()).data.get(SECTION)
    return HotreloadSettings(**cast("dict[str, Any]", section) if isinstance(section, dict) else {})
