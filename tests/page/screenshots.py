"""Pictures for the README, of a running example: `python -m tests.page.screenshots FOLDER` (or `make screenshots`).

The page, the terminal, and what the dashboard asks of Prometheus, drawn by Prometheus' own graphs.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import anyio
import httpx
from playwright.async_api import Browser, expect
from rich.console import Console

from hotreload.cli.client import Client
from hotreload.cli.dashboard import RELOADS, dashboard
from hotreload.client.find import Wanted, find
from tests.monitoring.test_monitoring import expressions, prometheus
from tests.page.browser import browser, visit
from tests.process.running import HOTRELOAD, ROOT, started

KEY = "root-key-of-the-pictures-0123456789"
COLUMNS = 100
DRAWN = ("Running jobs and limits A", "Running jobs and limits B", "Jobs ended per second A", "Generation A")
"""The expressions of the dashboard that are drawn, by panel and letter."""
ONLY_GRAPHS = """
nav, .form-inline, .eval_stats, .spinner, .nav-tabs, .graph_container > .clearfix:first-child, .text-right,
form > .form-row:has([name=remove]), .custom-control { display: none !important; }
.graph_wrapper { width: 48%; float: left; margin: 0 1%; } .col-lg-10 { max-width: 100%; flex: 0 0 100%; }
textarea { border: 0 !important; font-size: 80% !important; }
"""
STYLED = """
addEventListener("DOMContentLoaded", () => {
  const style = document.createElement("style");
  style.textContent = %s;
  document.head.append(style);
});
"""


async def pictures(folder: Path, home: Path) -> None:
    """Run `summaries`, change its limit twice and break its file once; then picture the page and the terminal."""
    conf, socket = home / "ov.conf", home / "run/s"
    settings = json.loads((ROOT / "examples/summaries/ov.conf").read_text())
    settings["hotreload"] |= {"root_key": KEY}
    conf.write_text(json.dumps(settings, indent=2))
    arguments = ("--config", str(conf), "--http", "127.0.0.1:0", "--socket", str(socket))
    async with (
        started(*HOTRELOAD, "run", "examples.summaries.service:service", *arguments) as (_, spoken),
        browser() as chromium,
    ):
        url = "http://" + (await spoken.line("listening on http://")).rpartition("http://")[2].strip()
        async with (
            prometheus(home, [url.removeprefix("http://")]) as scraping,
            visit(chromium, f"{url}/admin/", viewport={"width": 1100, "height": 760}) as visited,
        ):
            await visited.sign_in(KEY)
            for limit in (12, -3, 8):
                settings["vlm"]["max_concurrent"] = limit
                conf.write_text(json.dumps(settings, indent=2))
                await spoken.line(f"{limit}" if limit > 0 else "rejected")
                await anyio.sleep(4)  # the line of the pool is drawn while it moves
            await expect(visited.page.locator("[data-pool] .legend")).to_contain_text("of 8")
            await visited.page.screenshot(path=folder / "page.png")
            await graphs(chromium, scraping, folder / "dashboard.png")
        terminal(socket, folder / "terminal.svg")


async def graphs(chromium: Browser, scraping: httpx.AsyncClient, picture: Path) -> None:
    """Picture a minute of what some panels of the dashboard ask, as Prometheus draws it."""
    asked = expressions()
    query: dict[str, Any] = {}
    for number, name in enumerate(DRAWN):
        query |= {f"g{number}.expr": asked[name], f"g{number}.tab": 0, f"g{number}.range_input": "15s"}
    page = await chromium.new_page(viewport={"width": 1400, "height": 1120})
    await page.add_init_script(STYLED % json.dumps(ONLY_GRAPHS))
    await page.goto(f"{scraping.base_url}/classic/graph?{urlencode(query)}")
    await expect(page.locator("svg path.path, svg path").nth(len(DRAWN) - 1)).to_be_attached()
    await page.screenshot(path=picture, clip={"x": 0, "y": 104, "width": 1400, "height": 1016})


def terminal(socket: Path, picture: Path) -> None:
    """Draw one screen of `hotreload status --watch`."""
    screen = Console(record=True, width=COLUMNS, force_terminal=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    with Client(find(Wanted(socket=socket))) as client:
        screen.print(dashboard(client.status(), client.history(RELOADS)))
    picture.write_text(screen.export_svg(title="hotreload status --watch"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="hr-", dir="/tmp") as made:
        anyio.run(pictures, Path(sys.argv[1]).resolve(), Path(made))
