"""From a configuration file to what a host needs: first snapshot, state folder, store; or why it cannot start."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio

from hotreload.clock import now_ms
from hotreload.config.document import Document, parse
from hotreload.config.redact import Redactor, load_key
from hotreload.config.scrubbing import Scrubber
from hotreload.config.settings import SECTION
from hotreload.config.sources import Beside
from hotreload.config.store import SnapshotStore
from hotreload.errors import ConfigError, ConfigUnreadable, Problem
from hotreload.host import logs
from hotreload.host.cut import NOTE, read_note, reconstruct
from hotreload.host.last_known_good import NAME, LastKnownGood
from hotreload.host.voice import StartUp
from hotreload.lifecycle import Lifecycle
from hotreload.queue.sqlite import SqliteQueue
from hotreload.reload.beside import contents, load_beside
from hotreload.reload.load import load
from hotreload.reload.report import Outcome, ReloadReport, Trigger, TriggerKind
from hotreload.reload.route import Versions, survey
from hotreload.reload.validate import Candidate, Source, build_candidate, first_snapshot
from hotreload.systemd.notifier import Notifier

log = logging.getLogger(__name__)
STORE = "hotreload.db"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line says: paths, `http` as `HOST:PORT`, the name of the default control socket."""

    config: Path | None = None
    http: str | None = None
    socket: Path | None = None
    name: str | None = None
    last_known_good: bool = False
    until_idle: bool = False

    def own_settings(self) -> dict[str, Any]:
        """Return those that override the section `hotreload`, the highest of all sources."""
        return {"last_known_good": True} if self.last_known_good else {}


@dataclass(slots=True)
class Started:
    """A process that may run: everything that can fail at the start did not.

    `degraded` says what it runs without, `seen` is what its files were before they were read.
    """

    name: str
    options: RunOptions
    source: Source[Any]
    snapshots: SnapshotStore[Any]
    store: SqliteQueue
    state_dir: Path
    redactor: Redactor
    last_known_good: LastKnownGood
    warnings: tuple[Problem, ...] = ()
    degraded: str | None = None
    seen: Versions = field(default_factory=dict[Path, tuple[object, ...]])
    start_up: StartUp = field(default_factory=lambda: StartUp(Notifier()))
    lifecycle: Lifecycle = field(default_factory=Lifecycle)


async def start(name: str, source: Source[Any], options: RunOptions) -> Started:
    """Load and validate the file, open the state folder and the store.

    ConfigError with every problem where the file cannot be used and no last-known-good is asked for or kept;
    StoreOwned and StoreUnavailable where the store cannot. Nothing was started then. The service manager is asked
    for time from here on, until the host is ready.
    """
    start_up = StartUp(Notifier())
    start_up.begin()
    try:
        return await _start(name, source, options, start_up)
    except Exception as error:
        start_up.failed(error)
        raise


async def _start(name: str, source: Source[Any], options: RunOptions, start_up: StartUp) -> Started:
    seen = (await anyio.to_thread.run_sync(survey, source.files())).versions
    candidate, document, degraded = await _first_candidate(source)
    state_dir = state_folder(source.path, candidate.own.state_dir)
    _make_private(state_dir)
    redactor = Redactor(load_key(state_dir))
    redactor.learn(candidate.leaves, source.rule, generation=1)
    logs.scrub_with(redactor.scrub)
    note = read_note(state_dir)
    store = await anyio.to_thread.run_sync(
        partial(SqliteQueue.open, state_dir / STORE, cut=note, report_cut=reconstruct)
    )
    (state_dir / NOTE).unlink(missing_ok=True)  # not before: the report it was for is in the store now
    keeper = LastKnownGood(state_dir, source.path)
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
        seen=seen,
        start_up=start_up,
    )


async def _first_candidate(source: Source[Any]) -> tuple[Candidate[Any], Document, str | None]:
    """Return the candidate of the file, or with `last_known_good` that of the file applied last, and why."""
    document: Document | None = None
    beside = contents(await load_beside(source.files_beside()))
    try:
        document = await load(source.path, duplicates=source.duplicates)
        _scrub_what_is_written(document, source)
        return build_candidate(document, source, beside), document, None
    except ConfigError as error:
        refused = error
    kept = _last_known_good(source, document, beside, refused)
    _scrub_what_is_written(kept, source)
    try:
        candidate = build_candidate(kept, source, beside)
    except ConfigError as error:
        raise _beside(refused, error.problems) from None
    log.error("start.config_refused the last-known-good is used instead\n%s", refused)
    return candidate, kept, f"runs on the last-known-good file: {refused.problems[0]}"


def _last_known_good(source: Source[Any], document: Document | None, beside: Beside, refused: ConfigError) -> Document:
    """Return the file applied last where it is asked for; raises `refused` where not, or where there is none.

    Asked are the sources in their order; where nothing can be read of the broken file, the kept one instead of it.
    """
    own = source.own_model.merge(_own_section(document), beside).data
    asked = own.get("last_known_good", None if document is None else False)
    if asked not in (True, None):
        raise refused
    try:
        raw = LastKnownGood(state_folder(source.path, own.get("state_dir"))).read()
        kept = parse(source.path, raw, duplicates=source.duplicates)
    except FileNotFoundError:
        raise refused from None
    except OSError as error:
        raise _beside(refused, [Problem("", f"cannot be read: {error.strerror}")]) from None
    except ConfigError as error:
        raise _beside(refused, error.problems) from None
    if asked is None and _own_section(kept).get("last_known_good") is not True:
        raise refused
    return kept


def _own_section(document: Document | None) -> dict[str, Any]:
    section: object = document.data.get(SECTION) if document else None
    return cast("dict[str, Any]", section) if isinstance(section, dict) else {}


def _beside(refused: ConfigError, more: Sequence[Problem]) -> ConfigError:
    """Return the first refusal, and below it why the copy of the last applied file is no help."""
    note = "the last-known-good file cannot be used either: "
    return type(refused)([*refused.problems, *(replace(each, file=NAME, message=note + each.message) for each in more)])


def _scrub_what_is_written(document: Document, source: Source[Any]) -> None:
    """Keep what a file holds out of all that is said before it is known to be valid."""
    known = Scrubber()
    known.learn_written(document.data, source.rule)
    logs.scrub_with(known.scrub)


def state_folder(config: Path, stated: object) -> Path:
    """Return the state folder: as stated, else `$STATE_DIRECTORY`, else `.hotreload` beside the file."""
    if isinstance(stated, (str, Path)):
        return config.parent / Path(stated).expanduser()
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(given) / "hotreload" if given else config.parent / ".hotreload"


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        reason = f"the state folder {folder} cannot be made: {error.strerror}"
        raise ConfigUnreadable([Problem("hotreload.state_dir", reason, hint="name one this user may write")]) from error


async def check(source: Source[Any]) -> ReloadReport:
    """Validate a file as a reload would, with nothing running to compare it with; nothing is started or kept."""
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    beside = contents(await load_beside(source.files_beside()))
    try:
        warnings = build_candidate(await load(source.path, duplicates=source.duplicates), source, beside).warnings
    except ConfigError as error:
        problems = error.problems
    return ReloadReport(
        id=uuid.uuid4().hex,
        outcome=Outcome.REJECTED if problems else Outcome.VALID,
        dry_run=True,
        trigger=Trigger(TriggerKind.CLI, f"pid {os.getpid()} uid {os.getuid()}", now_ms()),
        generation=0,
        previous_generation=0,
        fingerprint="",
        errors=problems,
        warnings=warnings,
    )
