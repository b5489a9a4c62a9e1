"""Fakes for tests of your own parts: small real implementations that remember what they were asked.

They meet `Reloadable` and `Drainable` as any part does, so that a test can put its own part beside one that fails,
hangs or cannot be stopped, and see what becomes of both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio

from hotreload.lifecycle import Flushed, Remaining
from hotreload.reload.apply import Transition


@dataclass
class FakeReloadable:
    """A Reloadable that holds one value, and writes `NAME.STAGE` into `log` for each call.

    `fails`, `hangs` and `cancels` name the stage (`prepare`, `commit`, `revert`, `undo`, `retire`) at which it raises
    RuntimeError, never returns, or raises a cancellation that was not asked for; `stuck` one at which it cannot even be
    cancelled until `let_go` is set. Only `fails` counts for `commit` and `revert`, which are synchronous.
    """

    name: str
    log: list[str]
    paths: Sequence[str] = ("vlm",)
    fails: str = ""
    hangs: str = ""
    cancels: str = ""
    stuck: str = ""
    let_go: anyio.Event = field(default_factory=anyio.Event)
    value: object = "old"
    seen: list[Transition] = field(default_factory=list[Transition])

    async def prepare(self, transition: Transition) -> FakeChange | None:
        """Make a change to the new settings."""
        self.seen.append(transition)
        await self.step("prepare")
        return FakeChange(self, transition.new)

    async def step(self, stage: str) -> None:
        """Do what is to happen at a stage that may be awaited."""
        self.log.append(f"{self.name}.{stage}")
        if self.hangs == stage:
            await anyio.sleep_forever()
        if self.stuck == stage:
            with anyio.CancelScope(shield=True):
                await self.let_go.wait()
        if self.fails == stage:
            raise RuntimeError(f"no {stage}")
        if self.cancels == stage:
            raise asyncio.CancelledError

    def step_now(self, stage: str) -> None:
        """Do what is to happen at a synchronous stage."""
        self.log.append(f"{self.name}.{stage}")
        if self.fails == stage:
            raise RuntimeError(f"no {stage}")


@dataclass
class FakeChange:
    """A prepared change of a `FakeReloadable`."""

    part: FakeReloadable
    new: object
    old: object = None

    def commit(self) -> None:
        """Put the new value in force."""
        self.part.step_now("commit")
        self.old, self.part.value = self.part.value, self.new

    def revert(self) -> None:
        """Put the old value back."""
        self.part.step_now("revert")
        if self.old is not None:
            self.part.value = self.old

    async def undo(self) -> None:
        """Throw the change away."""
        await self.part.step("undo")

    async def retire(self) -> None:
        """End what was replaced."""
        await self.part.step("retire")


@dataclass
class FakeDrainable:
    """A Drainable with `jobs` that end when told to (`end`), and `waiting` ones that wait for other work.

    What it was asked is in `asked`, in order. A `deaf` one does not stop when it is interrupted.
    """

    name: str = "work"
    jobs: list[str] = field(default_factory=list[str])
    waiting: list[str] = field(default_factory=list[str])
    deaf: bool = False
    fails_to_flush: bool = False
    asked: list[str] = field(default_factory=list[str])
    finished: list[str] = field(default_factory=list[str])
    stopped: list[str] = field(default_factory=list[str])
    changed: anyio.Event = field(default_factory=anyio.Event)

    def end(self, job: str) -> None:
        """Let a job finish."""
        self.jobs.remove(job)
        self.finished.append(job)
        self.changed.set()

    def quiesce(self) -> None:
        """Remember it: nothing is claimed here."""
        self.asked.append("quiesce")

    def remaining(self) -> Sequence[Remaining]:
        """Return the jobs, then those that wait."""
        running = [Remaining(job, self.name) for job in self.jobs]
        return running + [Remaining(job, self.name, waiting=True) for job in self.waiting]

    async def idle(self) -> None:
        """Return once every job has ended."""
        self.asked.append("idle")
        while self.jobs:
            self.changed = anyio.Event()
            await self.changed.wait()

    async def interrupt(self) -> None:
        """Stop all jobs, unless deaf."""
        self.asked.append("interrupt")
        if self.deaf:
            await anyio.sleep_forever()
        self.stopped, self.jobs = self.jobs, []

    def flush(self, timeout_s: float) -> Flushed:
        """Put back what did not finish; OSError where it is to fail."""
        del timeout_s
        self.asked.append("flush")
        if self.fails_to_flush:
            raise OSError("disk full")
        return Flushed(finished=self.finished, requeued=[*self.stopped, *self.jobs], abandoned=list(self.jobs))
