"""The stages of a drain that wait for work: quiesce → grace → interrupt."""

from __future__ import annotations

import gc
import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

import anyio

from hotreload.lifecycle import Remaining

log = logging.getLogger(__name__)
COLLECT_AFTER: Final = 200_000
"""So many new objects until garbage in cycles is looked for in a drain; Python's own number is 700."""


class Drainable(Protocol):
    """A part that takes part in a drain. Calls come in the order written here, each at most once but `remaining`.

    `idle` and `interrupt` are cancelled when their phase is over; that is not an error.
    """

    @property
    def name(self) -> str:
        """Shown in reports, `workers.semantic`."""
        ...

    def quiesce(self) -> None:
        """Claim and admit nothing more, from the return of this call on."""
        ...

    def remaining(self) -> Sequence[Remaining]:
        """Return what still runs; also called from the last resort's thread."""
        ...

    async def idle(self) -> None:
        """Return once nothing runs but what only waits for other work."""
        ...

    async def interrupt(self) -> None:
        """Cancel what still runs and return once all of it has stopped."""
        ...


@contextmanager
def rare_collections() -> Generator[None]:
    """Leave what lives now out of garbage collections, and make them rare.

    With 10,000 running jobs a third of a drain's CPU time went into looking through them again and again. Of two drains
    at once in a process the first has it, and the end of the first ends it.
    """
    before = gc.get_threshold()
    if before[0] >= COLLECT_AFTER:
        yield
        return
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


def quiesce(parts: Sequence[Drainable]) -> None:
    """Stop every part's intake, in order; synchronous, so that no claim falls between two of them."""
    for part in parts:
        part.quiesce()


async def grace(parts: Sequence[Drainable]) -> None:
    """Return once every part is idle; cancelled at the end of the grace or by a second signal.

    All parts are waited for at once, under one bound.
    """
    async with anyio.create_task_group() as group:
        for part in parts:
            group.start_soon(part.idle, name=f"idle {part.name}")


async def interrupt(parts: Sequence[Drainable]) -> None:
    """Stop every part, all at once; cancelled at the end of the phase or by a third signal.

    A part that raises is logged: what it leaves running is fenced by the flush.
    """
    async with anyio.create_task_group() as group:
        for part in parts:
            group.start_soon(_interrupt, part, name=f"interrupt {part.name}")


async def _interrupt(part: Drainable) -> None:
    try:
        await part.interrupt()
    except Exception:
        log.exception("drain.interrupt_failed part=%s", part.name)
