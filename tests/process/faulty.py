"""The sample service with three more parts whose every step can fail, and which write down what they run on."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import anyio
from pydantic import Field

from hotreload import Live, Service
from hotreload.host.parts import Parts
from hotreload.host.start import Started
from hotreload.reload import apply
from tests.process.sample import Sample

NAMES = ("one", "two", "three")
LIMIT_S = 0.3

apply.PART_LIMIT_S = LIMIT_S  # a part that hangs is given up sooner than in earnest


class Faulty(Sample):
    """`faults` maps a part to what goes wrong in it, `prepare fails` or `commit is killed`."""

    faults: Annotated[dict[str, str], Live] = Field(default_factory=dict)


async def _go_wrong(how: str) -> None:
    if how.endswith("hangs"):
        await anyio.sleep_forever()
    _go_wrong_at_once(how)


def _go_wrong_at_once(how: str) -> None:
    if how.endswith("fails"):
        raise RuntimeError("as it was told to")
    if how.endswith("is cancelled"):
        raise asyncio.CancelledError
    if how.endswith("is killed"):
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Part:
    """A Reloadable that keeps the generation it runs on in a file beside ov.conf."""

    name: str
    folder: Path
    paths: Sequence[str] = ("value", "faults")

    async def prepare(self, transition: Any) -> Change:
        """Fail if told to."""
        fault = transition.new.faults.get(self.name, "")
        if fault.startswith("prepare"):
            await _go_wrong(fault)
        return Change(self, fault, transition.generation - 1, transition.generation)

    def write(self, generation: int) -> None:
        """Write down the generation, and how many tasks there are."""
        told = {"generation": generation, "tasks": len(asyncio.all_tasks())}
        (self.folder / self.name).write_text(json.dumps(told))


@dataclass
class Change:
    """What a part prepared."""

    part: Part
    fault: str
    old: int
    new: int

    def commit(self) -> None:
        """Fail if told to, before or after the switch."""
        if self.fault.startswith("commit"):
            _go_wrong_at_once(self.fault)
        self.part.write(self.new)

    async def undo(self) -> None:
        """Go back, and fail if told to."""
        self.part.write(self.old)
        if self.fault.startswith("undo"):
            await _go_wrong(self.fault)

    async def retire(self) -> None:
        """Fail if told to."""
        if self.fault.startswith("retire"):
            await _go_wrong(self.fault)


class FaultyService(Service):
    """A service with the parts above among its own."""

    def _parts(self, started: Started) -> Parts:
        parts = super()._parts(started)
        folder = started.source.path.parent
        own = [Part(name, folder) for name in NAMES]
        return replace(parts, reloadables=[own[0], *parts.reloadables, *own[1:]])


service = FaultyService("sample", settings=Faulty, version="1")
