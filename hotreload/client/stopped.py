"""The store of a service, as its configuration names it: add a job while it is down, look at it, migrate it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, cast

from hotreload.config.document import parse
from hotreload.config.settings import SECTION, HotreloadSettings, SettingsModel
from hotreload.errors import ConfigInvalid, ConfigUnreadable, Problem
from hotreload.host.start import STORE, open_store
from hotreload.queue.engines import inspect_store, migrate_store
from hotreload.queue.inspection import Inspection, Migrated
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
    own = own_settings(config.absolute())
    folder = state_folder(config.absolute(), own.state_dir)
    if own.store is None and not (folder / STORE).exists():
        raise LookupError(f"no store in {folder}: the service has not run with this configuration")
    store = open_store(folder, own)
    store.payload_most = lambda: own.max_payload_bytes
    try:
        kept = store.documents(WORKERS, 1)
        versions: dict[str, int] = kept[0].body if kept else {}
        if queue not in versions:
            raise ValueError(f"no worker serves the queue {queue!r}; there is {', '.join(sorted(versions)) or 'none'}")
        kind = Kind(queue, version=versions[queue])
        new = kind.new(payload, key=key, priority=priority, delay_s=delay_s, from_json=True)
        [added] = store.enqueue_sync([new]).jobs
        return added
    finally:
        store.close()


def inspect_configured(config: Path, *, check: bool) -> Inspection:
    """Look at the store that an ov.conf names and change nothing; see `hotreload.queue.engines.inspect_store`.

    ConfigError where the file cannot be used, LookupError where there is no store yet.
    """
    return inspect_store(*_place(config.absolute()), check=check)


def migrate_configured(config: Path) -> Migrated:
    """Bring the schema of the store that an ov.conf names up to date; see `hotreload.queue.engines.migrate_store`.

    ConfigError where the file cannot be used, LookupError where there is no store yet.
    """
    return migrate_store(*_place(config.absolute()))


def _place(config: Path) -> tuple[Path, str | None]:
    """Return the file of the store and the address of the database that is used instead of it."""
    own = own_settings(config)
    file = state_folder(config, own.state_dir) / STORE
    if own.store is None and not file.exists():
        raise LookupError(f"no store in {file.parent}: the service has not run with this configuration")
    return file, None if own.store is None else own.store.get_secret_value()


def own_settings(config: Path) -> HotreloadSettings:
    """Return the section `hotreload` of the file `config`, as the next start takes it: environment and credentials too.

    ConfigUnreadable and ConfigInvalid with every problem of the section; the rest of the file is not validated.
    """
    try:
        raw = config.read_bytes()
    except OSError as error:
        raise ConfigUnreadable([Problem("", f"{config} cannot be read: {error.strerror}")]) from None
    section: object = parse(config, raw).data.get(SECTION)
    model = SettingsModel(HotreloadSettings)
    merged = model.merge(cast("dict[str, Any]", section) if isinstance(section, dict) else {})
    if merged.errors:
        raise ConfigInvalid(merged.errors)
    return model.validate(merged.data, config.parent).settings
