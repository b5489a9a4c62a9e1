"""Stage 4: prepare all, commit all without an await, retire the old; a failure undoes in reverse.

The order of parts is the order they were given in. Model: Caddy's provision-start-stop and Redis'
`CONFIG SET`, where either every field changes or none does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import anyio

log = logging.getLogger(__name__)

PART_LIMIT_S = 5.0
ALL_LIMIT_S = 15.0


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

    `commit` is synchronous, must not block and must not fail: everything that can fail belongs in
    `prepare`. `undo` puts back what was before, at most once, whether or not `commit` was called: a part
    whose commit raised takes all others back with it. `retire` ends what `commit` replaced; it is called
    after every part committed, and its failure is a warning that changes no verdict.
    """

    def commit(self) -> None:
        """Switch to the new value; running work keeps what it took before."""
        ...

    async def undo(self) -> None:
        """Put back what was before, and throw away what `prepare` built."""
        ...

    async def retire(self) -> None:
        """End what `commit` replaced."""
        ...


@runtime_checkable
class Publishes(Protocol):
    """A prepared change whose switch must be awaited (a foreign system's own publish).

    At most one part of a host has it; it runs first among the commits, and its failure rolls all back.
    """

    async def publish(self) -> None:
        """Publish; raise if nothing was published."""
        ...


class Reloadable(Protocol):
    """A part that takes part in a reload.

    `paths` are dotted prefixes (`"vlm"` covers `vlm.model`; `""` covers all); `prepare` is called only
    when a live leaf below one of them changed. It may fail, is cancelled at its limit (5 s), and returns
    None where nothing is to be done.
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


class PartFailed(Exception):
    """A part stopped a reload: which one, at which stage, and why. Everything is as it was before."""

    def __init__(self, part: str, stage: str, reason: str) -> None:
        self.part = part
        self.stage = stage
        super().__init__(f"{part}: {stage} {reason}")


@dataclass(frozen=True, slots=True)
class Ready:
    """A part and the change it prepared."""

    part: str
    prepared: Prepared


def owner_of(path: str, parts: Sequence[Reloadable]) -> str | None:
    """Return the name of the part with the longest prefix of `path`, None where no part applies it itself."""
    matches = [(len(prefix), part.name) for part in parts for prefix in part.paths if covers(prefix, path)]
    return max(matches)[1] if matches else None


def covers(prefix: str, path: str) -> bool:
    """Tell whether a dotted prefix covers a path: `vlm` covers `vlm.model`, `""` covers all."""
    return prefix in ("", path) or path.startswith(f"{prefix}.")


async def prepare(
    parts: Sequence[Reloadable], old: Any, new: Any, paths: Sequence[str], generation: int
) -> list[Ready]:
    """Prepare every part that the changed `paths` concern, in order; PartFailed after undoing all in reverse."""
    ready: list[Ready] = []
    try:
        with anyio.fail_after(ALL_LIMIT_S):
            for part in parts:
                mine = [path for path in paths if any(covers(prefix, path) for prefix in part.paths)]
                if mine and (made := await _prepare_one(part, Transition(old, new, mine, generation))):
                    ready.append(made)
    except TimeoutError:
        await undo(ready)
        raise PartFailed("reload", "prepare", f"took longer than {ALL_LIMIT_S:g} s in all") from None
    except BaseException:
        await undo(ready)
        raise
    return ready


async def _prepare_one(part: Reloadable, transition: Transition) -> Ready | None:
    scope = anyio.CancelScope(deadline=anyio.current_time() + PART_LIMIT_S)
    prepared: Prepared | None = None
    try:
        with scope:
            prepared = await part.prepare(transition)
    except (Exception, asyncio.CancelledError) as error:
        if _is_ours(error):
            raise
        raise PartFailed(part.name, "prepare", f"failed: {_told(error)}") from error
    if scope.cancelled_caught:
        raise PartFailed(part.name, "prepare", f"did not end within {PART_LIMIT_S:g} s")
    return None if prepared is None else Ready(part.name, prepared)


async def commit(ready: Sequence[Ready], swap: Callable[[], None]) -> None:
    """Publish what must be awaited, then commit all and swap the snapshot without an await.

    PartFailed after everything is back as it was: a commit that raises takes all others back.
    """
    at = "reload"
    try:
        for entry in ready:
            if isinstance(entry.prepared, Publishes):
                at = entry.part
                with anyio.fail_after(PART_LIMIT_S):
                    await entry.prepared.publish()
        for entry in ready:
            at = entry.part
            entry.prepared.commit()
        swap()
    except BaseException as error:
        await undo(ready)
        if _is_ours(error) or not isinstance(error, (Exception, asyncio.CancelledError)):
            raise
        raise PartFailed(at, "commit", f"failed: {_told(error)}") from error


async def undo(ready: Sequence[Ready]) -> None:
    """Undo in reverse, each within its limit, shielded; a part that fails to is named in the log and passed over."""
    for entry in reversed(ready):
        with anyio.move_on_after(PART_LIMIT_S, shield=True) as scope:
            try:
                await entry.prepared.undo()
            except (Exception, asyncio.CancelledError) as error:
                if _is_ours(error):
                    raise
                log.exception("reload.undo_failed part=%s", entry.part)
        if scope.cancelled_caught:
            log.error("reload.undo_hung part=%s limit_s=%g", entry.part, PART_LIMIT_S)


async def retire(ready: Sequence[Ready]) -> list[str]:
    """End what was replaced; returns a warning for each part that did not within its limit."""
    warnings: list[str] = []
    for entry in ready:
        with anyio.move_on_after(PART_LIMIT_S) as scope:
            try:
                await entry.prepared.retire()
            except (Exception, asyncio.CancelledError) as error:
                if _is_ours(error):
                    raise
                log.exception("reload.retire_failed part=%s", entry.part)
                warnings.append(f"{entry.part}: retiring the old value failed: {_told(error)}")
        if scope.cancelled_caught:
            warnings.append(f"{entry.part}: the old value was not retired within {PART_LIMIT_S:g} s")
    return warnings


def _is_ours(error: BaseException) -> bool:
    """Tell whether a cancellation was meant for the reload; one a part raises by itself is that part's failure."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
