"""Stage 3: what is left is cancelled; its last checkpoint is already on the disk."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import anyio

from hotreload.drain.quiesce import Drainable

log = logging.getLogger(__name__)


async def interrupt(parts: Sequence[Drainable]) -> None:
    """Stop every part, side by side; cancelled at the end of the phase or by a third signal.

    In turn, code of one part that does not stop would keep the next from being told. A part that raises is logged
    and passed over: what it leaves running is fenced by the flush.
    """
    async with anyio.create_task_group() as group:
        for part in parts:
            group.start_soon(_interrupt, part, name=f"interrupt {part.name}")


async def _interrupt(part: Drainable) -> None:
    try:
        await part.interrupt()
    except Exception:
        log.exception("drain.interrupt_failed part=%s", part.name)
