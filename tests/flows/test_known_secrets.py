"""What runs stays known as secret, whatever is tried meanwhile."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import anyio
import pytest
from pydantic import SecretStr

from hotreload import Live, LiveSettings, Restart
from hotreload.config.document import parse
from hotreload.config.secrets import KEPT, Redactor
from hotreload.config.settings import SettingsModel
from hotreload.config.store import SnapshotStore
from hotreload.lifecycle import Lifecycle, Phase
from hotreload.reload.attempt import Draft, Flow
from hotreload.reload.coordinator import ReloadCoordinator
from hotreload.reload.report import Outcome, Trigger, TriggerKind
from hotreload.reload.validate import Source, build_candidate, first_snapshot

pytestmark = pytest.mark.anyio
ASKED = Trigger(TriggerKind.HTTP, "pid 1 uid 0", 0)


class Conf(LiveSettings):
    api_key: Annotated[SecretStr | None, Live] = None
    password: Annotated[SecretStr | None, Restart] = None


def secrets(number: int) -> dict[str, Any]:
    return {"api_key": f"key number {number}", "password": f"password number {number}"}


async def test_the_secrets_that_run_are_known_after_any_number_of_dry_runs(tmp_path: Path) -> None:
    path = tmp_path / "ov.conf"
    path.write_text(json.dumps(secrets(1)))
    source = Source(path=path, model=SettingsModel(Conf, environ={}))
    first = build_candidate(parse(path, path.read_bytes()), source)
    redactor = Redactor(b"k" * 32)
    redactor.learn(first.leaves, source.rule, generation=1)
    snapshots, lifecycle = SnapshotStore(first_snapshot(first, redactor)), Lifecycle()
    lifecycle.move(Phase.RUNNING)
    flow = Flow(source, snapshots, [], redactor)
    coordinator = ReloadCoordinator(flow, lifecycle, began=lambda _: None, heard=lambda _r, _d: None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(coordinator.run)
        path.write_text(json.dumps(secrets(2)))
        assert (await coordinator.submit(ASKED).wait()).outcome is Outcome.APPLIED
        for number in range(3, 3 + 3 * KEPT):
            draft = Draft("other.conf", json.dumps(secrets(number)).encode())
            assert (await coordinator.submit(ASKED, draft=draft).wait()).outcome is Outcome.VALID
        assert (await coordinator.submit(ASKED).wait()).outcome is Outcome.UNCHANGED
        tasks.cancel_scope.cancel()
    assert redactor.scrub("key number 1, password number 1") == "***, ***"  # jobs may still read generation 1
    redactor.release([2])
    for number in range(1000, 1000 + KEPT):
        redactor.learn({(name,): value for name, value in secrets(number).items()}, source.rule)
    assert redactor.scrub("key number 2, password number 1") == "***, ***"  # the password waits for the restart
    assert redactor.scrub("key number 1, password number 3") == "key number 1, password number 3"
