"""From a configuration file to what a host needs: first snapshot, state folder, store; or why it cannot start."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from hotreload import logs
from hotreload.config.last_known_good import NAME, LastKnownGood
from hotreload.config.secrets import KEY_NAME, Redactor, load_key
from hotreload.config.settings import HotreloadSettings
from hotreload.config.store import SnapshotStore
from hotreload.errors import ConfigUnreadable, Problem
from hotreload.folder import open_own_folder, tighten
from hotreload.host.interrupted import NOTE, read_note, reconstruct
from hotreload.lifecycle import Lifecycle
from hotreload.queue.engines import Store, open_engine
from hotreload.reload.apply import Limits
from hotreload.reload.first import first_candidate, state_folder
from hotreload.reload.load import Reader
from hotreload.reload.reading import Version
from hotreload.reload.validate import Source, first_snapshot
from hotreload.systemd.notifier import Notifier
from hotreload.systemd.status import StartUp

log = logging.getLogger(__name__)
STORE = "hotreload.db"
KEPT = (STORE, NAME, NOTE, KEY_NAME, "progress.db")
"""How the names of the files begin that are kept in the state folder; others in it are not ours."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line says: paths, `http` as `HOST:PORT`, the name of the default control socket.

    `limits`, of the steps of a reload, is for callers in Python: no option of the command sets it.
    """

    config: Path | None = None
    http: str | None = None
    socket: Path | None = None
    name: str | None = None
    last_known_good: bool = False
    until_idle: bool = False
    log_format: logs.LogFormat = "text"
    log_level: str | None = None
    limits: Limits = field(default_factory=Limits)

    def own_settings(self) -> dict[str, Any]:
        """Return those that override the section `hotreload`, the highest of all sources."""
        stated = {"last_known_good": self.last_known_good or None, "log_level": self.log_level}
        return {name: value for name, value in stated.items() if value is not None}


@dataclass(slots=True)
class Started:
    """A process that may run: everything that can fail at the start did not.

    `degraded` says what it runs without, `seen` is what its files were when `reader` read them. `store` is None for a
    service that keeps no jobs: it runs in any number of processes.
    """

    name: str
    options: RunOptions
    source: Source[Any]
    snapshots: SnapshotStore[Any]
    store: Store | None
    state_dir: Path
    redactor: Redactor
    last_known_good: LastKnownGood
    warnings: tuple[Problem, ...] = ()
    degraded: str | None = None
    seen: Mapping[Path, Version] = field(default_factory=dict[Path, Version])
    reader: Reader = field(default_factory=Reader)
    start_up: StartUp = field(default_factory=lambda: StartUp(Notifier()))
    lifecycle: Lifecycle = field(default_factory=Lifecycle)

    async def close(self, *, crashed: bool = False) -> None:
        """Give the store back; with `crashed` the next start counts a crash for each running job."""
        self.start_up.end()
        self.reader.thread.close()
        if self.store is not None:
            await anyio.to_thread.run_sync(partial(self.store.close, crashed=crashed))


async def start(
    name: str, source: Source[Any], options: RunOptions, *, stored: bool = True, notifier: Notifier | None = None
) -> Started:
    """Load and validate the file, open the state folder and the store.

    ConfigError with every problem where the file cannot be used and no last-known-good is asked for or kept;
    StoreOwned and StoreUnavailable where the store cannot. Nothing was started then. The service manager is asked
    for time from here on, until the host is ready. Without `stored` no store is opened.
    """
    start_up = StartUp(notifier or Notifier())
    start_up.begin()
    reader = Reader()
    try:
        return await _start(name, source, options, start_up, reader, stored=stored)
    except Exception as error:
        reader.thread.close()
        start_up.failed(error)
        raise


async def _start(
    name: str, source: Source[Any], options: RunOptions, start_up: StartUp, reader: Reader, *, stored: bool
) -> Started:
    inputs = await reader.settled(source.files(), dialect=source.dialect)
    candidate, document, degraded = first_candidate(source, inputs)
    state_dir = state_folder(source.path, candidate.own.state_dir)
    _make_private(state_dir)
    redactor = Redactor(load_key(state_dir))
    redactor.remember(candidate.secrets, generation=1)
    logs.scrub_with(redactor.scrub)
    store = await anyio.to_thread.run_sync(open_store, state_dir, candidate.own) if stored else None
    keeper = LastKnownGood(state_dir, partial(reader.mode_of, source.path))
    if degraded is None:
        await anyio.to_thread.run_sync(keeper.keep, document.raw)
    return Started(
        name=options.name or name,
        options=options,
        source=source,
        snapshots=SnapshotStore(first_snapshot(candidate, redactor)),
        store=store,
        state_dir=state_dir,
        redactor=redactor,
        last_known_good=keeper,
        warnings=candidate.warnings,
        degraded=degraded,
        seen=inputs.versions,
        reader=reader,
        start_up=start_up,
    )


def open_store(state_dir: Path, own: HotreloadSettings) -> Store:
    """Own the store of a state folder, or the database that the settings name; put right what its last owner left."""
    address = None if own.store is None else own.store.get_secret_value()
    store = open_engine(
        state_dir / STORE, address, ttl_s=own.node_ttl_s, cut=read_note(state_dir), report_cut=reconstruct
    )
    (state_dir / NOTE).unlink(missing_ok=True)  # not before: the report it was for is in the store now
    return store


def _make_private(folder: Path) -> None:
    """Make the state folder, and our files in it private; ConfigUnreadable where others may write to it."""
    try:
        descriptor = open_own_folder(folder)
        try:
            tighten(descriptor, [name for name in os.listdir(descriptor) if name.startswith(KEPT)])
        finally:
            os.close(descriptor)
    except OSError as error:
        raise ConfigUnreadable([Problem("hotreload.state_dir", f"the state folder: {error.strerror}")]) from error
