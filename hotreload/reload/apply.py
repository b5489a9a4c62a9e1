"""Stage 4: prepare all, commit all without an await, retire the old; a failure undoes in reverse.

The order of parts is the order they were given in. Model: Caddy's provision-start-stop and Redis'
`CONFIG SET`, where either every field changes or none does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import anyio

from hotreload.config.document import Keys, dotted
from hotreload.errors import Problem
from hotreload.reload.bounded import Step, bounded

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a step of one part may take, and the preparation of all parts together, in seconds."""

    part_s: float = 5.0
    all_s: float = 15.0


@dataclass(frozen=True, slots=True)
class Transition:
    """What a part is told: settings before and after, and the changed live leaves that concern it.

    `old` and `new` are whole settings instances (restart fields already pinned to their running value);
    `paths` are dotted and never empty. `generation` is the one that will be in force.
    """

    old: Any
    new: Any
    paths: Sequence[str]
    generation: int


class Prepared(Protocol):
    """A part's half-made change.

    `commit` and `revert` are synchronous, must not block and must not fail: everything that can fail belongs in
    `prepare`. Where a commit raises, every part that had committed is reverted before anything is awaited, so that
    no reader ever sees two generations. `undo` and `retire` then throw away what is not needed any more, the new or
    the old; what fails in them is reported and changes nothing in force.
    """

    def commit(self) -> None:
        """Switch to the new value; running work keeps what it took before."""
        ...

    def revert(self) -> None:
        """Switch back. Called at most once, and only after `commit` was called, whether or not that raised."""
        ...

    async def undo(self) -> None:
        """Throw away what `prepare` built: nothing of it is in force (any more). Called at most once."""
        ...

    async def retire(self) -> None:
        """End what `commit` replaced. The verdict is out by then, and the next change may be prepared meanwhile."""
        ...


class Publishes(Protocol):
    """A prepared change whose switch must be awaited (a foreign system's own publish).

    At most one part of a host has it; it runs first among the commits, and its failure rolls all back. Its `undo`
    takes back what was published, and comes before the others'.
    """

    async def publish(self) -> None:
        """Publish; raise if nothing was published."""
        ...


def publishes(prepared: Prepared) -> TypeGuard[Publishes]:
    """Tell whether a change must be awaited; asked of each part at each reload, a protocol would take 30 µs to say."""
    return hasattr(prepared, "publish")


def warnings_of(prepared: Prepared) -> Sequence[Problem]:
    """Return what a change has to say in the report, where it has `warnings`; it applies nonetheless."""
    return getattr(prepared, "warnings", ())


class Reloadable(Protocol):
    """A part that takes part in a reload.

    `paths` are dotted prefixes (`"vlm"` covers `vlm.model`; `""` covers all); `prepare` is called only
    when a live leaf below one of them changed. It may fail and returns None where nothing is to be done. At its
    limit (5 s) it is cancelled and not waited for any more: what it returns even then is undone.
    """

    @property
    def name(self) -> str:
        """The owner shown in reports, `workers.semantic`."""
        ...

    @property
    def paths(self) -> Sequence[str]:
        """Dotted prefixes of the fields this part applies."""
        ...

    async def prepare(self, transition: Transition) -> Prepared | None:
        """Build the new beside the old, without touching what runs."""
        ...


@dataclass(frozen=True, slots=True)
class NotUndone:
    """A part that could not take back its change, and why."""

    part: str
    reason: str

    def __str__(self) -> str:
        return f"{self.part}: {self.reason}"


class PartFailed(Exception):
    """A part stopped a reload: which one, at which stage, and why.

    Everything is as it was before, but for the parts named in `not_undone`.
    """

    def __init__(self, part: str, stage: str, reason: str, not_undone: Sequence[NotUndone] = ()) -> None:
        self.part = part
        self.stage = stage
        self.not_undone = tuple(not_undone)
        super().__init__(f"{part}: {stage} {reason}")


@dataclass(slots=True)
class Ready:
    """A part and the change it prepared, each further step of which may take `limit_s`.

    `publishing` is its publish where that was given up and still runs.
    """

    part: str
    prepared: Prepared
    limit_s: float = Limits().part_s
    publishing: Step[None] | None = None


def owner_of(path: Keys, parts: Sequence[Reloadable]) -> str | None:
    """Return the name of the part with the longest prefix of `path`, None where no part applies it itself."""
    matches = [(len(prefix), part.name) for part in parts for prefix in part.paths if covers(prefix, path)]
    return max(matches)[1] if matches else None


def covers(prefix: str, path: Keys) -> bool:
    """Tell whether a dotted prefix covers a path: `vlm` covers `vlm.model`, `""` covers all."""
    return any(dotted(path[:count]) == prefix for count in range(len(path) + 1))


async def prepare(
    parts: Sequence[Reloadable],
    old: Any,
    new: Any,
    paths: Sequence[Keys],
    generation: int,
    limits: Limits = Limits(),
) -> list[Ready]:
    """Prepare every part that the changed `paths` concern, in order; PartFailed after undoing all in reverse."""
    covering = {path: frozenset(dotted(path[:count]) for count in range(len(path) + 1)) for path in paths}
    concerned: list[tuple[Reloadable, Transition]] = []
    for part in parts:
        mine = [dotted(path) for path, prefixes in covering.items() if not prefixes.isdisjoint(part.paths)]
        if mine:
            concerned.append((part, Transition(old, new, mine, generation)))
    preparation = _Preparation(concerned, limits)
    try:
        await preparation.run()
    except PartFailed as failed:
        failed.not_undone = tuple(await undo(preparation.ready))
        raise
    except BaseException:
        await undo(preparation.ready)
        raise
    return preparation.ready


class _Preparation:
    """Prepares parts one after another, all in one task; its limits hold whatever a part does."""

    def __init__(self, concerned: Sequence[tuple[Reloadable, Transition]], limits: Limits) -> None:
        self.ready: list[Ready] = []
        self._concerned = concerned
        self._limits = limits
        self._name, self._given_up = "reload", False
        self._since = self._began = anyio.current_time()

    async def run(self) -> None:
        """Prepare all, or raise PartFailed."""
        if not self._concerned:
            return
        step = Step(self._each)
        try:
            while not step.over and (left_s := self._ends - anyio.current_time()) > 0:
                await step.wait(left_s)
        finally:
            if not step.over:
                self._given_up = True
                await step.stop(_undo_late(self._name, self._limits.part_s))
        if self._given_up or step.ending().overran:
            raise self._overran()
        failure = step.ending().failure
        if failure is not None:
            raise PartFailed(self._name, "prepare", f"failed: {_told(failure)}") from failure

    async def _each(self) -> Prepared | None:
        """Prepare one after another; returns what a part made though it had been given up."""
        for part, transition in self._concerned:
            self._name, self._since = part.name, anyio.current_time()
            made = await part.prepare(transition)
            if self._given_up:
                return made
            if made is not None:
                self.ready.append(Ready(part.name, made, self._limits.part_s))
        return None

    @property
    def _ends(self) -> float:
        return min(self._since + self._limits.part_s, self._began + self._limits.all_s)

    def _overran(self) -> PartFailed:
        part_s, all_s = self._limits.part_s, self._limits.all_s
        if self._began + all_s < self._since + part_s:
            told = f"took longer than {all_s:g} s in all ({self._name} was the last)"
            return PartFailed("reload", "prepare", told)
        return PartFailed(self._name, "prepare", f"did not end within {part_s:g} s")


async def commit(ready: Sequence[Ready], swap: Callable[[], None]) -> None:
    """Publish what must be awaited, then commit all and swap the snapshot without an await.

    PartFailed after everything is back as it was: a commit that raises takes all others back.
    """
    at, begun = "reload", list[Ready]()
    try:
        for entry in ready:
            if publishes(entry.prepared):
                at = entry.part
                await _publish(entry, entry.prepared)
        for entry in ready:
            at = entry.part
            begun.append(entry)
            entry.prepared.commit()
        swap()
    except BaseException as error:
        not_undone = [*_revert(begun), *await undo(ready)]
        if isinstance(error, PartFailed):
            error.not_undone = tuple(not_undone)
            raise
        cancelled = isinstance(error, asyncio.CancelledError) and not begun  # while publishing: commits await nothing
        if cancelled or not isinstance(error, (Exception, asyncio.CancelledError)):
            raise
        raise PartFailed(at, "commit", f"failed: {_told(error)}", not_undone) from error


async def _publish(entry: Ready, prepared: Publishes) -> None:
    entry.publishing = publishing = Step(prepared.publish)
    await publishing.wait(entry.limit_s)
    if not publishing.over:
        raise PartFailed(entry.part, "commit", f"did not publish within {entry.limit_s:g} s")
    failure = publishing.ending().failure
    if failure is not None:
        raise PartFailed(entry.part, "commit", f"failed: {_told(failure)}") from failure


def _revert(begun: Sequence[Ready]) -> list[NotUndone]:
    """Switch back what was committed, in reverse, without an await: no reader sees some parts old and others new."""
    failed: list[NotUndone] = []
    for entry in reversed(begun):
        try:
            entry.prepared.revert()
        except (Exception, asyncio.CancelledError) as error:
            log.exception("reload.revert_failed part=%s", entry.part)
            failed.append(NotUndone(entry.part, f"going back failed: {_told(error)}"))
    return failed


async def undo(ready: Sequence[Ready]) -> list[NotUndone]:
    """Undo in reverse, each within its limit, shielded; return the parts that did not, which are passed over.

    What was published is taken back first: until then it is in force.
    """
    failed: list[NotUndone] = []
    with anyio.CancelScope(shield=True):
        published_last = sorted(ready, key=lambda entry: publishes(entry.prepared))
        for entry in reversed(published_last):
            problem = await _undo_one(entry)
            if problem is not None:
                log.error("reload.undo_failed part=%s %s", entry.part, problem)
                failed.append(NotUndone(entry.part, problem))
    return failed


async def _undo_one(entry: Ready) -> str | None:
    publishing = entry.publishing
    if publishing is not None and not publishing.over:
        await publishing.stop()
        if not publishing.over:
            publishing.afterwards(lambda _: Step(lambda: _undo_late(entry.part, entry.limit_s)(entry.prepared)))
            return "what it publishes is taken back only when its publishing ends"
    ending = await bounded(entry.prepared.undo, entry.limit_s)
    if ending.overran:
        return f"undo did not end within {entry.limit_s:g} s"
    return None if ending.failure is None else f"undo failed: {_told(ending.failure)}"


def _undo_late(part: str, limit_s: float) -> Callable[[Prepared | None], Awaitable[None]]:
    """Return what is done with a change whose making was given up and that is there after all."""

    async def undo_it(prepared: Prepared | None) -> None:
        if prepared is not None:
            problem = await _undo_one(Ready(part, prepared, limit_s))
            log.warning("reload.undone_late part=%s %s", part, problem or "")

    return undo_it


async def retire(ready: Sequence[Ready]) -> list[str]:
    """End what was replaced, all parts at once; returns a line for each part that did not within its limit."""
    lines = await asyncio.gather(*(_retire_one(entry) for entry in ready))
    return [line for line in lines if line is not None]


async def _retire_one(entry: Ready) -> str | None:
    ending = await bounded(entry.prepared.retire, entry.limit_s)
    if ending.overran:
        return f"{entry.part}: the old value was not retired within {entry.limit_s:g} s"
    if ending.failure is None:
        return None
    return f"{entry.part}: retiring the old value failed: {_told(ending.failure)}"


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
