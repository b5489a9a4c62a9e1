"""A real Prometheus on real services through a scripted day: every expression of rules and dashboard has data."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.docs.typed import commands
from tests.page.test_page import Served, served
from tests.process.running import ROOT, free_port, started, wait_until

MONITORING = ROOT / "examples/monitoring"
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("promtool") is None, reason="prometheus (with promtool) is not installed"),
]
NEVER = {"HotreloadJobsLost"}
"""What a day must not bring; its metric is there all the same."""


*CHECKS, SERVE = commands((MONITORING / "README.md").read_text())


@pytest.mark.parametrize("command", ["promtool check rules rules.yml", *CHECKS])
def test_promtool_accepts(command: str) -> None:
    done = subprocess.run(command.split(), cwd=MONITORING, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


async def test_prometheus_takes_the_example(short_path: Path) -> None:
    port = free_port()
    command = [*SERVE.replace(":9090", f":{port}").split(), "--storage.tsdb.path", str(short_path / "data")]
    async with started(*command, cwd=MONITORING), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        await wait_until(lambda: loaded(http), 20, "the rules are loaded")


async def loaded(http: httpx.AsyncClient) -> bool:
    try:
        answer = await http.get("/api/v1/rules")
    except httpx.TransportError:
        return False
    return answer.status_code == 200 and bool(answer.json()["data"]["groups"])


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_every_alert_has_a_test() -> None:
    tested = yaml.safe_load((MONITORING / "rules_test.yml").read_text())["tests"]
    names = {one["alertname"] for test in tested for one in test["alert_rule_test"] if one.get("exp_alerts")}
    assert names == {rule["alert"] for rule in rules()}


def expressions() -> dict[str, str]:
    """Return each expression of the rules and the dashboard by what it belongs to, as they are asked here."""
    found = {rule["alert"]: rule["expr"] for rule in rules() if rule["alert"] not in NEVER}
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            found[f"{panel['title']} {target['refId']}"] = target["expr"]
    for one in dashboard["annotations"]["list"]:
        found[one["name"]] = one["expr"]
    chosen = {"$job": "day", "$instance": ".*", "$__rate_interval": "10s", "[15m]": "[10s]", "[1m]": "[10s]"}
    return {name: _chosen(expression, chosen) for name, expression in found.items()}


def _chosen(expression: str, chosen: dict[str, str]) -> str:
    for variable, value in chosen.items():
        expression = expression.replace(variable, value)
    return expression


@asynccontextmanager
async def prometheus(folder: Path, targets: list[str]) -> AsyncIterator[httpx.AsyncClient]:
    """Run a Prometheus on loopback that scrapes the targets four times a second."""
    config = {
        "global": {"scrape_interval": "250ms", "scrape_timeout": "200ms", "evaluation_interval": "1s"},
        "rule_files": [str(MONITORING / "rules.yml")],
        "scrape_configs": [{"job_name": "day", "static_configs": [{"targets": targets}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    options = [
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        "--web.listen-address=127.0.0.1:0",
    ]
    async with started("prometheus", *options) as (_, spoken):
        line = await spoken.line('msg="Listening on"')
        async with httpx.AsyncClient(base_url=f"http://{line.rpartition('address=')[2].strip()}", timeout=20) as http:

            async def ready() -> bool:
                return (await http.get("/-/ready")).status_code == 200

            await wait_until(ready, 20, "prometheus is ready")
            yield http


async def has_data(http: httpx.AsyncClient, expression: str, since: float) -> bool:
    """Say whether an expression has returned anything since then."""
    asked = {"query": expression, "start": since, "end": time.time(), "step": "1s"}
    answer = (await http.get("/api/v1/query_range", params=asked)).json()
    assert answer["status"] == "success", (expression, answer)
    return bool(answer["data"]["result"])


async def seen(http: httpx.AsyncClient, expression: str, since: float) -> None:
    async def asked() -> bool:
        return await has_data(http, expression, since)

    await wait_until(asked, 30, expression, every_s=0.2)


async def morning(service: Served, http: httpx.AsyncClient, since: float) -> None:
    """Reload a good file, a broken one and one that needs a restart; end jobs well and badly; let a queue grow."""
    await seen(http, "hotreload_config_generation == 1", since)
    service.save(limit=5)
    service.process.send_signal(signal.SIGHUP)
    await seen(http, "changes(hotreload_config_generation[10s]) > 0", since)
    service.save(limit=-1)
    service.process.send_signal(signal.SIGHUP)
    await seen(http, "hotreload_config_last_reload_successful == 0", since)
    service.save(limit=5, workspace="/elsewhere")
    service.process.send_signal(signal.SIGHUP)
    await seen(http, "hotreload_config_pending_restart_fields > 0", since)
    await service.state(await service.add({"text": "done"}), "done")
    await service.state(await service.add({"fail": True, "text": "bad"}), "dead", within_s=60)
    await service.http.post("/admin/jobs/pause", json={"queue": "work"})
    growing = 'hotreload_queue_jobs{state="ready"} > 100 and deriv(hotreload_queue_jobs{state="ready"}[10s]) > 0'

    async def grows() -> bool:
        for _ in range(20):
            await service.add({"text": "later"})
        return await has_data(http, growing, since)

    await wait_until(grows, 60, growing)


async def test_a_scripted_day_gives_every_expression_data(short_path: Path) -> None:
    since = time.time()
    first, second = short_path / "1", short_path / "2"
    first.mkdir()
    second.mkdir()
    (second / "etc").mkdir()
    own = {"root_key": "k" * 20, "state_dir": str(second / "state")}
    (second / "etc/ov.conf").write_text(json.dumps({"limit": 3, "hotreload": own}))
    async with served(second / "etc", socket=second / "run/s", key="k" * 20) as other, served(first) as service:
        port, targets = (
            int(service.url.rpartition(":")[2]),
            [one.url.removeprefix("http://") for one in (service, other)],
        )
        async with prometheus(short_path, targets) as http:
            await morning(service, http, since)
            moved = other.conf.parent.rename(short_path / "gone")
            await seen(http, "hotreload_config_watch_healthy == 0", since)
            moved.rename(other.conf.parent)
            job = await service.add({"wait": True}, priority=-1)
            await service.http.post("/admin/jobs/resume", json={"queue": "work"})
            await service.state(job, "running")
            service.process.terminate()
            await seen(http, "hotreload_drain_phase > 0", since)
            service.process.kill()
            await service.process.wait()
            (first / "ov.conf").write_text("{")
            async with served(first, port, "--last-known-good"):
                await seen(http, "hotreload_last_drain_cut == 1", since)
                found = {name: await has_data(http, asked, since) for name, asked in expressions().items()}
                assert [name for name, data in found.items() if not data] == []
