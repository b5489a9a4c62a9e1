"""Stage 2: what runs may finish, up to the end of the grace."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from hotreload.drain.quiesce import Drainable


async def grace(parts: Sequence[Drainable]) -> None:
    """Return once every part is idle; cancelled at the end of the grace or by a second signal.

    Parts are waited for side by side, under one bound (a bound for each queue in turn adds up).
    """
    async with anyio.create_task_group() as group:
        for part in parts:
            group.start_soon(part.idle, name=f"idle {part.name}")
