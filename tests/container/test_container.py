"""The container of `examples/container` under podman: PID 1, a bounded stop, a read-only root, a swapped ConfigMap."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.process.running import wait_until
from tests.systemd.base import ROOT

from .conftest import Podman

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(600)]
HOTRELOAD = "/opt/venv/bin/hotreload"
UID = 10001
MANIFESTS = ROOT / "examples/kubernetes"


def status(podman: Podman, container: str) -> dict[str, Any]:
    said = podman("exec", container, HOTRELOAD, "status", "--json", check=False)
    found = json.loads(said) if said.startswith("{") else {}
    return found if "phase" in found else {}  # not there yet: it says why


async def reached(
    podman: Podman, container: str, holds: Callable[[dict[str, Any]], object], what: str
) -> dict[str, Any]:
    """Return the status once it holds."""

    def look() -> dict[str, Any] | None:
        found = status(podman, container)
        return found if found and holds(found) else None

    try:
        return await wait_until(look, 30, what, every_s=0.2)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{podman('logs', container, check=False)}") from None


async def test_pid_1_drains_within_its_bound_on_a_read_only_root(podman: Podman, tmp_path: Path) -> None:
    conf, state = tmp_path / "conf", tmp_path / "state"
    conf.mkdir()
    (state / "texts").mkdir(parents=True)
    (state / "texts/long.txt").write_text("one line\n" * 500)
    settings = {"folder": "/var/lib/quickstart/texts", "pace_s": 0.1,
                "hotreload": {"drain_deadline_s": 6, "drain_grace_s": 1}}  # fmt: skip
    (conf / "ov.conf").write_text(json.dumps(settings))
    for path in (state, *state.rglob("*")):
        os.chown(path, UID, UID)
    volumes = ["-v", f"{conf}:/etc/quickstart:ro", "-v", f"{state}:/var/lib/quickstart"]
    podman("run", "-d", "--name", "one", "--network", "none", "--read-only", *volumes, "localhost/quickstart")
    try:
        found = await reached(podman, "one", lambda now: now["queues"] and now["queues"][0]["running"], "a job runs")
        assert found["pid"] > 1  # PID 1 reaps and passes signals on, the service is its child
        assert found["degraded"] is None
        assert podman("exec", "one", "id", "-u").strip() == str(UID)
        assert podman("exec", "one", "touch", "/opt/venv/x", check=False) == ""
        podman("healthcheck", "run", "one")
        podman("exec", "-d", "one", "sh", "-c", "sleep 0.2 & exit 0")  # an orphan: PID 1 is to reap it
        await wait_until(
            lambda: "sleep" not in (told := podman("top", "one", "args")) and "defunct" not in told, 10, "reaped"
        )
        began = time.monotonic()
        podman("stop", "-t", "20", "one")
        assert time.monotonic() - began < 20, "it was killed"
        assert podman("inspect", "one", "--format", "{{.State.ExitCode}}").strip() == "0"
        podman("start", "one")
        found = await reached(podman, "one", lambda now: now["last_drain"], "the next start")
        assert len(found["last_drain"]["checkpointed"]) == 1
        assert found["last_drain"]["lost"] == 0
    finally:
        podman("rm", "-f", "one", check=False)


def in_podman(folder: Path) -> Path:
    """Return the manifest as podman can play it: no hooks, no ports on the host's network, nothing but the pod."""
    wanted = ("ConfigMap", "Secret", "PersistentVolumeClaim", "Deployment")
    documents = [
        one for one in yaml.safe_load_all((MANIFESTS / "quickstart.yaml").read_text()) if one["kind"] in wanted
    ]
    pod = documents[-1]["spec"]["template"]["spec"]
    pod["hostNetwork"] = True
    for key in ("ports", "lifecycle", "startupProbe", "livenessProbe", "readinessProbe"):
        del pod["containers"][0][key]
    played = folder / "play.yaml"
    played.write_text(yaml.safe_dump_all(documents))
    return played


def swap(folder: Path, name: str, text: str) -> None:
    """Replace a mounted ConfigMap as the kubelet does: a new folder, and one rename of the link to it."""
    (folder / name).mkdir()
    (folder / name / "ov.conf").write_text(text)
    (folder / "..new").symlink_to(name)
    (folder / "..new").rename(folder / "..data")
    if not (folder / "ov.conf").is_symlink():
        (folder / "ov.conf.new").symlink_to("..data/ov.conf")
        (folder / "ov.conf.new").rename(folder / "ov.conf")


async def test_a_swapped_config_map_is_followed_by_the_running_pod(podman: Podman, tmp_path: Path) -> None:
    played, container = in_podman(tmp_path), "quickstart-pod-0-quickstart"
    podman("kube", "play", str(played))
    try:
        await reached(podman, container, lambda now: now["phase"] == "running", "the pod runs")
        mounted = Path(podman("volume", "inspect", "quickstart", "--format", "{{.Mountpoint}}").strip())
        settings = json.loads((mounted / "ov.conf").read_text())
        for limit in (7, 3):
            swap(mounted, f"..{limit}", json.dumps({**settings, "max_concurrent": limit}))
            found = await reached(
                podman, container, lambda now, limit=limit: now["pools"][0]["limit"] == limit, "followed"
            )
            assert found["last_reload"]["trigger"]["kind"] == "file"
        swap(mounted, "..broken", json.dumps({**settings, "max_concurrent": -1}))
        found = await reached(podman, container, lambda now: now["last_reload"]["outcome"] == "rejected", "refused")
        assert found["pools"][0]["limit"] == 3
        key = "change-me-to-32-random-characters"
        assert key not in podman("logs", container)
    finally:
        podman("kube", "down", str(played), check=False)


@pytest.mark.parametrize("name", sorted(path.name for path in MANIFESTS.glob("*.yaml")))
def test_a_manifest_is_what_the_api_takes(name: str) -> None:
    import kubernetes_validate

    documents = list(yaml.safe_load_all((MANIFESTS / name).read_text()))
    assert documents
    for document in documents:
        kubernetes_validate.validate(document, "1.30", strict=True)


@pytest.mark.parametrize("name", ["quickstart.yaml", "openviking.yaml"])
def test_a_pod_is_given_more_time_than_the_drain_takes(name: str) -> None:
    documents = list(yaml.safe_load_all((MANIFESTS / name).read_text()))
    conf = next(one for one in documents if one["kind"] == "ConfigMap")["data"]["ov.conf"]
    pod = next(one for one in documents if one["kind"] in ("Deployment", "StatefulSet"))["spec"]["template"]["spec"]
    deadline_s = json.loads(conf)["hotreload"]["drain_deadline_s"]
    assert pod["terminationGracePeriodSeconds"] >= deadline_s + 10
    assert all("subPath" not in mount for mount in pod["containers"][0]["volumeMounts"])
