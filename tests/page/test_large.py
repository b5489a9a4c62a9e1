"""The admin page on a store with a million jobs and ten thousand reloads: every view shows its page of them."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import apsw
import pytest
from playwright.async_api import Browser, expect

from tests.page.browser import needs_chromium, visit
from tests.page.test_page import KEY, VIEWS, Served, served

pytestmark = [pytest.mark.anyio, needs_chromium]
JOBS = 1_000_000
RELOADS = 10_000
STATES = ("ready", "scheduled", "done", "dead")


def fill(store: Path, report: dict[str, Any]) -> None:
    """Write the rows of jobs in every state and of reloads into the store of a stopped service."""
    now = time.time_ns() // 1_000_000
    connection = apsw.Connection(str(store))
    with connection:
        connection.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) "
            "INSERT INTO hotreload_jobs (queue, state, priority, run_at_ms, max_attempts, version, enqueued_at_ms, "
            "ended_at_ms, dedupe_key, reason, payload) "
            "SELECT iif(i % 8 < 4, 'work', 'of before'), state, 0, ?2 + iif(state = 'scheduled', 86400000, -i), 1, 1, "
            "?2 - i, iif(state IN ('done', 'dead'), ?2 - i, NULL), 'key ' || i, iif(state = 'dead', 'no model', NULL), "
            "'{\"wait\": true}' "
            "FROM (SELECT i, json_extract(?3, '$[' || (i % 4) || ']') AS state FROM n)",
            (JOBS, now, json.dumps(STATES)),
        )
        connection.execute(
            "REPLACE INTO hotreload_queues (name, ready, scheduled, done, dead, paused) "
            "SELECT queue, sum(state = 'ready'), sum(state = 'scheduled'), sum(state = 'done'), sum(state = 'dead'), 1 "
            "FROM hotreload_jobs GROUP BY queue"
        )
        connection.executemany(
            "INSERT INTO hotreload_documents (kind, id, at_ms, body) VALUES ('reload', ?, ?, ?)",
            ((f"{n:032x}", now, json.dumps({**report, "id": f"{n:032x}"})) for n in range(RELOADS)),
        )
    connection.close()


async def filled(folder: Path) -> None:
    """Run a service once, so that its store is there, and fill it."""
    async with served(folder) as service:
        await service.http.post("/admin/config/reload")
        [report] = (await service.http.get("/admin/config/history")).json()
        service.process.terminate()
        await service.process.wait()
    [store] = folder.rglob("*.db")  # noqa: ASYNC240 - nothing else runs here
    fill(store, report)
    conf = json.loads((folder / "ov.conf").read_text())
    conf["hotreload"]["history"] = RELOADS
    (folder / "ov.conf").write_text(json.dumps(conf, indent=2))


async def listed(service: Served, path: str) -> Any:
    answer = await service.http.get(path)
    answer.raise_for_status()
    return answer.json()


async def test_every_view_works_with_a_million_jobs_and_ten_thousand_reloads(
    short_path: Path, chromium: Browser
) -> None:
    await filled(short_path)
    async with (
        served(short_path) as service,
        visit(chromium, f"{service.url}/admin/") as visited,
    ):
        page = visited.page
        await visited.sign_in(KEY)
        for name, heading in VIEWS.items():
            await visited.view(name, heading)
        await visited.view("overview", "Overview")
        await expect(page.locator("main")).to_contain_text(str(JOBS // 8))
        await visited.view("reloads", "Reloads")
        await expect(page.locator("main")).to_contain_text("1 to 50, the newest first")
        await page.get_by_role("link", name="Older").click()
        await expect(page.locator("main")).to_contain_text("51 to 100")
        await visited.view("jobs", "Jobs")
        rows = page.locator("main table tbody tr")
        for state in STATES:
            await page.select_option("main select[name='state']", state)
            await page.get_by_role("button", name="Show").click()
            await expect(rows.first).to_contain_text(state)
            assert 1 < await rows.count() <= 100
        await page.get_by_role("link", name="Older").click()
        await expect(rows.first).to_contain_text("no model")
        await rows.first.locator("a").first.click()
        await expect(page.locator("main")).to_contain_text("no model")
        await page.get_by_role("button", name="Retry").click()
        await expect(page.locator("main")).to_contain_text("ready")
        assert len(await listed(service, f"/admin/config/history?from={RELOADS - 20}&limit=100")) == 20
        assert visited.foreign(service.url) == visited.errors == []
