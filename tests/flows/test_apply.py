"""Apply: all parts or none, whatever one of them does."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from hotreload.host.start import RunOptions
from hotreload.reload.apply import (
    Limits,
    PartFailed,
    Ready,
    Transition,
    commit,
    covers,
    owner_of,
    prepare,
    retire,
    undo,
)
from hotreload.reload.bounded import LETTING_GO_S
from hotreload.testing import FakeChange, FakeReloadable

pytestmark = pytest.mark.anyio


@dataclass
class Part(FakeReloadable):
    """A part that looks at the values of `all` when it is undone."""

    all: list[Part] = field(default_factory=list)
    seen_at_undo: list[object] = field(default_factory=list)

    async def step(self, stage: str) -> None:
        if stage == "undo":
            self.seen_at_undo = [part.value for part in self.all]
        await super().step(stage)


class Published(FakeChange):
    async def publish(self) -> None:
        await self.part.step("publish")


class PublishingPart(Part):
    async def prepare(self, transition: Transition) -> FakeChange | None:
        self.log.append(f"{self.name}.prepare")
        return Published(self, transition.new)


SHORT, LONG = Limits(part_s=0.05), Limits(part_s=30)


async def changed(parts: Sequence[Part], limits: Limits = SHORT) -> list[Ready]:
    return await prepare(parts, "old", "new", [("vlm", "model")], 2, limits)


async def test_all_prepare_then_all_commit_then_all_retire() -> None:
    log: list[str] = []
    parts = [Part("a", log), Part("b", log)]
    ready = await changed(parts)
    await commit(ready, lambda: log.append("swap"))
    assert await retire(ready) == []
    assert log == ["a.prepare", "b.prepare", "a.commit", "b.commit", "swap", "a.retire", "b.retire"]
    assert [part.value for part in parts] == ["new", "new"]


async def test_a_part_hears_only_of_its_own_fields() -> None:
    log: list[str] = []
    mine, other = Part("a", log, paths=("vlm",)), Part("b", log, paths=("embedding",))
    await prepare([mine, other], "old", "new", [("vlm", "model"), ("storage",), ("vlm.model",)], 7)
    assert other.seen == []
    assert mine.seen == [Transition("old", "new", ["vlm.model"], 7)]


@pytest.mark.parametrize("trouble", [{"fails": "prepare"}, {"hangs": "prepare"}, {"cancels": "prepare"}])
async def test_a_part_that_cannot_prepare_undoes_the_others_in_reverse(trouble: dict[str, str]) -> None:
    log: list[str] = []
    parts = [Part("a", log), Part("b", log), Part("c", log, **trouble)]
    with pytest.raises(PartFailed) as failed:
        await changed(parts)
    assert failed.value.part == "c"
    assert log == ["a.prepare", "b.prepare", "c.prepare", "b.undo", "a.undo"]
    assert [part.value for part in parts] == ["old"] * 3


async def test_a_cancelled_prepare_undoes_what_was_prepared() -> None:
    log: list[str] = []
    parts = [Part("a", log), Part("b", log, hangs="prepare")]
    with anyio.move_on_after(0.05) as scope:
        await changed(parts, LONG)
    assert scope.cancelled_caught
    assert log == ["a.prepare", "b.prepare", "a.undo"]


@pytest.mark.parametrize("trouble", [{"fails": "undo"}, {"hangs": "undo"}])
async def test_an_undo_that_fails_keeps_no_other_from_undoing(trouble: dict[str, str]) -> None:
    log: list[str] = []
    parts = [Part("a", log), Part("b", log, **trouble), Part("c", log, fails="prepare")]
    with pytest.raises(PartFailed):
        await changed(parts)
    assert log[-2:] == ["b.undo", "a.undo"]


@pytest.mark.parametrize("raises", ["commit", "swap"])
async def test_no_part_is_new_while_another_is_old_again(raises: str) -> None:
    """A commit or the swap raises: all are back before the first undo is awaited, so nobody sees a mixture."""
    log: list[str] = []
    parts = [Part("a", log), Part("b", log), Part("c", log, fails="commit" if raises == "commit" else "")]
    for part in parts:
        part.all = parts
    ready = await changed(parts)

    def swap() -> None:
        raise RuntimeError("no swap")

    with pytest.raises(PartFailed, match="c: commit failed"):
        await commit(ready, swap)
    assert log[6:] == ["c.revert", "b.revert", "a.revert", "c.undo", "b.undo", "a.undo"]
    assert [part.seen_at_undo for part in parts] == [["old"] * 3] * 3


async def test_a_part_that_was_not_reached_is_not_reverted() -> None:
    log: list[str] = []
    parts = [Part("a", log, fails="commit"), Part("b", log)]
    with pytest.raises(PartFailed):
        await commit(await changed(parts), lambda: log.append("swap"))
    assert log[2:] == ["a.commit", "a.revert", "b.undo", "a.undo"]


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        ({"fails": "revert"}, "b: going back failed: RuntimeError: no revert"),
        ({"fails": "undo"}, "b: undo failed: RuntimeError: no undo"),
        ({"hangs": "undo"}, "b: undo did not end within 0.05 s"),
        ({"stuck": "undo"}, "b: undo did not end within 0.05 s"),
        ({"cancels": "undo"}, "b: undo failed: CancelledError"),
    ],
)
async def test_who_does_not_go_back_is_named(trouble: dict[str, str], told: str) -> None:
    log: list[str] = []
    parts = [Part("a", log), Part("b", log, **trouble), Part("c", log, fails="commit")]
    with pytest.raises(PartFailed, match="c: commit failed") as failed:
        await commit(await changed(parts), lambda: None)
    assert [str(left) for left in failed.value.not_undone] == [told]
    assert log[-1] == "a.undo"
    assert (parts[0].value, parts[2].value) == ("old", "old")
    parts[1].let_go.set()


async def test_a_prepare_that_cannot_be_cancelled_is_given_up_in_time_and_undone_late() -> None:
    log: list[str] = []
    parts = [Part("a", log), Part("b", log, stuck="prepare"), Part("c", log)]
    with anyio.fail_after(1):
        with pytest.raises(PartFailed, match=r"b: prepare did not end within 0\.05 s"):
            await changed(parts)
    assert log == ["a.prepare", "b.prepare", "a.undo"]
    parts[1].let_go.set()
    with anyio.fail_after(1):
        while log[-1] != "b.undo":
            await anyio.lowlevel.checkpoint()
    assert [part.value for part in parts] == ["old"] * 3


async def test_a_thread_that_prepares_too_long_is_given_up_in_time_and_undone_late() -> None:
    log: list[str] = []
    go = threading.Event()

    class Threaded(Part):
        async def prepare(self, transition: Transition) -> FakeChange:
            await anyio.to_thread.run_sync(go.wait)
            return FakeChange(self, transition.new)

    with anyio.fail_after(1):
        with pytest.raises(PartFailed, match="did not end"):
            await changed([Threaded("b", log)])
    go.set()
    with anyio.fail_after(5):
        while log != ["b.undo"]:
            await anyio.lowlevel.checkpoint()


async def test_a_publish_that_goes_on_is_taken_back_when_it_ends() -> None:
    log: list[str] = []
    stock = PublishingPart("stock", log, stuck="publish")
    ready = await changed([Part("a", log), stock])
    with anyio.fail_after(2):
        with pytest.raises(PartFailed, match="stock: commit did not publish") as failed:
            await commit(ready, lambda: log.append("swap"))
    assert [left.part for left in failed.value.not_undone] == ["stock"]
    assert log[-2:] == ["stock.publish", "a.undo"]
    stock.let_go.set()
    with anyio.fail_after(1):
        while log[-1] != "stock.undo":
            await anyio.lowlevel.checkpoint()


async def test_cancelled_while_it_publishes_everything_is_taken_back() -> None:
    log: list[str] = []
    ready = await changed([Part("a", log), PublishingPart("stock", log, hangs="publish")], LONG)
    with anyio.move_on_after(0.05) as scope:
        await commit(ready, lambda: log.append("swap"))
    assert scope.cancelled_caught
    assert log[2:] == ["stock.publish", "stock.undo", "a.undo"]


async def test_what_is_published_is_taken_back_first() -> None:
    log: list[str] = []
    parts = [PublishingPart("stock", log), Part("a", log), Part("b", log, fails="commit")]
    with pytest.raises(PartFailed):
        await commit(await changed(parts), lambda: None)
    assert log[-6:] == ["b.revert", "a.revert", "stock.revert", "stock.undo", "b.undo", "a.undo"]


async def test_all_retire_at_once_within_one_limit() -> None:
    log: list[str] = []
    parts = [Part(name, log, hangs="retire") for name in "abcdefgh"]
    ready = await changed(parts)
    await commit(ready, lambda: None)
    with anyio.fail_after(4 * (0.05 + LETTING_GO_S)):
        assert len(await retire(ready)) == 8


@pytest.mark.parametrize("trouble", [{"fails": "publish"}, {"hangs": "publish"}])
async def test_a_publish_that_fails_commits_nothing(trouble: dict[str, str]) -> None:
    log: list[str] = []
    parts = [Part("a", log), PublishingPart("stock", log, **trouble)]
    ready = await changed(parts)
    with pytest.raises(PartFailed, match="stock"):
        await commit(ready, lambda: log.append("swap"))
    assert not [entry for entry in log if entry.endswith(("commit", "swap"))]
    assert log[-2:] == ["stock.undo", "a.undo"]


async def test_a_publish_comes_before_every_commit() -> None:
    log: list[str] = []
    ready = await changed([Part("a", log), PublishingPart("stock", log)])
    await commit(ready, lambda: log.append("swap"))
    assert log[2:] == ["stock.publish", "a.commit", "stock.commit", "swap"]


@pytest.mark.parametrize("trouble", [{"fails": "retire"}, {"hangs": "retire"}])
async def test_a_retire_that_fails_is_a_warning(trouble: dict[str, str]) -> None:
    log: list[str] = []
    ready = await changed([Part("a", log, **trouble), Part("b", log)])
    await commit(ready, lambda: None)
    warnings = await retire(ready)
    assert [warning.split(":")[0] for warning in warnings] == ["a"]
    assert log[-1] == "b.retire"


async def test_the_limit_for_all_is_kept() -> None:
    log: list[str] = []
    with pytest.raises(PartFailed, match="in all"):
        await changed([Part("a", log), Part("b", log, hangs="prepare")], Limits(part_s=30, all_s=0.05))
    assert log[-1] == "a.undo"


def test_without_others_the_limits_are_5_s_for_a_part_and_15_s_for_all() -> None:
    assert Limits() == Limits(part_s=5, all_s=15)
    assert RunOptions().limits == Limits()


def test_the_longest_prefix_owns_a_field() -> None:
    parts = [Part("all", [], paths=("",)), Part("vlm", [], paths=("vlm",)), Part("key", [], paths=("vlm.api_key",))]
    assert owner_of(("vlm", "api_key"), parts) == "key"
    assert owner_of(("vlm", "model"), parts) == "vlm"
    assert owner_of(("storage",), parts) == "all"
    assert owner_of(("storage",), parts[1:]) is None
    assert not covers("vlm", ("vlmx", "model"))
    assert not covers("vlm", ("vlm.model",))
    assert covers("vlm.model", ("vlm.model", "x"))


async def test_undo_of_nothing_is_nothing() -> None:
    await undo([])
    assert await prepare([], "old", "new", [("vlm",)], 2) == []


async def test_a_part_that_is_cancelled_by_itself_fails_alone() -> None:
    """A part that awaits something cancelled raises what a cancellation of the whole reload would raise too."""
    log: list[str] = []
    parts = [Part("a", log, cancels="undo"), Part("b", log, fails="commit")]
    ready = await changed(parts)
    with pytest.raises(PartFailed, match="b: commit failed: RuntimeError: no commit"):
        await commit(ready, lambda: None)
    assert log[-2:] == ["b.undo", "a.undo"]
    warnings = await retire(await changed([Part("a", log, cancels="retire"), Part("b", log)]))
    assert (warnings, log[-1]) == (["a: retiring the old value failed: CancelledError"], "b.retire")
