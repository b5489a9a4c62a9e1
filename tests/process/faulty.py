"""The sample service with three more parts whose every step can fail, and which write down what they run on."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import anyio
import anyio.to_thread
from pydantic import Field

from hotreload import Job, Live, Service
from hotreload.host.start import RunOptions
from hotreload.reload.apply import Limits
from tests.process.sample import Sample

NAMES = ("one", "two", "three")
LIMIT_S = 0.3


class Faulty(Sample):
    """`faults` maps a part to what goes wrong in it: `prepare fails`, `commit fails, undo hangs`."""

    faults: Annotated[dict[str, str], Live] = Field(default_factory=dict)


async def _go_wrong(faults: str, stage: str) -> None:
    how = _fault(faults, stage)
    if how == "hangs":
        await anyio.sleep_forever()
    if how == "is stuck":
        await anyio.to_thread.run_sync(threading.Event().wait, 3 * LIMIT_S)
    _go_wrong_at_once(faults, stage)


def _go_wrong_at_once(faults: str, stage: str) -> None:
    match _fault(faults, stage):
        case "fails":
            raise RuntimeError("as it was told to")
        case "is cancelled":
            raise asyncio.CancelledError
        case "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case _:
            pass


def _fault(faults: str, stage: str) -> str:
    told = dict(fault.strip().split(" ", 1) for fault in faults.split(",") if fault)
    return told.get(stage, "")


@dataclass
class Part:
    """A Reloadable that keeps the generation it runs on in a file beside ov.conf."""

    name: str
    paths: Sequence[str] = ("value", "faults")

    async def prepare(self, transition: Any) -> Change:
        """Fail if told to."""
        faults = transition.new.faults.get(self.name, "")
        await _go_wrong(faults, "prepare")
        return Change(self, faults, transition.generation - 1, transition.generation)

    def write(self, generation: int) -> None:
        """Write down the generation, how many tasks there are, and how many objects no search for garbage looks at."""
        told = {"generation": generation, "tasks": len(asyncio.all_tasks()), "frozen": gc.get_freeze_count()}
        conf = Path(sys.argv[sys.argv.index("--config") + 1])
        (conf.parent / self.name).write_text(json.dumps(told))


@dataclass
class Change:
    """What a part prepared."""

    part: Part
    faults: str
    old: int
    new: int

    def commit(self) -> None:
        """Fail if told to, before the switch."""
        _go_wrong_at_once(self.faults, "commit")
        self.part.write(self.new)

    def revert(self) -> None:
        """Switch back, then fail if told to."""
        self.part.write(self.old)
        _go_wrong_at_once(self.faults, "revert")

    async def undo(self) -> None:
        """Fail if told to."""
        await _go_wrong(self.faults, "undo")

    async def retire(self) -> None:
        """Fail if told to."""
        await _go_wrong(self.faults, "retire")


class Hurried(Service[Faulty]):
    """Gives a part that hangs up sooner than in earnest."""

    def run(self, options: RunOptions) -> int:
        """Run with other limits."""
        return super().run(replace(options, limits=Limits(part_s=LIMIT_S)))


service = Hurried("sample", settings=Faulty, version="1")
for each in NAMES:
    service.reloadable(Part(each))


@service.resource(rebuilt_by=("value",))
async def client(conf: Faulty) -> AsyncIterator[int]:
    """Build what jobs share."""
    yield conf.value


service.limit("all", lambda conf: conf.limit)


@service.worker("work", limit=lambda conf: conf.limit, shares=("all",))
async def work(_job: Job[int], conf: Faulty, client: int) -> None:
    """Hold a place in the pool, and what goes with the settings."""
    await anyio.sleep(conf.hold_s)
    assert client == conf.value
