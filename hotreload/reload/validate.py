"""Stage 2: a document becomes a candidate, or every problem in it is named.

The flow knows no settings library: it asks a `ConfigModel`. Our own services answer with pydantic-settings
(`hotreload.config.settings`), stock OpenViking with its own classes. The section `hotreload` is taken out
before the target's model sees the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

from hotreload.config.document import Dialect, Document, Keys, dotted, place_order
from hotreload.config.fields import Effect, FieldRule, Node
from hotreload.config.model import Merged, Origin, Validated, origin_of
from hotreload.config.secrets import Redactor, find_secrets, mask_text
from hotreload.config.settings import SECTION, HotreloadSettings, SettingsModel
from hotreload.config.sources import Beside
from hotreload.config.store import Snapshot
from hotreload.config.trees import ABSENT, assign, copied, find, locate, pin
from hotreload.errors import ConfigInvalid, Problem
from hotreload.reload.plan import Difference, Owner, Plan, differences, is_below, joined, make_plan, no_owner

S = TypeVar("S")
T = TypeVar("T")
S_co = TypeVar("S_co", covariant=True)


class ConfigModel(Protocol[S_co]):
    """What a configuration file is validated against.

    `validate` must not publish, start or change anything: it runs for a dry run too, and again for the
    tree in which fields that need a restart have their running value.
    """

    @property
    def tree(self) -> Node | None:
        """The places of the model, where aliases say that the input has other keys than its paths; None: it has not."""
        ...

    def rule(self, path: Keys) -> FieldRule:
        """Return the rule of one path; an unknown one needs a restart."""
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
    dialect: Dialect = "own"
    own_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    more_files: Callable[[], Sequence[Path]] = tuple

    own_model: SettingsModel[HotreloadSettings] = field(init=False, repr=False)
    made: Sequence[Node] = field(init=False, repr=False)
    """The places whose default a factory makes."""
    tree: Node = field(init=False, repr=False)
    """The places of the whole file."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "own_model", SettingsModel(HotreloadSettings, options=self.own_options))
        fields = {} if self.model.tree is None else self.model.tree.fields
        own = replace(self.own_model.tree, names=(SECTION,), places=((SECTION,),))
        object.__setattr__(self, "tree", Node((), FieldRule(()), fields={**fields, SECTION: own}))
        object.__setattr__(self, "made", [node for node in self.tree.walk() if node.made])

    def files(self) -> list[Path]:
        """Return every file that counts, `path` first, whether it exists or not; a change of any is a trigger."""
        return list(dict.fromkeys([self.path, *self.more_files(), *self.own_model.credential_files()]))

    def files_beside(self) -> list[Path]:
        """Return what counts but `path`."""
        return self.files()[1:]

    def rule(self, path: Keys) -> FieldRule:
        """Return the rule of a path of the target's or of our own section."""
        return (self.own_model if path[:1] == (SECTION,) else self.model).rule(path)

    def differences(self, one: Mapping[Keys, object], other: Mapping[Keys, object]) -> list[Difference]:
        """Compare two configurations; a foreign model says nothing where a value is null."""
        return differences(one, other, missing=None if self.model.tree is None else ABSENT)

    def origin(self, snapshot: Snapshot[Any], path: Keys) -> str:
        """Return where a leaf of a snapshot has its value from: `file`, `default`, or the kind of another source."""
        if origin := origin_of(snapshot.provenance, path):
            return origin.source
        return "default" if find(snapshot.data, self.tree, path) is ABSENT else "file"


@dataclass(frozen=True, slots=True)
class Candidate(Generic[S_co]):
    """A validated configuration that is not in force yet: the target's settings and our own section.

    `merged` and `leaves` hold both, ours under `hotreload`; `warnings` have their places; `secrets` must not be shown.
    """

    document: Document
    merged: Merged
    target: Validated[S_co]
    own: HotreloadSettings
    leaves: Mapping[Keys, object] = field(repr=False)
    warnings: tuple[Problem, ...] = ()
    secrets: frozenset[str] = field(default=frozenset(), repr=False)


@dataclass(frozen=True, slots=True)
class Resolved(Generic[S_co]):
    """What a candidate leads to: the plan, and the snapshot that keeps it; None where `errors` say why not."""

    plan: Plan
    snapshot: Snapshot[S_co] | None = None
    errors: Sequence[Problem] = ()


def build_candidate(
    document: Document, source: Source[S], beside: Beside | None = None, running: Snapshot[Any] | None = None
) -> Candidate[S]:
    """Merge the sources and validate all of the file; ConfigInvalid with every problem and its place.

    `beside` is what the source's other files hold; None: they are read now. Defaults that a factory makes (an id, a
    time) are those of the `running` snapshot where neither has another source.
    """
    target_data, own_data = _split(document.data)
    own = source.own_model.merge(cast("dict[str, Any]", own_data) if isinstance(own_data, dict) else {}, beside)
    merged = _joined(source.model.merge(target_data, beside), own)
    if not isinstance(own_data, dict):
        wrong = _placed(document, source, merged, Problem(SECTION, "must be an object"))
        merged = replace(merged, errors=[*merged.errors, wrong])
    return _validated(document, source, merged, [] if running is None else [_Known(running.data, running.leaves)])


def first_snapshot(candidate: Candidate[S], redactor: Redactor) -> Snapshot[S]:
    """Return the snapshot a process starts with, generation 1."""
    return _snapshot(candidate, 1, redactor)


def resolve(
    candidate: Candidate[S], running: Snapshot[S], source: Source[S], redactor: Redactor, owner: Owner = no_owner
) -> Resolved[S]:
    """Compare a candidate with the running snapshot, and keep the running value of what needs a restart.

    What still differs afterwards is live, or the candidate is refused: no value changes in silence. A candidate is
    refused as well where the mixture is not valid (a rule across fields that only the restart can keep).
    """
    found = source.differences(running.leaves, candidate.leaves)
    restart = [each for each in found if source.rule(each.keys).effect is Effect.RESTART]
    others = [each for each in found if source.rule(each.keys).effect is not Effect.RESTART]
    plan = make_plan(others, restart, source.rule, redactor.show, owner)
    if plan.refused:
        refused = [each.keys for each in others if source.rule(each.keys).effect is Effect.REFUSED]
        placed = tuple(_placed_path(candidate, source, *each) for each in zip(refused, plan.refused, strict=True))
        return Resolved(replace(plan, refused=placed), errors=placed)
    final = candidate
    if restart:
        try:
            final = _pinned(candidate, running, plan, source)
        except ConfigInvalid as error:
            return Resolved(plan, errors=error.problems)
        waiting = source.differences(final.leaves, candidate.leaves)
        plan = make_plan(source.differences(running.leaves, final.leaves), waiting, source.rule, redactor.show, owner)
    tops = frozenset(plan.pinned)
    if tops:
        origins = {keys: origin for keys, origin in candidate.merged.provenance.items() if not is_below(keys, tops)}
        origins.update({keys: origin for keys, origin in running.provenance.items() if is_below(keys, tops)})
        final = replace(final, merged=Merged(final.merged.data, origins))
    return Resolved(plan, _snapshot(final, running.generation + 1, redactor))


def _pinned(candidate: Candidate[S], running: Snapshot[S], plan: Plan, source: Source[S]) -> Candidate[S]:
    """Return the candidate with the running value of the paths that wait for a restart, or ConfigInvalid."""
    refused: list[ConfigInvalid] = []
    leaks: list[Difference] = []
    known = [_Known(candidate.merged.data, candidate.leaves), _Known(running.data, running.leaves)]
    for data in _pinned_inputs(candidate, running, plan, source, leaks):
        try:
            made = _validated(candidate.document, source, replace(candidate.merged, data=data), known)
        except ConfigInvalid as error:
            refused.append(error)
            continue
        left = [each for each in source.differences(running.leaves, made.leaves) if not _is_live(each, source)]
        if not left:
            return replace(made, warnings=candidate.warnings)
        if not leaks:
            leaks += left
    if refused and not leaks:
        kept = f"{', '.join(map(dotted, plan.pinned[:5]))}{', …' if len(plan.pinned) > 5 else ''}"
        hint = f"it needs a restart together with {kept}, which keep their running value until then"
        raise ConfigInvalid([replace(problem, hint=hint) for problem in refused[0].problems])
    hint = "other keys of the file lead to it; take the edit back or restart the service"
    problems = ((each.keys, Problem(dotted(each.keys), "needs a restart", hint=hint)) for each in leaks)
    raise ConfigInvalid([_placed_path(candidate, source, *each) for each in problems])


def _pinned_inputs(
    candidate: Candidate[Any], running: Snapshot[Any], plan: Plan, source: Source[Any], leaks: Sequence[Difference]
) -> Iterator[dict[str, Any]]:
    """Yield the inputs that may keep what waits for a restart; `leaks` is what the first of them did not keep.

    That of the candidate with the running input of these paths; the same with their running values (of a default);
    the running input with what is live of the candidate's (where a validator moves keys).
    """
    data = copied(candidate.merged.data)
    for path in joined(plan.pinned, plan.live):
        pin(data, running.data, source.tree, path)
    yield data
    if leaks:
        _give(data, running.leaves, [each.keys for each in leaks], source)
        yield data
    data = copied(running.data)
    for path in joined(plan.live, plan.pinned):
        pin(data, candidate.merged.data, source.tree, path)
    yield data


def _is_live(each: Difference, source: Source[Any]) -> bool:
    return source.rule(each.keys).effect is Effect.LIVE


def _give(data: Any, leaves: Mapping[Keys, object], paths: Sequence[Keys], source: Source[Any]) -> None:
    """Say in the input, in place, the values themselves of these paths and of all below."""
    tops = frozenset(paths)
    for path in paths:
        assign(data, source.tree, path, ABSENT)
    for keys, value in leaves.items():
        if is_below(keys, tops):
            assign(data, source.tree, keys, value)


def _validated(document: Document, source: Source[S], merged: Merged, known: Sequence[_Known]) -> Candidate[S]:
    """Validate a merged tree; a default that a factory makes is that of the first `known` configuration that has it."""
    made = _validated_once(document, source, merged)
    absent = (node.keys for node in source.made if find(merged.data, source.tree, node.keys) is ABSENT)
    tops = {keys[0] for keys in absent}
    if not tops:
        return made
    data, given = copied(merged.data), dict[Keys, Mapping[Keys, object]]()
    now = _Known(merged.data, {keys: value for keys, value in made.leaves.items() if keys[0] in tops})
    for each in known:
        before = _Known(each.data, {keys: value for keys, value in each.leaves.items() if keys[0] in tops})
        found = (_made(one.keys, source, now, before) for one in source.differences(before.leaves, now.leaves))
        if paths := [path for path in found if path]:
            again = _made_again(document, source, merged, each)
            given = {path: each.leaves for path in paths if _meets(path, again)} | given
    for path, leaves in given.items():
        lists = (path[:count] for count, key in enumerate(path) if isinstance(key, int))
        whole = next((each for each in lists if find(data, source.tree, each) is ABSENT), None)
        if whole is not None:  # an entry needs the list around it
            _give(data, made.leaves, [whole], source)
        _give(data, leaves, [path], source)
    if not given:
        return made
    try:
        kept = _validated_once(document, source, replace(merged, data=data))
    except ConfigInvalid:
        return made
    return replace(kept, merged=merged, warnings=made.warnings)


@dataclass(frozen=True)
class _Known:
    """What a configuration says, and its leaves."""

    data: Mapping[str, Any]
    leaves: Mapping[Keys, object]

    @cached_property
    def inside(self) -> Mapping[Keys, set[str | int]]:
        """The keys directly below every path that has some."""
        found: dict[Keys, set[str | int]] = {}
        for keys in self.leaves:
            for count, key in enumerate(keys):
                found.setdefault(keys[:count], set()).add(key)
        return found


def _made_again(document: Document, source: Source[Any], merged: Merged, known: _Known) -> list[Keys]:
    """Return the paths that each validation makes again; what a validator moves there is not one."""
    try:
        again = _validated_once(document, source, replace(merged, data=known.data))
    except ConfigInvalid:
        return [()]
    return [each.keys for each in source.differences(known.leaves, again.leaves)]


def _meets(path: Keys, others: Sequence[Keys]) -> bool:
    return any(path[: len(other)] == other[: len(path)] for other in others)


def _made(path: Keys, source: Source[Any], now: _Known, before: _Known) -> Keys:
    """Return the path where a factory makes its value, or what it lies in, on both sides; else nothing.

    Nothing as well in a section that has become another member of a union: a value of the one would bring it back.
    """
    node = source.tree
    for count, key in enumerate(path):
        fields = [each.inside.get(path[:count], set()) & node.fields.keys() for each in (now, before)]
        if (inner := node.child(key)) is None or fields[0] != fields[1]:
            break
        if inner.made and all(find(each.data, source.tree, path[: count + 1]) is ABSENT for each in (now, before)):
            return path
        node = inner
    return ()


def _validated_once(document: Document, source: Source[S], merged: Merged) -> Candidate[S]:
    target_data, own_data = _split(merged.data)
    found: list[Problem] = []
    folder = document.path.parent
    target = _attempt(lambda: source.model.validate(target_data, folder), found)
    own = _attempt(lambda: source.own_model.validate(own_data, folder), found)
    if target is None or own is None or merged.errors:
        known = {error.path for error in merged.errors}
        placed = [_placed(document, source, merged, problem) for problem in found if problem.path not in known]
        raise ConfigInvalid(sorted([*merged.errors, *placed], key=place_order))
    keys = [*merged.warnings, *target.warnings, *own.warnings]
    warnings = [*document.warnings, *(_placed_key(document, warning) for warning in keys)]
    leaves = {**target.leaves, **own.leaves}
    secrets, weak = find_secrets(leaves, source.rule)
    hint = "use a random value of sixteen characters or more"
    warnings += (_placed(document, source, merged, Problem(dotted(path), reason, hint=hint)) for path, reason in weak)
    return Candidate(document, merged, target, own.settings, leaves, tuple(sorted(warnings, key=place_order)), secrets)


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
        data,
        {**target.provenance, **own.provenance},
        (*target.warnings, *own.warnings),
        (*target.errors, *own.errors),
    )


def _placed(document: Document, source: Source[Any], merged: Merged, problem: Problem) -> Problem:
    """Return a problem, whose path is of the input, with its place in the file or the source its value is from."""
    if problem.file is not None:
        return problem
    elsewhere = {dotted(locate(merged.data, source.tree, keys)): origin for keys, origin in merged.provenance.items()}
    parts = problem.path.split(".")
    tops = (elsewhere.get(".".join(parts[:count])) for count in range(len(parts), 0, -1)) if elsewhere else ()
    origin = next((each for each in tops if each is not None), None)
    return _at(document, problem, document.loc_of(problem.path), origin)


def _placed_path(candidate: Candidate[Any], source: Source[Any], path: Keys, problem: Problem) -> Problem:
    loc = locate(candidate.merged.data, source.tree, path)
    return _at(candidate.document, problem, loc, origin_of(candidate.merged.provenance, path))


def _at(document: Document, problem: Problem, loc: Keys, origin: Origin | None) -> Problem:
    if origin is not None:
        kind = "the environment variable " if origin.source == "environment" else ""
        return replace(problem, message=f"{problem.message} (from {kind}{origin.name})")
    placed = problem.at(document.name, *document.locate(loc))
    written = document.written(loc) if problem.input is not None else None
    if written is None:
        return placed
    # a variable stands in it: shown as written, because its value may be secret
    return replace(placed, input=None if written[0] in "{[" else mask_text(written))


def _placed_key(document: Document, warning: Problem) -> Problem:
    if warning.line is not None or not warning.path:
        return warning
    place = document.locate_key(document.loc_of(warning.path))
    return warning.at(document.name, *place) if place else warning
