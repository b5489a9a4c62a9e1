"""The depths of the queues: shown as last seen while nobody can say them, and seen again afterwards."""

from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from ov_process import wait_until

from hotreload.openviking.depths import QueueDepths
from hotreload.queue.contract import QueueDepth

pytestmark = pytest.mark.anyio


class Store:
    """What is asked for the depths: `pending` messages, or an error."""

    def __init__(self) -> None:
        self.looks = 0
        self.pending = 3
        self.error: Exception | None = None

    async def look(self) -> dict[str, Any]:
        self.looks += 1
        if self.error is not None:
            raise self.error
        return {"Semantic": SimpleNamespace(pending=self.pending, in_progress=1)}

    async def looked(self, times: int) -> None:
        wanted = self.looks + times
        await wait_until(lambda: self.looks >= wanted, 5, "looks")


def depth(ready: int) -> list[QueueDepth]:
    return [QueueDepth("Semantic", ready, 0, 1, 0, False)]


async def test_a_look_that_fails_keeps_the_last_depths_and_ends_nothing(caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    depths = QueueDepths(store.look)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(depths.sample, 0.001)
        await store.looked(2)
        assert depths.latest == depth(3)
        for series in (1, 2):
            store.error = RuntimeError("database is locked")
            await store.looked(5)
            assert depths.latest == depth(3)
            assert [record.levelname for record in caplog.records] == ["WARNING"] * series
            assert "database is locked" in caplog.records[-1].getMessage()
            store.error = None
            await store.looked(2)
        store.pending = 7
        await store.looked(2)
        assert depths.latest == depth(7)
        tasks.cancel_scope.cancel()
