"""Small real parts for the flows: they do what a part does, and remember what they were asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio

from hotreload.lifecycle import Flushed, Remaining


@dataclass
class Work:
    """A Drainable with `jobs` that end when told to; `deaf` ones do not stop when interrupted."""

    name: str = "work"
    jobs: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    deaf: bool = False
    fails_to_flush: bool = False
    asked: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    changed: anyio.Event = field(default_factory=anyio.Event)

    def quiesce(self) -> None:
        self.asked.append("quiesce")

    def remaining(self) -> Sequence[Remaining]:
        return [Remaining(job, self.name) for job in self.jobs] + [
            Remaining(job, self.name, waiting=True) for job in self.waiting
        ]

    def end(self, job: str) -> None:
        self.jobs.remove(job)
        self.finished.append(job)
        self.changed.set()

    async def idle(self) -> None:
        self.asked.append("idle")
        while self.jobs:
            self.changed = anyio.Event()
            await self.changed.wait()

    async def interrupt(self) -> None:
        self.asked.append("interrupt")
        if self.deaf:
            await anyio.sleep_forever()
        self.stopped, self.jobs = self.jobs, []

    stopped: list[str] = field(default_factory=list)

    def flush(self, timeout_s: float) -> Flushed:
        self.asked.append("flush")
        if self.fails_to_flush:
            raise OSError("disk full")
        return Flushed(finished=self.finished, requeued=[*self.stopped, *self.jobs], abandoned=list(self.jobs))
