"""What jobs share: built beside the old one, ended after its last user, never left half-built."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
import pytest

from hotreload.reload.apply import Limits, PartFailed, commit, prepare, retire
from hotreload.workers.resources import Resource

pytestmark = pytest.mark.anyio


@dataclass
class Bench:
    """A resource whose values are the settings, and what became of each."""

    resource: Resource
    hangs: set[str] = field(default_factory=set)
    building: anyio.Event = field(default_factory=anyio.Event)
    alive: list[str] = field(default_factory=list)

    async def change(self, new: str, limits: Limits = Limits()) -> None:  # noqa: B008 - frozen
        ready = await prepare([self.resource], "old", new, [("vlm",)], 2, limits)
        await commit(ready, lambda: None)
        assert await retire(ready) == []

    async def until(self, alive: list[str]) -> None:
        with anyio.fail_after(5):
            while self.alive != alive:
                await anyio.lowlevel.checkpoint()

    def held(self) -> int:
        """Return how many tasks hold or build a value."""
        return sum(task.name == self.resource.name for task in anyio.get_running_tasks())


@asynccontextmanager
async def bench(end_s: float = 30.0) -> AsyncIterator[Bench]:
    async def build(settings: str) -> AsyncGenerator[str]:
        made.alive.append(settings)
        try:
            if f"build {settings}" in made.hangs:
                made.building.set()
                await anyio.sleep_forever()
            yield settings
            if f"end {settings}" in made.hangs:
                await anyio.sleep_forever()
        finally:
            made.alive.remove(settings)

    made = Bench(Resource("client", build, ("vlm",), end_s=end_s))
    await made.resource.start("first")
    yield made
    await made.resource.close(5)


async def test_a_change_ends_the_old_value_that_nobody_uses() -> None:
    async with bench() as one:
        await one.change("second")
        await one.until(["second"])
        assert one.resource.current().value == "second"
    assert one.alive == []


async def test_the_old_value_ends_with_the_last_job_that_uses_it() -> None:
    async with bench() as one:
        jobs = [one.resource.current(), one.resource.current()]
        assert [job.take() for job in jobs] == ["first"] * 2
        await one.change("second")
        later = one.resource.current()
        assert later.take() == "second"
        jobs[0].give_back()
        await anyio.wait_all_tasks_blocked()
        assert one.alive == ["first", "second"]
        jobs[1].give_back()
        await one.until(["second"])
        await one.change("third")
        await anyio.wait_all_tasks_blocked()
        assert one.alive == ["second", "third"]
        later.give_back()
        await one.until(["third"])


async def test_a_build_that_hangs_is_given_up_and_leaves_no_task() -> None:
    async with bench() as one:
        one.hangs.add("build second")
        for _ in range(5):
            with pytest.raises(PartFailed, match=r"resources\.client: prepare did not end"):
                await one.change("second", Limits(part_s=0.05))
            await one.until(["first"])
        await anyio.wait_all_tasks_blocked()
        assert one.held() == 1
        await one.change("third")
        await one.until(["third"])


async def test_cancelled_while_it_is_built_it_leaves_no_task() -> None:
    async with bench() as one:
        one.hangs.add("build second")
        async with anyio.create_task_group() as reload:
            reload.start_soon(one.change, "second")
            await one.building.wait()
            reload.cancel_scope.cancel()
        await one.until(["first"])
        await anyio.wait_all_tasks_blocked()
        assert one.held() == 1


async def test_an_end_that_hangs_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    async with bench(end_s=0.05) as one:
        one.hangs.add("end first")
        await one.change("second")
        await one.until(["second"])
        with anyio.fail_after(5):
            while "resource.end_hung" not in caplog.text:
                await anyio.lowlevel.checkpoint()
        assert one.held() == 1


async def test_a_change_taken_back_puts_the_old_value_in_force_at_once() -> None:
    async with bench() as one:
        ready = await prepare([one.resource], "old", "second", [("vlm",)], 2)
        [entry] = ready
        entry.prepared.commit()
        assert one.resource.current().value == "second"
        entry.prepared.revert()
        assert one.resource.current().value == "first"
        await entry.prepared.undo()
        await one.until(["first"])
