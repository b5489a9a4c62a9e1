"""Jobs read whole snapshots while reloads go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import anyio
import anyio.lowlevel
import pytest

from hotreload import Live, LiveSettings
from hotreload.config.redact import Redactor
from hotreload.config.settings import SettingsModel
from hotreload.config.store import SnapshotStore
from hotreload.lifecycle import Lifecycle, Phase
from hotreload.reload.attempt import Flow
from hotreload.reload.coordinator import ReloadCoordinator
from hotreload.reload.load import load
from hotreload.reload.report import Outcome, Trigger, TriggerKind
from hotreload.reload.validate import Source, build_candidate, first_snapshot
from tests.counts import counted, patience_s

READERS = 50
RELOADS = 200
READS = counted("READS", 100_000)
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(patience_s(120, READS, 100_000))]


class Twins(LiveSettings):
    """Three fields that are always the same number."""

    one: Annotated[int, Live] = 0
    two: Annotated[int, Live] = 0
    three: Annotated[int, Live] = 0


async def test_no_reader_ever_sees_a_mixture(tmp_path: Path) -> None:
    path = tmp_path / "ov.conf"

    def save(number: int) -> None:
        path.write_text(json.dumps({"one": number, "two": number, "three": number}))

    save(0)
    source = Source(path=path, model=SettingsModel(Twins, environ={}))
    redactor = Redactor(b"k" * 32)
    snapshots = SnapshotStore(first_snapshot(build_candidate(await load(path), source), redactor))
    lifecycle = Lifecycle()
    lifecycle.move(Phase.RUNNING)
    coordinator = ReloadCoordinator(
        Flow(source, snapshots, [], redactor), lifecycle, began=lambda _: None, heard=lambda _r, _d: None
    )
    reads = 0
    seen: set[int] = set()
    done = False

    async def job() -> None:
        """Take one snapshot, read it in steps, then take the newest."""
        nonlocal reads
        while reads < READS or not done:
            snapshot = snapshots.current
            settings, fields = snapshot.settings, set[int]()
            for name in ("one", "two", "three"):
                fields.add(getattr(settings, name))
                await anyio.lowlevel.checkpoint()
            assert len(fields) == 1, "a mixture"
            assert snapshot.leaves["one"] in fields
            assert snapshot.generation == fields.pop() + 1
            seen.add(snapshot.generation)
            reads += 1
            await anyio.sleep(0.001)  # the threads that read the file need the interpreter too

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(coordinator.run, name="reloads")
        async with anyio.create_task_group() as jobs:
            for _ in range(READERS):
                jobs.start_soon(job)
            for number in range(1, RELOADS + 1):
                save(number)
                report = await coordinator.submit(Trigger(TriggerKind.SIGNAL, "SIGHUP", 0)).wait()
                assert (report.outcome, report.generation) == (Outcome.APPLIED, number + 1)
            done = True
        tasks.cancel_scope.cancel()
    assert reads >= READS
    assert len(seen) > RELOADS // 2
