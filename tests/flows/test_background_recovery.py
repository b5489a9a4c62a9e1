"""Searches for missing work that nobody asks for: after the start, every so often, once more after a mend."""

import anyio
import pytest

from hotreload.recovery.background import BackgroundRecovery
from hotreload.recovery.findings import Findings, Making, Wanted

pytestmark = pytest.mark.anyio


class Searches:
    """Counts the searches; wakes whoever waits for the next one."""

    def __init__(self) -> None:
        self.count = 0
        self.next = anyio.Event()

    async def search(self, wanted: Wanted, findings: Findings) -> None:
        del wanted, findings
        self.count += 1
        self.next.set()
        self.next = anyio.Event()

    async def making(self, findings: Findings) -> Making:
        del findings
        return Making(0, 0, {})


async def test_again_every_so_often_and_after_a_mend() -> None:
    searches, every_s = Searches(), 0.0
    recovery = BackgroundRecovery(searches, lambda: "repair", every_s=lambda: every_s)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(recovery.run)
        recovery.again()
        assert searches.count == 0  # nothing before the first, after the start
        await recovery.after_start()
        assert searches.count == 1
        recovery.again()
        with anyio.fail_after(20):
            while searches.count < 2:
                await searches.next.wait()
            every_s = 0.01
            while searches.count < 4:
                await searches.next.wait()
        tasks.cancel_scope.cancel()
