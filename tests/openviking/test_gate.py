"""The gate before the model calls: exact limits up and down, first come first served, no place ever lost."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hotreload.openviking.gate import Gate

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
    gate.resize(12)
    await callers.settle()
    assert len(callers.inside) == 12
    gate.resize(2)
    await callers.leave(10)
    assert len(callers.inside) == 2
    await callers.leave(1)
    assert len(callers.inside) == 2
    assert callers.order == sorted(callers.order)


async def test_a_shrink_cancels_nobody(callers: Callers) -> None:
    await callers.come(4)
    callers.gate.resize(1)
    await callers.settle()
    assert len(callers.inside) == 4
    assert not any(task.done() for task in callers.tasks)


async def test_a_waiter_cancelled_as_it_is_admitted_passes_its_place_on(callers: Callers) -> None:
    await callers.come(6)
    callers.gate.resize(5)
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
                gate.resize(number)
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


class Elsewhere:
    """An event loop on a thread of its own, as OpenViking gives each queue, with callers of a gate."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.leaves: dict[object, asyncio.Event] = {}

    async def _call(self, log: list[object], name: object) -> None:
        self.leaves[name] = leave = asyncio.Event()
        async with self.gate:
            log.append(name)
            await leave.wait()

    def come(self, log: list[object], name: object) -> Future[None]:
        waiting, running = self.gate.waiting, self.gate.running
        call = asyncio.run_coroutine_threadsafe(self._call(log, name), self.loop)
        while (self.gate.waiting, self.gate.running) == (waiting, running):
            self.turn()
        return call

    def leave(self, name: object) -> None:
        self.loop.call_soon_threadsafe(self.leaves[name].set)

    def turn(self) -> None:
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self.loop).result(5)

    def close(self) -> None:
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join(5)
            self.loop.close()


@pytest.fixture
def two_loops() -> Iterator[tuple[Gate, Elsewhere, Elsewhere]]:
    gate = Gate(3)
    loops = Elsewhere(gate), Elsewhere(gate)
    yield gate, *loops
    for each in loops:
        each.close()


def test_one_limit_over_two_loops_first_come_first_served(two_loops: tuple[Gate, Elsewhere, Elsewhere]) -> None:
    gate, one, other = two_loops
    log: list[object] = []
    calls = [loop.come(log, number) for number, loop in enumerate([one, other] * 5)]
    assert (gate.running, gate.waiting) == (3, 7)
    for step in range(10):
        assert log == list(range(3 + step))[:10]
        (one, other)[step % 2].leave(step)
        calls[step].result(5)
        for loop in (one, other, one, other):
            loop.turn()
        assert gate.running == min(3, 9 - step)
    assert (gate.running, gate.waiting) == (0, 0)


def test_a_loop_that_closed_takes_no_place(two_loops: tuple[Gate, Elsewhere, Elsewhere]) -> None:
    gate, one, other = two_loops
    log: list[object] = []
    gate.resize(1)
    inside = one.come(log, "inside")
    other.come(log, "gone with its loop")
    last = one.come(log, "last")
    other.close()
    one.leave("inside")
    inside.result(5)
    one.leave("last")
    last.result(5)
    assert log == ["inside", "last"]
    assert (gate.running, gate.waiting) == (0, 0)
