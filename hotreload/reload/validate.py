"""Stage 2: a document becomes a candidate, or every problem in it is named.

The flow knows no settings library: it asks a `ConfigModel`. Our own services answer with pydantic-settings
(`hotreload.config.settings`), stock OpenViking with its own classes. The section `hotreload` is taken out
before the target's model sees the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

from hotreload.config.document import Document, Duplicates, place_order
from hotreload.config.fields import FieldRule
from hotreload.config.masking import mask_text
from hotreload.config.model import Merged, Validated
from hotreload.config.redact import Redactor
from hotreload.config.settings import SECTION, HotreloadSettings, SettingsModel
from hotreload.config.sources import Beside, variable
from hotreload.config.store import Snapshot
from hotreload.errors import ConfigInvalid, Problem
from hotreload.reload.plan import Owner, Plan, make_plan, nobody, pin, same, with_values

S = TypeVar("S")
T = TypeVar("T")
S_co = TypeVar("S_co", covariant=True)


class ConfigModel(Protocol[S_co]):
    """What a configuration file is validated against.

    `validate` must not publish, start or change anything: it runs for a dry run too, and again for the
    tree in which fields that need a restart have their running value.
    """

    def rule(self, path: str) -> FieldRule:
        """Return the rule of one leaf; an unknown path needs a restart."""
        ...

    def merge(self, file_data: Mapping[str, Any], beside: Beside | None = None) -> Merged:
        """Lay the other sources (environment, credentials, options) over what the file says; never raise.

        `beside` is what the other files hold; None: they are read now.
        """
        ...

    def validate(self, data: Mapping[str, Any], folder: Path) -> Validated[S_co]:
        """Build settings from a merged tree; ConfigInvalid with all problems (paths set, places not).

        `folder` is the file's: relative paths start there, where the model has such a rule.
        """
        ...


@dataclass(frozen=True, slots=True)
class Source(Generic[S_co]):
    """Where a process's configuration comes from, the same at the start and at each reload.

    `own_options` are of the section `hotreload`; `more_files` is what the model reads beside the file (credentials).
    """

    path: Path
    model: ConfigModel[S_co]
    duplicates: Duplicates = "error"
    own_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    more_files: Callable[[], Sequence[Path]] = tuple

    own_model: SettingsModel[HotreloadSettings] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "own_model", SettingsModel(HotreloadSettings, options=self.own_options))

    def files(self) -> list[Path]:
        """Return every file that counts, `path` first, whether it exists or not; a change of any is a trigger."""
        return list(dict.fromkeys([self.path, *self.more_files(), *self.own_model.credential_files()]))

    def files_beside(self) -> list[Path]:
        """Return what counts but `path`."""
        return self.files()[1:]

    def rule(self, path: str) -> FieldRule:
        """Return the rule of a leaf of the target's or of our own section."""
        return (self.own_model if _is_own(path) else self.model).rule(path)


@dataclass(frozen=True, slots=True)
class Candidate(Generic[S_co]):
    """A validated configuration that nobody runs yet: the target's settings and our own section.

    `merged` and `leaves` hold both, ours under `hotreload`; `warnings` have their places.
    """

    document: Document
    merged: Merged
    target: Validated[S_co]
    own: HotreloadSettings
    leaves: Mapping[str, object] = field(repr=False)
    warnings: tuple[Problem, ...] = ()


def build_candidate(document: Document, source: Source[S], beside: Beside | None = None) -> Candidate[S]:
    """Merge the sources and validate all of the file; ConfigInvalid with every problem and its place.

    `beside` is what the source's other files hold; None: they are read now.
    """
    target_data, own_data = _split(document.data)
    own = source.own_model.merge(cast("dict[str, Any]", own_data) if isinstance(own_data, dict) else {}, beside)
    merged = _joined(source.model.merge(target_data, beside), own)
    if not isinstance(own_data, dict):
        wrong = _placed_value(document, merged, Problem(SECTION, "must be an object"))
        merged = replace(merged, errors=[*merged.errors, wrong])
    return _validated(document, source, merged)


def first_snapshot(candidate: Candidate[S], redactor: Redactor) -> Snapshot[S]:
    """Return the snapshot a process starts with, generation 1."""
    return _snapshot(candidate, 1, redactor)


def plan_for(
    candidate: Candidate[Any],
    running: Snapshot[Any],
    source: Source[Any],
    redactor: Redactor,
    owner: Owner = nobody,
) -> Plan:
    """Return the plan of a candidate against the running snapshot; refused fields have their places."""
    plan = make_plan(running.leaves, candidate.leaves, source.rule, redactor.show, owner)
    return replace(
        plan, refused=tuple(_placed_value(candidate.document, candidate.merged, each) for each in plan.refused)
    )


def pinned_snapshot(
    candidate: Candidate[S], running: Snapshot[S], plan: Plan, source: Source[S], redactor: Redactor
) -> Snapshot[S]:
    """Return the snapshot a plan leads to: the candidate, with its restart fields as they run now.

    ConfigInvalid for a plan with refused fields, and where the mixture is not valid (a rule across fields
    that only the restart can keep).
    """
    if plan.refused:
        raise ConfigInvalid(plan.refused)
    if plan.pinned:
        candidate = _pinned(candidate, running, plan.pinned, source)
    return _snapshot(candidate, running.generation + 1, redactor)


def _pinned(candidate: Candidate[S], running: Snapshot[S], paths: Sequence[str], source: Source[S]) -> Candidate[S]:
    kept = {path: origin for path, origin in candidate.merged.provenance.items() if not _below(path, paths)}
    kept.update({path: origin for path, origin in running.provenance.items() if _below(path, paths)})
    merged = Merged(pin(candidate.merged.data, running.data, paths), kept)
    try:
        pinned = _validated(candidate.document, source, merged)
        moved = [path for path in paths if not _same_below(path, pinned.leaves, running.leaves)]
        if not moved:
            return pinned
        # a default of the whole section ran, and its fields have others: the running values are given themselves
        values = {path: value for path, value in running.leaves.items() if _below(path, moved)}
        return _validated(candidate.document, source, replace(merged, data=with_values(merged.data, values)))
    except ConfigInvalid as error:
        hint = f"it needs a restart together with {', '.join(paths)}, which keep their running value until then"
        problems = [replace(problem, hint=hint) for problem in error.problems]
    raise ConfigInvalid(problems)


def _same_below(top: str, one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    left, right = ({path: value for path, value in leaves.items() if _below(path, [top])} for leaves in (one, other))
    return same(left, right)


def _validated(document: Document, source: Source[S], merged: Merged) -> Candidate[S]:
    target_data, own_data = _split(merged.data)
    found: list[Problem] = []
    folder = document.path.parent
    target = _attempt(lambda: source.model.validate(target_data, folder), found)
    own = _attempt(lambda: source.own_model.validate(own_data, folder), found)
    if target is None or own is None or merged.errors:
        known = {error.path for error in merged.errors}
        placed = [_placed_value(document, merged, problem) for problem in found if problem.path not in known]
        raise ConfigInvalid(sorted([*merged.errors, *placed], key=place_order))
    keys = [*target.warnings, *own.warnings]
    warnings = [*document.warnings, *merged.warnings, *(_placed_key(document, warning) for warning in keys)]
    leaves = {**target.leaves, **own.leaves}
    return Candidate(document, merged, target, own.settings, leaves, tuple(sorted(warnings, key=place_order)))


def _attempt(step: Callable[[], T], problems: list[Problem]) -> T | None:
    """Return what a step returns, or None and its problems in the list: all of a file is looked at."""
    try:
        return step()
    except ConfigInvalid as error:
        problems.extend(error.problems)
        return None


def _snapshot(candidate: Candidate[S], generation: int, redactor: Redactor) -> Snapshot[S]:
    return Snapshot(
        settings=candidate.target.settings,
        own=candidate.own,
        generation=generation,
        fingerprint=redactor.fingerprint(candidate.leaves),
        data=candidate.merged.data,
        leaves=candidate.leaves,
        provenance=candidate.merged.provenance,
    )


def _split(data: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    return {key: value for key, value in data.items() if key != SECTION}, data.get(SECTION, {})


def _joined(target: Merged, own: Merged) -> Merged:
    data = {**target.data, **({SECTION: own.data} if own.data else {})}
    return Merged(
        data, {**target.provenance, **own.provenance}, (*target.warnings, *own.warnings), (*target.errors, *own.errors)
    )


def _placed_value(document: Document, merged: Merged, problem: Problem) -> Problem:
    if problem.file is not None:
        return problem
    origin, path = _provenance(merged.provenance, problem.path)
    if origin != "file":
        return replace(problem, message=f"{problem.message} ({_origin(origin, path)})")
    loc = document.loc_of(problem.path)
    placed = problem.at(document.name, *document.locate(loc))
    written = document.written(loc) if problem.input is not None else None
    if written is None:
        return placed
    # a variable stands in it: shown as written, for nobody knows whether its value is secret
    return replace(placed, input=None if written[0] in "{[" else mask_text(written))


def _provenance(provenance: Mapping[str, str], path: str) -> tuple[str, str]:
    """Return where a value came from and the leaf it lies in."""
    parts = path.split(".")
    tops = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    return next(((provenance[top], top) for top in tops if top in provenance), ("file", path))


def _origin(origin: str, path: str) -> str:
    if origin == "environment":
        return f"from the environment variable {variable('', path.split('.'))}"
    return f"from the credential file {path}" if origin == "credential" else "from an option of the command line"


def _placed_key(document: Document, warning: Problem) -> Problem:
    place = document.locate_key(document.loc_of(warning.path))
    return warning.at(document.name, *place) if place else warning


def _is_own(path: str) -> bool:
    return path == SECTION or path.startswith(f"{SECTION}.")


def _below(path: str, tops: Sequence[str]) -> bool:
    return any(path == top or path.startswith(f"{top}.") for top in tops)
