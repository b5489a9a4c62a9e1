"""Where a job goes on after it was cut: no item is passed over that was not checkpointed, none repeated that was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hotreload import Job
from hotreload.queue.job import JobRow, JobState, NewJob
from hotreload.queue.sqlite import SqliteQueue
from hotreload.workers.job import AnyJob, Surroundings
from hotreload.workers.kind import Kind
from hotreload.workers.progress import Progress

from .test_pool import snapshot
from .test_pool_jobs import shop

pytestmark = pytest.mark.anyio


class Cut(Exception):
    """The process ended here."""


class Life(AnyJob[Any]):
    """A job over several lives of its process; it dies after so many steps."""

    def __init__(self, kept: Progress, steps: int) -> None:
        super().__init__("1", 1, None, kept)
        self.left = steps

    def tick(self) -> None:
        """Let one step pass."""
        self.left -= 1
        if self.left < 0:
            raise Cut

    def keep(self, cursor: Any) -> None:
        """Make a checkpoint."""
        self.tick()
        self._progress = self._progress.at(cursor, self._at())


Shape = list[tuple[bool, list[bool], list[bool]]]


def nested(life: Life, shape: Shape) -> None:
    """Do every item of two loops inside of one, and of one behind.

    The cursor is the list of all items done: a checkpoint keeps it, so an item passed over or repeated is seen.
    """
    done: list[Any] = list(life.cursor or [])

    def work(*item: int, keeps: bool) -> None:
        life.tick()
        done.append(list(item))
        if keeps:
            life.keep(list(done))

    for outer, (keeps, *inner_loops) in life.resume(enumerate(shape)):
        for number, inner_loop in enumerate(inner_loops):
            for inner, inner_keeps in life.resume(enumerate(inner_loop), loop=str(number)):
                work(outer, number, inner, keeps=inner_keeps)
        work(outer, keeps=keeps)
    life.keep(list(done))
    for last in life.resume(range(3), loop="last"):
        work(-1, last, keeps=True)


def whole(shape: Shape) -> list[list[int]]:
    """Return every item in order."""
    found: list[list[int]] = []
    for outer, (_, first, second) in enumerate(shape):
        found += [[outer, 0, inner] for inner in range(len(first))]
        found += [[outer, 1, inner] for inner in range(len(second))]
        found.append([outer])
    return found + [[-1, last] for last in range(3)]


flags = st.lists(st.booleans(), max_size=3)


@given(
    shape=st.lists(st.tuples(st.booleans(), flags, flags), max_size=4), lives=st.lists(st.integers(0, 12), max_size=6)
)
def test_cut_anywhere_no_item_is_passed_over_and_none_done_twice(shape: Shape, lives: list[int]) -> None:
    kept = Progress()
    for steps in [*lives, 1_000]:
        life = Life(kept, steps)
        try:
            nested(life, shape)
        except Cut:
            kept = replace(life.progress)
            continue
        assert life.cursor == whole(shape)
        return
    raise AssertionError("it never came to its end")


def test_what_is_kept_of_inner_loops_does_not_grow() -> None:
    life = Life(Progress(), 1_000)
    for outer in life.resume(range(50), loop="outer"):
        for inner in life.resume(range(3)):
            life.keep((outer, inner))
    life.keep(None)
    assert life.progress.positions == {"outer": 50}


def test_a_loop_that_is_left_early_leaves_the_outer_one_in_its_place() -> None:
    life = Life(Progress(), 1_000)
    for _ in life.resume(range(2), loop="outer"):
        for inner in life.resume(range(9)):
            if inner == 1:
                break
        life.keep(None)
    assert life.progress.positions["outer"] == 2


@pytest.mark.parametrize("first", ["items", "named"])
def test_two_loops_of_one_name_are_refused(first: str) -> None:
    life = Life(Progress(), 1_000)
    list(life.resume("ab", loop=first))
    with pytest.raises(ValueError, match="a name of its own"):
        list(life.resume("cd", loop=first))
    with pytest.raises(ValueError, match="has no '#'"):
        list(life.resume("cd", loop="a#1/b"))


async def test_nested_loops_over_a_real_store(tmp_path: Path) -> None:
    """As the pool does it, with a failure inside of the second inner loop."""
    seen: list[tuple[int, int, int]] = []

    async def nests(job: Job[Any], _settings: Any) -> None:
        for outer in job.resume(range(3)):
            for inner in job.resume(range(3)):
                seen.append((job.attempt, outer, inner))
                if (job.attempt, outer, inner) == (1, 1, 1):
                    raise RuntimeError("cut")
                await job.checkpoint()
            await job.checkpoint()

    async with shop(tmp_path, nests) as one:
        await one.store.enqueue([NewJob("nests", None)])
        await one.until(lambda: len(seen) == 10)
        await one.until(lambda: not one.depth("running"))
        assert (await one.only()).state is JobState.DONE
    assert seen == [
        (1, 0, 0),
        (1, 0, 1),
        (1, 0, 2),
        (1, 1, 0),
        (1, 1, 1),
        (2, 1, 1),
        (2, 1, 2),
        (2, 2, 0),
        (2, 2, 1),
        (2, 2, 2),
    ]


async def test_steps_and_checkpoints_at_once_are_all_durable(tmp_path: Path) -> None:
    store = SqliteQueue.open(tmp_path / "q.db")
    await store.enqueue([NewJob("a", None)])
    [row] = await store.claim("a", 1)
    around = Surroundings(store, Kind("a"), newest=lambda: snapshot(1))

    def job_of(row: JobRow) -> Job[Any]:
        return Job(row, None, around)

    job = job_of(row)
    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(job.step, f"step {number}", lambda number=number: number)
            if number == 10:
                tasks.start_soon(job.checkpoint, "cursor")
    store.requeue_running(["a"], 5)
    [row] = await store.claim("a", 1)
    again = job_of(row)
    assert again.cursor == "cursor"
    assert again.progress.steps == {f"step {number}": number for number in range(20)}
    store.close()
