"""The gate before the model calls: exact limits up and down, first come first served, no place ever lost."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotreload.openviking.limits import Gate

pytestmark = pytest.mark.anyio


class Callers:
    """Callers of a gate, each holding its place until told to leave."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.inside: list[asyncio.Event] = []
        self.order: list[int] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def _call(self, number: int) -> None:
        async with self.gate:
            leave = asyncio.Event()
            self.inside.append(leave)
            self.order.append(number)
            try:
                await leave.wait()
            finally:
                self.inside.remove(leave)

    async def come(self, count: int) -> None:
        for _ in range(count):
            self.tasks.append(asyncio.ensure_future(self._call(len(self.tasks))))
        await self.settle()

    async def leave(self, count: int) -> None:
        for event in self.inside[:count]:
            event.set()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(6):
            await asyncio.sleep(0)


@pytest.fixture
async def callers() -> AsyncIterator[Callers]:
    made = Callers(Gate(4))
    yield made
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)
    assert made.gate.running == 0
    assert made.gate.waiting == 0


async def test_admits_exactly_its_limit_up_and_down(callers: Callers) -> None:
    gate = callers.gate
    await callers.come(30)
    assert (len(callers.inside), gate.waiting) == (4, 26)
    gate.limit = 12
    gate.admit()
    await callers.settle()
    assert len(callers.inside) == 12
    gate.limit = 2
    gate.admit()
    await callers.leave(10)
    assert len(callers.inside) == 2
    await callers.leave(1)
    assert len(callers.inside) == 2
    assert callers.order == sorted(callers.order)


async def test_a_shrink_cancels_nobody(callers: Callers) -> None:
    await callers.come(4)
    callers.gate.limit = 1
    callers.gate.admit()
    await callers.settle()
    assert len(callers.inside) == 4
    assert not any(task.done() for task in callers.tasks)


async def test_a_waiter_cancelled_as_it_is_admitted_passes_its_place_on(callers: Callers) -> None:
    await callers.come(6)
    callers.gate.limit = 5
    callers.gate.admit()
    callers.tasks[4].cancel()
    await callers.settle()
    assert callers.order == [0, 1, 2, 3, 5]


@given(steps=st.lists(st.tuples(st.sampled_from(["come", "leave", "limit", "cancel"]), st.integers(1, 9)), max_size=25))
@settings(max_examples=60, deadline=None)
def test_never_above_its_limit_and_never_below_it_while_callers_wait(steps: list[tuple[str, int]]) -> None:
    async def run() -> None:
        callers = Callers(gate := Gate(3))
        for verb, number in steps:
            before = gate.running
            if verb == "come":
                await callers.come(number)
            elif verb == "leave":
                await callers.leave(number)
            elif verb == "limit":
                gate.limit = number
                gate.admit()
                await callers.settle()
            else:
                for task in callers.tasks[-number:]:
                    task.cancel()
                await callers.settle()
            assert gate.running == len(callers.inside)
            assert gate.running <= max(gate.limit, before)
            assert gate.running >= gate.limit or not gate.waiting
        for task in callers.tasks:
            task.cancel()
        await asyncio.gather(*callers.tasks, return_exceptions=True)
        assert (gate.running, gate.waiting) == (0, 0)

    asyncio.run(run())
