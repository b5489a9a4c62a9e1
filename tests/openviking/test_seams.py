"""Seams: known in the installed release, and a feature whose function changed goes off alone and says so."""

import logging
from collections.abc import Iterator
from typing import Any

import openviking
import pytest
from openviking.service.task_tracker import TaskTracker
from openviking.storage.queuefs.queue_manager import QueueManager
from openviking_cli.utils.config.vlm_config import VLMConfig

from hotreload.config.fields import Effect
from hotreload.openviking import seams
from hotreload.openviking.configuration import OpenVikingModel
from hotreload.openviking.known_sources import ABSENT, KNOWN


def test_every_seam_of_the_installed_release_is_known() -> None:
    assert [str(probe) for probe in seams.probe().values() if not probe.ok] == []


def test_every_known_release_has_every_seam() -> None:
    releases = {release for digests in KNOWN.values() for found in digests.values() for release in found.split()}
    assert openviking.__version__ in releases
    for seam, digests in KNOWN.items():
        assert {release for found in digests.values() for release in found.split()} == releases, seam


@pytest.fixture
def changed(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Lend a monkeypatch; what it changed is back afterwards."""
    with monkeypatch.context() as lent:
        yield lent


def test_an_unknown_source_switches_off_its_feature_and_what_stands_on_it(
    changed: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def _worker_async_concurrent(self: Any) -> None:
        """Mean something else under the same name."""

    changed.setattr(QueueManager, "_worker_async_concurrent", _worker_async_concurrent)
    with caplog.at_level(logging.ERROR):
        probes = seams.probe()
    assert {name: probe.ok for name, probe in probes.items()} == {
        "limits": False,
        "draining": False,
        "configuration": True,
        "recovery": True,
        "progress": False,
        "hold": False,
        "rerank": False,
        "overrides": True,
        "locks": True,
        "settings": True,
        "server": True,
    }
    assert "_worker_async_concurrent" in str(probes["limits"])
    assert len(caplog.records) == 5
    model = OpenVikingModel(["limits", "draining"])
    assert model.rule(("vlm", "max_concurrent")).effect is Effect.RESTART
    assert model.rule(("vlm", "model")).effect is Effect.LIVE
    assert model.rule(("log", "level")).effect is Effect.LIVE
    assert OpenVikingModel(["settings"]).rule(("log", "level")).effect is Effect.RESTART


def test_progress_goes_off_alone(changed: pytest.MonkeyPatch) -> None:
    async def get_completion_async(self: Any, prompt: str) -> str:
        """Answer another question."""
        return prompt

    changed.setattr(VLMConfig, "get_completion_async", get_completion_async)
    assert {name for name, probe in seams.probe().items() if not probe.ok} == {"progress"}


def test_a_missing_function_is_unknown_unless_this_release_never_had_it(changed: pytest.MonkeyPatch) -> None:
    seam = "openviking.service.task_tracker:TaskTracker.wait_for_task_work"
    changed.delattr(TaskTracker, "wait_for_task_work", raising=False)
    assert seams.digest(seam) == ABSENT
    assert not seams.known(seam, "0.5.2")
    assert seams.known(seam, "0.5.0")
