"""Apply: all parts or none, whatever one of them does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
import pytest

from hotreload.reload import apply
from hotreload.reload.apply import PartFailed, Ready, Transition, commit, covers, owner_of, prepare, retire, undo

pytestmark = pytest.mark.anyio


@dataclass
class Part:
    """A Reloadable holding one value; `fails` names the stage at which it raises, `hangs` where it never returns."""

    name: str
    log: list[str]
    paths: Sequence[str] = ("vlm",)
    fails: str = ""
    hangs: str = ""
    cancels: str = ""
    value: object = "old"
    seen: list[Transition] = field(default_factory=list)

    async def step(self, stage: str) -> None:
        self.log.append(f"{self.name}.{stage}")
        if self.hangs == stage:
            await anyio.sleep_forever()
        if self.fails == stage:
            raise RuntimeError(f"no {stage}")
        if self.cancels == stage:
            raise asyncio.CancelledError

    async def prepare(self, transition: Transition) -> PartChange | None:
        self.seen.append(transition)
        await self.step("prepare")
        return PartChange(self, transition.new)


@dataclass
class PartChange:
    part: Part
    new: object
    old: object = None

    def commit(self) -> None:
        self.part.log.append(f"{self.part.name}.commit")
        if self.part.fails == "commit":
            raise RuntimeError("no commit")
        self.old, self.part.value = self.part.value, self.new

    async def undo(self) -> None:
        await self.part.step("undo")
        if self.old is not None:
            self.part.value = self.old

    async def retire(self) -> None:
        await self.part.step("retire")


class Published(PartChange):
    async def publish(self) -> None:
        await self.part.step("publish")


class PublishingPart(Part):
    async def prepare(self, transition: Transition) -> PartChange | None:
        self.log.append(f"{self.name}.prepare")
        return Published(self, transition.new)


@pytest.fixture(autouse=True)
def short_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "PART_LIMIT_S", 0.05)


async def changed(parts: Sequence[Part]) -> list[Ready]:
    return await prepare(parts, "old", "new", ["vlm.model"], 2)


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
    await prepare([mine, other], "old", "new", ["vlm.model", "storage"], 7)
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
    apply.PART_LIMIT_S = 30
    with anyio.move_on_after(0.05) as scope:
        await changed(parts)
    assert scope.cancelled_caught
    assert log == ["a.prepare", "b.prepare", "a.undo"]


@pytest.mark.parametrize("trouble", [{"fails": "undo"}, {"hangs": "undo"}])
async def test_an_undo_that_fails_keeps_no_other_from_undoing(trouble: dict[str, str]) -> None:
    log: list[str] = []
    parts = [Part("a", log), Part("b", log, **trouble), Part("c", log, fails="prepare")]
    with pytest.raises(PartFailed):
        await changed(parts)
    assert log[-2:] == ["b.undo", "a.undo"]


async def test_a_commit_that_raises_takes_the_committed_ones_back() -> None:
    log: list[str] = []
    parts = [Part("a", log), Part("b", log, fails="commit"), Part("c", log)]
    ready = await changed(parts)
    with pytest.raises(PartFailed, match="b: commit failed"):
        await commit(ready, lambda: log.append("swap"))
    assert "swap" not in log
    assert [part.value for part in parts] == ["old"] * 3


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


async def test_the_limit_for_all_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apply, "ALL_LIMIT_S", 0.05)
    monkeypatch.setattr(apply, "PART_LIMIT_S", 30)
    log: list[str] = []
    with pytest.raises(PartFailed, match="in all"):
        await changed([Part("a", log), Part("b", log, hangs="prepare")])
    assert log[-1] == "a.undo"


def test_the_longest_prefix_owns_a_field() -> None:
    parts = [Part("all", [], paths=("",)), Part("vlm", [], paths=("vlm",)), Part("key", [], paths=("vlm.api_key",))]
    assert owner_of("vlm.api_key", parts) == "key"
    assert owner_of("vlm.model", parts) == "vlm"
    assert owner_of("storage", parts) == "all"
    assert owner_of("storage", parts[1:]) is None
    assert not covers("vlm", "vlmx.model")


async def test_undo_of_nothing_is_nothing() -> None:
    await undo([])
    assert await prepare([], "old", "new", ["vlm"], 2) == []


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
