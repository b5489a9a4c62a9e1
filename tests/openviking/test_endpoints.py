"""Calls held at their endpoints, with a clock and timers that the test moves."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import contextmanager, suppress
from random import Random
from typing import Any

import pytest

from hotreload.openviking.breaker import LONE_FAILURES
from hotreload.openviking.endpoints import EndpointDown, Endpoints
from hotreload.openviking.gate import OPEN, Gate

pytestmark = pytest.mark.anyio


class Message:
    """What calls are made for: notes what it waits for."""

    def __init__(self, about: str = "viking://resources/a") -> None:
        self.about = about
        self.held_at: float | None = None
        self.waits: list[str] = []

    @contextmanager
    def waiting(self, why: str) -> Generator[None]:
        self.waits.append(why)
        try:
            yield
        finally:
            self.waits.remove(why)


class Stage:
    """Endpoints with a clock of their own, and what they call."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.patience_s = 1000.0
        self.turns = 0
        self.error: Exception | None = None
        self.calls = 0
        self.tasks: list[asyncio.Task[str]] = []
        self.endpoints = Endpoints(
            lambda: self.patience_s, clock=lambda: self.now_s, later=self._later, sleep=self._sleep
        )
        self.endpoints.turned = self._turned
        self.gate = Gate(4)

    def _later(self, delay_s: float, call: Callable[[], None]) -> None:
        self.timers.append((self.now_s + delay_s, call))

    async def _sleep(self, delay_s: float) -> None:
        over = asyncio.Event()
        self._later(delay_s, over.set)
        await over.wait()

    def _turned(self) -> None:
        self.turns += 1

    async def move_by_itself(self, seconds: float) -> None:
        """Return once this time has been let pass."""
        await self._sleep(seconds)

    async def _make(self) -> str:
        self.calls += 1
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return "answer"

    def ask(
        self, message: Message | None = None, key: bytes = b"k", make: object = None, gate: Any = OPEN
    ) -> asyncio.Task[str]:
        """Begin one call of a message."""

        async def named() -> bytes:
            return key

        held = self.endpoints.hold("vlm", message or Message(), named, make or self._make, gate)  # type: ignore[arg-type]
        self.tasks.append(asyncio.ensure_future(held))
        return self.tasks[-1]

    async def settle(self) -> None:
        for _ in range(12):
            await asyncio.sleep(0)

    async def move(self, seconds: float) -> None:
        """Let time pass, and have the timers called that come due in it, in their order."""
        await self.settle()
        ends = self.now_s + seconds
        while self.timers and (timer := min(self.timers, key=lambda each: each[0]))[0] <= ends:
            self.timers.remove(timer)
            self.now_s = max(self.now_s, timer[0])
            timer[1]()
            await self.settle()
        self.now_s = ends


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    made = Stage()
    yield made
    for task in made.tasks:
        task.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await task


async def test_an_outage_costs_what_was_in_flight_and_the_probes(stage: Stage) -> None:
    messages = [Message(str(number)) for number in range(10)]
    stage.error = TimeoutError()
    asked = [stage.ask(message) for message in messages]
    await stage.settle()
    assert stage.calls == 10
    assert stage.endpoints.down("vlm") is not None
    assert all(message.waits for message in messages)
    [figure] = stage.endpoints.figures()
    assert (figure["up"], figure["cause"], figure["held"]) == (False, "timeout", 10)
    assert str(stage.endpoints.degraded).startswith("vlm endpoint: timeout since ")
    await stage.move(60)
    assert 13 <= stage.calls <= 20
    stage.error = None
    await stage.move(20)
    assert [await task for task in asked] == ["answer"] * 10
    assert stage.calls <= 31
    assert not any(message.waits for message in messages)
    assert (stage.endpoints.degraded, stage.endpoints.down("vlm")) == (None, None)
    assert stage.turns == 2


async def test_a_reload_lets_them_go_on_at_once(stage: Stage) -> None:
    stage.error = ConnectionRefusedError()
    asked = [stage.ask() for _ in range(3)]
    await stage.settle()
    stage.error = None
    stage.endpoints.reset()
    await stage.settle()
    assert [await task for task in asked] == ["answer"] * 3


async def test_a_refusal_is_raised_named_and_counts_as_an_answer(stage: Stage) -> None:
    class Refused(Exception):
        status_code = 400

    stage.error = TimeoutError()
    first = stage.ask(Message("viking://resources/bad"))
    await stage.settle()
    stage.error = Refused()
    await stage.move(2)
    with pytest.raises(Refused):
        await first
    assert stage.endpoints.degraded is None
    [refusal] = stage.endpoints.refusals()
    assert (refusal["about"], refusal["cause"]) == ("viking://resources/bad", "400")
    assert stage.endpoints.figures()[0]["refused"] == 1


async def test_what_fails_while_others_are_answered_is_blamed_itself_in_the_end(stage: Stage) -> None:
    async def poison() -> str:
        raise TimeoutError("of this one")

    bad = stage.ask(Message("bad"), make=poison)
    await stage.settle()
    assert stage.endpoints.degraded is not None
    while not bad.done():
        other = stage.ask()
        while not other.done():
            await stage.move(1)
            assert stage.now_s < 100 * LONE_FAILURES
        assert await other == "answer"
    with pytest.raises(TimeoutError, match="of this one"):
        await bad
    [refusal] = stage.endpoints.refusals()
    assert (refusal["about"], refusal["cause"]) == ("bad", "timeout, while other calls are answered")


async def test_patience_ends_and_is_a_setting(stage: Stage) -> None:
    stage.error = ConnectionRefusedError("the last one")
    asked = stage.ask()
    await stage.settle()
    stage.patience_s = 5.0
    stage.now_s = 6.0
    with pytest.raises(ConnectionRefusedError, match="the last one"):
        await asked
    waited = Message()
    waited.held_at = 0.0
    with pytest.raises(EndpointDown):
        await stage.ask(waited)


async def test_a_person_never_waits_and_tells_how_the_endpoint_is(stage: Stage) -> None:
    async def named() -> bytes:
        return b"k"

    async def fails() -> str:
        raise TimeoutError

    async def answers() -> str:
        return "yes"

    with pytest.raises(TimeoutError):
        await stage.endpoints.watch("vlm", named, fails)
    assert stage.endpoints.degraded is not None
    assert stage.endpoints.down("vlm") is None  # no call waits, so messages may be begun to find its end
    asked = stage.ask()
    await stage.settle()
    assert stage.calls == 0
    assert stage.endpoints.down("vlm") is not None
    assert await stage.endpoints.watch("vlm", named, answers) == "yes"
    await stage.settle()
    assert await asked == "answer"


async def test_one_that_only_people_call_is_forgotten_after_a_while(stage: Stage) -> None:
    async def named() -> bytes:
        return b"k"

    async def fails() -> str:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        await stage.endpoints.watch("rerank", named, fails)
    assert stage.endpoints.degraded is not None
    await stage.move(61)
    assert stage.endpoints.degraded is None


async def test_where_an_answer_can_be_spared_only_probes_are_made(stage: Stage) -> None:
    made = 0
    hung = asyncio.Event()

    async def named() -> bytes:
        return b"k"

    async def fails() -> str:
        nonlocal made
        made += 1
        raise TimeoutError

    async def hangs() -> str:
        nonlocal made
        made += 1
        hung.set()
        await asyncio.Event().wait()
        return "never"

    async def answers() -> str:
        return "answered"

    async def watch(make: Callable[[], Awaitable[str]]) -> str:
        return await stage.endpoints.watch("rerank", named, make, spared=lambda: "spared")

    with pytest.raises(TimeoutError):
        await watch(fails)
    assert [await watch(fails) for _ in range(9)] == ["spared"] * 9
    await stage.move(15)
    probe = asyncio.ensure_future(watch(hangs))
    await hung.wait()
    assert await watch(answers) == "spared"  # one probe at a time
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    assert made == 2
    assert await watch(answers) == "answered"  # a probe that was given up lets the next one be made at once
    assert stage.endpoints.degraded is None


async def test_another_address_or_key_is_another_endpoint(stage: Stage) -> None:
    stage.error = TimeoutError()
    mine = stage.ask(key=b"mine")
    await stage.settle()
    stage.error = None
    assert await stage.ask(key=b"yours") == "answer"
    assert stage.endpoints.degraded is not None
    assert stage.endpoints.down("vlm") is None
    await stage.move(2)
    assert await mine == "answer"


async def test_a_cancelled_probe_hands_on_its_turn(stage: Stage) -> None:
    hung = asyncio.Event()

    async def hangs() -> str:
        await hung.wait()
        return "late"

    stage.error = TimeoutError()
    first = stage.ask()
    await stage.settle()
    first.cancel()
    await stage.settle()
    probing, next_one = stage.ask(make=hangs), stage.ask()
    await stage.settle()
    stage.error = None
    await stage.move(1)
    assert stage.endpoints.figures()[0]["next_probe_s"] is None  # the probe hangs
    probing.cancel()
    await stage.settle()
    await stage.move(1)
    assert await next_one == "answer"


async def test_nothing_is_held_without_patience(stage: Stage) -> None:
    assert stage.endpoints.holding
    stage.patience_s = 0.0
    assert not stage.endpoints.holding
    stage.error = TimeoutError("at once")
    with pytest.raises(TimeoutError, match="at once"):
        await stage.ask()


@pytest.mark.parametrize("rate", [0.5, 0.75])
async def test_where_some_of_the_calls_fail_all_are_answered_soon_and_the_endpoint_stays_in_use(
    stage: Stage, rate: float
) -> None:
    chance = Random(7)

    async def fails_at_random() -> str:
        await stage.move_by_itself(0.1)
        if chance.random() < rate:
            raise TimeoutError
        return "answer"

    asked = [stage.ask(Message(str(number)), make=fails_at_random, gate=stage.gate) for number in range(60)]
    while not all(task.done() for task in asked):
        await stage.move(1)
        assert stage.now_s < 120 / (1 - rate)
    assert [await task for task in asked] == ["answer"] * 60
    assert stage.endpoints.refusals() == []


async def test_outages_one_after_another_cost_what_was_in_flight_and_leave_nothing_waiting(stage: Stage) -> None:
    chance = Random(11)

    async def answers_now_and_then() -> str:
        stage.calls += 1
        await stage.move_by_itself(0.2)
        if stage.error is not None:
            raise stage.error
        return "answer"

    asked = [stage.ask(Message(str(number)), make=answers_now_and_then, gate=stage.gate) for number in range(100)]
    outages = 0
    while not all(task.done() for task in asked) and outages < 12:
        outages += 1
        stage.error = TimeoutError()
        await stage.move(chance.uniform(0.1, 40))
        stage.error = None
        await stage.move(chance.uniform(0.1, 0.8))
    await stage.move(60)
    assert [await task for task in asked] == ["answer"] * 100
    assert stage.calls <= 100 + outages * 30
    assert (stage.endpoints.degraded, stage.endpoints.down("vlm")) == (None, None)


async def test_a_probe_that_is_cancelled_before_it_is_made_hands_on_its_turn(stage: Stage) -> None:
    stage.error = TimeoutError()
    full = Gate(1)
    first, second = stage.ask(gate=full), stage.ask()
    await stage.settle()
    stage.error = None
    async with full:
        await stage.move(1)  # the first has its turn, and no place
        first.cancel()
        await stage.settle()
    await stage.move(1)
    assert await second == "answer"
