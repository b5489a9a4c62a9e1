"""The first reading of a configuration: at the start of a process, or to check a file with nothing running."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from hotreload import logs
from hotreload.clock import now_ms
from hotreload.config.document import Document, parse
from hotreload.config.last_known_good import NAME, LastKnownGood
from hotreload.config.paths import anchored
from hotreload.config.secrets import Scrubber
from hotreload.config.settings import SECTION
from hotreload.config.sources import Beside
from hotreload.errors import ConfigError, Problem
from hotreload.reload.load import Inputs, Reader, with_lines
from hotreload.reload.report import Outcome, ReloadReport, Trigger, TriggerKind
from hotreload.reload.validate import Candidate, Source, build_candidate

log = logging.getLogger(__name__)


def first_candidate(source: Source[Any], inputs: Inputs) -> tuple[Candidate[Any], Document, str | None]:
    """Return the candidate of the file, or with `last_known_good` that of the file applied last, and why."""
    document: Document | None = None
    beside = inputs.beside
    try:
        document = inputs.document
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
        kept = parse(source.path, raw, dialect=source.dialect)
    except (FileNotFoundError, ValueError):  # what is wrong with a state folder is among the problems already
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
    """Return the first refusal, and below it why the copy of the last applied file does not help."""
    note = "the last-known-good file cannot be used either: "
    return type(refused)([*refused.problems, *(replace(each, file=NAME, message=note + each.message) for each in more)])


def _scrub_what_is_written(document: Document, source: Source[Any]) -> None:
    """Keep what a file holds out of all that is said before it is known to be valid."""
    known = Scrubber()
    known.learn_written(document.data, source.rule)
    logs.scrub_with(known.scrub)


def state_folder(config: Path, stated: object) -> Path:
    """Return the state folder: as stated, else `$STATE_DIRECTORY`, else `.hotreload` beside the file.

    ValueError where what is stated cannot be a path.
    """
    if isinstance(stated, (str, Path)):
        return anchored(str(stated), config.parent)
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return Path(given) / "hotreload" if given else config.parent / ".hotreload"


async def check(source: Source[Any]) -> ReloadReport:
    """Validate a file as a reload would, with nothing running to compare it with; nothing is started or kept."""
    problems: tuple[Problem, ...] = ()
    warnings: tuple[Problem, ...] = ()
    inputs = await Reader().settled(source.files(), dialect=source.dialect)
    try:
        warnings = build_candidate(inputs.document, source, inputs.beside).warnings
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
        errors=with_lines(problems, source.path.name, inputs.raw),
        warnings=warnings,
    )
