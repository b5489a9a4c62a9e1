"""Stage 1: from this moment nothing new is claimed or admitted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from hotreload.lifecycle import Remaining


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
        """Return what still runs."""
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
