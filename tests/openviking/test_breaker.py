"""The breaker of one endpoint, on a clock that only the test moves."""

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from hotreload.openviking.breaker import IN_A_ROW, LONE_FAILURES, MOST_S, TRUSTED_S, Attempts, Breaker, Call, backoff_s


class Clock:
    """Seconds that stand still until they are moved."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def made() -> tuple[Breaker, Clock]:
    """Return a closed breaker without jitter, and its clock."""
    clock = Clock()
    return Breaker(clock, lambda: 0.5), clock


def opened(cause: str = "503") -> tuple[Breaker, Clock]:
    """Return one that has just opened."""
    breaker, clock = made()
    assert breaker.failed(breaker.watch(), cause)
    return breaker, clock


def test_lets_every_call_begin_until_the_endpoint_fails() -> None:
    breaker, clock = made()
    first, second = breaker.begin(), breaker.begin()
    assert first is not None
    assert second is not None
    assert breaker.failed(first, "401")
    assert (breaker.since, breaker.cause, breaker.due_in_s) == (clock.now_s, "401", 0.5)
    assert breaker.begin() is None
    assert not breaker.failed(second, "503")
    assert breaker.cause == "401"


def test_one_probe_at_a_time_after_delays_that_double() -> None:
    breaker, clock = opened()
    waits: list[float] = []
    for _ in range(8):
        due_s = breaker.due_in_s
        assert due_s is not None
        waits.append(due_s)
        assert breaker.probe() is None
        clock.now_s += due_s
        probe = breaker.probe()
        assert probe is not None
        assert breaker.is_probing
        assert breaker.probe() is None
        assert not breaker.failed(probe, "timeout")
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, MOST_S, MOST_S, MOST_S]
    assert breaker.cause == "timeout"


def test_an_answer_to_the_probe_closes_it_and_one_to_an_older_call_does_not() -> None:
    breaker, clock = made()
    old = breaker.watch()
    assert breaker.failed(breaker.watch(), "500")
    assert not breaker.answered(old)
    assert breaker.is_open
    clock.now_s += 1
    probe = breaker.probe()
    assert probe is not None
    assert breaker.answered(probe)
    assert (breaker.is_open, breaker.cause, breaker.since, breaker.due_in_s) == (False, None, None, None)
    assert breaker.answers == 2
    assert not breaker.failed(old, "500")


def test_a_call_that_does_not_wait_can_find_the_end_of_an_outage_and_moves_no_probe() -> None:
    breaker, _ = opened()
    due_s = breaker.due_in_s
    assert not breaker.failed(breaker.watch(), "429")
    assert (breaker.cause, breaker.due_in_s) == ("429", due_s)
    assert breaker.answered(breaker.watch())
    assert not breaker.is_open


def test_a_retry_after_makes_the_delay_longer_and_never_shorter() -> None:
    for stated_s, expected_s in ((None, 0.5), (0.1, 0.5), (20.0, 20.5), (86_400.0, 3600.5)):
        breaker, _ = made()
        breaker.failed(breaker.watch(), "429", stated_s)
        assert breaker.due_in_s == pytest.approx(expected_s)


def test_a_probe_that_is_given_up_leaves_the_next_one_due_at_once() -> None:
    breaker, clock = opened()
    clock.now_s += 1
    probe = breaker.probe()
    assert probe is not None
    breaker.abandoned(probe)
    assert breaker.due_in_s == 0.0
    assert breaker.probe() is not None


def test_a_reset_closes_it_and_what_began_before_opens_it_no_more() -> None:
    breaker, _ = opened()
    before = breaker.watch()
    breaker.reset()
    now = breaker.begin()
    assert now is not None
    assert not breaker.failed(before, "401")
    assert not breaker.is_open
    assert breaker.stands(now)
    assert not breaker.stands(before)
    assert breaker.failed(now, "401")
    assert not breaker.stands(now)


def test_the_delay_is_jittered_and_bounded() -> None:
    assert [backoff_s(1, jitter) for jitter in (0.0, 1.0)] == [0.375, 0.625]
    assert backoff_s(10_000, 1.0) == MOST_S * 1.25


def test_an_endpoint_that_has_just_answered_is_not_called_down_for_one_failure() -> None:
    breaker, _ = made()
    breaker.answered(breaker.watch())
    for _ in range(5):  # two of three calls fail
        assert not breaker.failed(breaker.watch(), "503")
        assert not breaker.failed(breaker.watch(), "503")
        breaker.answered(breaker.watch())
    assert not breaker.is_open
    assert [breaker.failed(breaker.watch(), "503") for _ in range(IN_A_ROW)] == [False, False, True]
    breaker.reset()  # another endpoint, that has not answered yet
    assert breaker.failed(breaker.watch(), "401")


def test_soon_after_an_answer_it_is_probed_more_often() -> None:
    breaker, clock = made()
    breaker.answered(breaker.watch())
    assert breaker.failed(breaker.watch(), "503", again=True)
    waits: list[float] = []
    while clock.now_s < 400.0 and (due_s := breaker.due_in_s) is not None:
        waits.append(due_s)
        clock.now_s += due_s
        probe = breaker.probe()
        assert probe is not None
        assert not breaker.failed(probe, "503")
    assert waits[:8] == [0.5, *[1.0] * 7]
    assert waits == sorted(waits)
    assert waits[-1] == MOST_S


@pytest.mark.parametrize("more", [{"again": True}, {"retry_after_s": 5.0}, {"later_s": TRUSTED_S}])
def test_what_opens_it_at_once_all_the_same(more: dict[str, Any]) -> None:
    breaker, clock = made()
    breaker.answered(breaker.watch())
    clock.now_s += more.pop("later_s", 0.0)
    assert breaker.failed(breaker.watch(), "429", **more)


def test_only_a_call_that_fails_while_others_are_answered_is_blamed_itself() -> None:
    attempts = Attempts(lambda: 0.5)
    assert [attempts.failed(answers) for answers in (0, 0, 3, 4, 4)] == [False, True, False, False, True]
    assert (attempts.alone, attempts.count) == (2, 5)
    for answers in range(5, 5 + LONE_FAILURES - 3):
        attempts.failed(answers)
        assert not attempts.exhausted
    attempts.failed(1000)
    assert attempts.exhausted


def test_a_call_that_waits_by_itself_waits_longer_each_time_or_as_long_as_it_is_told() -> None:
    attempts = Attempts(lambda: 0.5)
    waits = [attempts.delay_s() for _ in range(4) if attempts.failed(0) is not None]
    assert waits == [0.5, 1.0, 2.0, 4.0]
    assert attempts.delay_s(retry_after_s=9.0) == 9.0


class BreakerLife(RuleBasedStateMachine):
    """Whatever calls do: closed lets all begin, open lets one probe begin, and only when its time has come."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.breaker = Breaker(self.clock, lambda: 0.5)
        self.calls: list[Call] = []
        self.probing = False

    @rule()
    def begin(self) -> None:
        call = self.breaker.begin()
        assert (call is None) == self.breaker.is_open
        self.calls += [] if call is None else [call]

    @rule(seconds=st.floats(0.0, 40.0))
    def wait(self, seconds: float) -> None:
        self.clock.now_s += seconds

    @rule()
    def probe(self) -> None:
        due_s = self.breaker.due_in_s
        call = self.breaker.probe()
        assert (call is not None) == (due_s == 0.0)
        self.calls += [] if call is None else [call]

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), verdict=st.sampled_from(["answered", "failed", "abandoned"]))
    def end(self, data: st.DataObject, verdict: str) -> None:
        call = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        was_open = self.breaker.is_open
        if verdict == "answered":
            assert self.breaker.answered(call) == (was_open and not self.breaker.is_open)
        elif verdict == "failed":
            assert self.breaker.failed(call, "x") == (not was_open and self.breaker.is_open)
        else:
            self.breaker.abandoned(call)

    @rule()
    def reset(self) -> None:
        self.breaker.reset()
        assert not self.breaker.is_open

    @invariant()
    def an_open_one_is_waited_out_or_probed_by_one(self) -> None:
        standing = [call for call in self.calls if call.probe and self.breaker.stands(call)]
        assert len(standing) == (1 if self.breaker.is_probing else 0)
        assert self.breaker.is_open == (self.breaker.cause is not None) == (self.breaker.since is not None)


TestBreakerLife = BreakerLife.TestCase
