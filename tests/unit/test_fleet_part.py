"""One process' part of a limit over all nodes: what it asks for, what it uses, and for how long."""

from __future__ import annotations

from hotreload.queue.fleet import Ask, Grant
from hotreload.workers.fleet import FleetPart
from hotreload.workers.limits import SharedLimit


class Clock:
    """Seconds as the test says."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def made(ready: int = 100, value: int = 16) -> tuple[SharedLimit, FleetPart, list[str], Clock]:
    limit, clock, said = SharedLimit("calls", value), Clock(), list[str]()
    part = FleetPart(limit, lambda _pool: ready, clock)
    part.on_need(lambda: said.append("ask"))
    return limit, part, said, clock


def take(limit: SharedLimit, wanted: int, said: list[str]) -> int:
    return limit.take("workers.a", wanted, lambda: said.append("wake"))


def test_nothing_is_taken_before_it_is_granted_and_the_pool_is_woken_then() -> None:
    limit, part, said, _ = made()
    assert (take(limit, 4, said), said) == (0, ["ask"])
    assert part.ask() == Ask("limits.calls", 16, 0, 4)
    part.granted(Grant(4, 4, short=False), until=10)
    assert said == ["ask", "wake"]
    assert (take(limit, 4, said), limit.full) == (4, True)


def test_what_is_asked_for_is_not_asked_for_again_and_no_more_than_there_is_work_for() -> None:
    limit, part, said, _ = made(ready=3)
    take(limit, 9, said)
    assert part.ask().wants == 3
    take(limit, 9, said)
    assert said == ["ask"]


def test_a_part_is_used_no_longer_than_no_other_node_can_have_taken_it_over() -> None:
    limit, part, said, clock = made()
    take(limit, 4, said)
    part.ask()
    part.granted(Grant(4, 4, short=False), until=10)
    assert take(limit, 2, said) == 2
    clock.now_s = 10
    assert take(limit, 2, said) == 0
    assert part.ask().has == 4, "what runs and may run is kept until the store says otherwise"
    said.clear()
    part.granted(Grant(4, 4, short=False), until=20)
    assert (said, take(limit, 2, said)) == (["wake"], 2)


def test_a_new_value_is_not_overtaken_by_the_answer_for_the_old_one() -> None:
    limit, part, said, _ = made()
    take(limit, 16, said)
    part.ask()
    limit.set(2)
    part.granted(Grant(16, 16, short=False), until=10)
    assert take(limit, 2, said) == 0
    assert part.ask() == Ask("limits.calls", 2, 0, 2)
    part.granted(Grant(2, 2, short=False), until=10)
    assert take(limit, 2, said) == 2


def test_what_is_anothers_part_is_given_back_as_places_get_free() -> None:
    limit, part, said, _ = made()
    take(limit, 16, said)
    part.ask()
    part.granted(Grant(16, 16, short=False), until=10)
    assert take(limit, 16, said) == 16
    part.ask()
    part.granted(Grant(16, 8, short=False), until=10)
    said.clear()
    limit.give_back("workers.a", 5)
    assert (said, part.ask().has) == (["ask"], 11)
    assert take(limit, 5, said) == 0


def test_what_is_not_used_goes_back_by_halves() -> None:
    limit, part, said, _ = made()
    take(limit, 8, said)
    part.ask()
    part.granted(Grant(8, 8, short=False), until=10)
    assert take(limit, 8, said) == 8
    limit.give_back("workers.a", 8)
    limit.content("workers.a")
    asked: list[int] = []
    for _ in range(5):
        asked.append(part.ask().wants)
        part.granted(Grant(asked[-1], asked[-1], short=False), until=10)
    assert asked == [8, 4, 2, 1, 0]
    assert part.idle
