"""What of the user's does not return while a file is validated: each reload is answered, and a later one works."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import pytest
from pydantic import field_validator

from hotreload import Live, LiveSettings
from hotreload.config.document import parse
from hotreload.config.secrets import Redactor
from hotreload.config.store import SnapshotStore
from hotreload.lifecycle import Lifecycle, Phase
from hotreload.reload.attempt import Flow
from hotreload.reload.coordinator import ReloadCoordinator
from hotreload.reload.load import STUCK, Reader
from hotreload.reload.report import Outcome, ReloadReport, Trigger, TriggerKind
from hotreload.reload.validate import Source, build_candidate, first_snapshot
from hotreload.service.composition import DeclaredModel
from hotreload.workers.limits import Limit
from hotreload.workers.live import Follow, Remembered

pytestmark = pytest.mark.anyio
HANGS, SLOW_LIMIT, EXITING_LIMIT = 13, 14, 15


class Waiting:
    """Whatever the test lets wait, and the threads that a limit was asked in."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.entered = 0
        self.threads: list[int] = []

    def wait(self) -> None:
        self.entered += 1
        self.release.wait(60)


waiting = Waiting()


class Conf(LiveSettings):
    n: Annotated[int, Live] = 1

    @field_validator("n")
    @classmethod
    def looks_it_up(cls, value: int) -> int:
        if value == HANGS:
            waiting.wait()
        return value


def limit_of(conf: Conf) -> int:
    waiting.threads.append(threading.get_ident())
    if conf.n == SLOW_LIMIT:
        waiting.wait()
    if conf.n == EXITING_LIMIT:
        raise SystemExit("no such tenant")
    return conf.n


class Service:
    """A coordinator over a real file, and the limit that follows it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "ov.conf"
        self.limit = Limit(1)
        asked = Remembered(limit_of)
        source = Source(self.path, DeclaredModel(Conf, {"workers.x": asked}))
        redactor = Redactor(b"k" * 32)
        self.save(1)
        first = first_snapshot(build_candidate(parse(self.path, self.path.read_bytes()), source), redactor)
        self.reader = Reader(deadline_s=1.0, judging_s=0.1)
        lifecycle = Lifecycle()
        lifecycle.move(Phase.RUNNING)
        parts = [Follow("workers.x", self.limit, asked)]
        flow = Flow(source, SnapshotStore(first), parts, redactor, reader=self.reader)
        self.coordinator = ReloadCoordinator(flow, lifecycle, began=lambda _: None, heard=lambda *_: None)

    def save(self, n: int) -> None:
        new = self.path.with_name(".new")
        new.write_text(json.dumps({"n": n}))
        new.replace(self.path)

    async def reload(self, n: int) -> ReloadReport:
        self.save(n)
        with anyio.fail_after(30):
            return await self.coordinator.submit(Trigger(TriggerKind.SIGNAL, "SIGHUP", 0)).wait()


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    waiting.__init__()
    one = Service(tmp_path)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.coordinator.run)
        try:
            yield one
        finally:
            waiting.release.set()
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize(("n", "name"), [(HANGS, "Conf.looks_it_up"), (SLOW_LIMIT, "limit_of")])
async def test_what_hangs_is_named_and_the_next_reload_works(service: Service, n: int, name: str) -> None:
    report = await service.reload(n)
    assert report.outcome is Outcome.REJECTED
    assert f"the validator of {name} (test_hung_validators.py:" in report.errors[0].message
    assert "has not returned for" in report.errors[0].message
    applied: Any = await service.reload(5)
    assert (applied.outcome, applied.generation, service.limit.value) == (Outcome.APPLIED, 2, 5)


async def test_code_of_the_users_that_ends_the_process_only_refuses_the_file(service: Service) -> None:
    report = await service.reload(EXITING_LIMIT)
    assert report.outcome is Outcome.REJECTED
    assert "no such tenant" in report.errors[0].message
    assert (await service.reload(5)).outcome is Outcome.APPLIED


async def test_threads_that_are_left_behind_are_bounded_and_each_caller_is_told(service: Service) -> None:
    for _ in range(STUCK):
        assert (await service.reload(HANGS)).outcome is Outcome.REJECTED
    assert waiting.entered == STUCK
    for n in (HANGS, 5):
        report = await service.reload(n)
        assert report.outcome is Outcome.REJECTED
        assert len(report.errors) == STUCK
        assert "Conf.looks_it_up" in report.errors[0].message
    assert waiting.entered == STUCK
    waiting.release.set()
    with anyio.fail_after(20):
        while (await service.reload(6)).outcome is not Outcome.APPLIED:
            await anyio.lowlevel.checkpoint()
    assert service.limit.value == 6


async def test_a_file_whose_validator_hangs_counts_as_read(service: Service) -> None:
    taken: dict[Path, Any] = {}
    reading = service.reader.read([service.path])[service.path]
    settled = await service.reader.settled([service.path], then=lambda *_: waiting.wait())
    taken.update(settled.versions)
    assert taken == {service.path: reading.version}


async def test_a_limit_is_never_asked_on_the_loop(service: Service) -> None:
    waiting.threads.clear()
    for n in (2, 3):
        assert (await service.reload(n)).outcome is Outcome.APPLIED
    assert service.limit.value == 3
    assert len(waiting.threads) == 2
    assert threading.get_ident() not in waiting.threads
