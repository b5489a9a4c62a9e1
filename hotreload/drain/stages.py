"""The stages of a drain that wait for work: quiesce → grace → interrupt."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import anyio

from hotreload.lifecycle import Remaining

log = logging.getLogger(__name__)


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
