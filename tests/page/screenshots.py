"""Pictures for the README, of a running example: `python -m tests.page.screenshots FOLDER` (or `make screenshots`)."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import anyio
from playwright.async_api import expect
from rich.console import Console

from hotreload.cli.client import Client
from hotreload.cli.dashboard import RELOADS, dashboard
from hotreload.client.find import Wanted, find
from tests.process.running import HOTRELOAD, ROOT, started

from .browser import browser, visit

KEY = "root-key-of-the-pictures-0123456789"
COLUMNS = 100


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
        async with visit(chromium, f"{url}/admin/", viewport={"width": 1100, "height": 760}) as visited:
            await visited.sign_in(KEY)
            for limit in (12, -3, 8):
                settings["vlm"]["max_concurrent"] = limit
                conf.write_text(json.dumps(settings, indent=2))
                await spoken.line(f"{limit}" if limit > 0 else "rejected")
                await anyio.sleep(4)  # the line of the pool is drawn while it moves
            await expect(visited.page.locator("[data-pool] .legend")).to_contain_text("of 8")
            await visited.page.screenshot(path=folder / "page.png")
        terminal(socket, folder / "terminal.svg")


def terminal(socket: Path, picture: Path) -> None:
    """Draw one screen of `hotreload status --watch`."""
    screen = Console(record=True, width=COLUMNS, force_terminal=True, file=Path("/dev/null").open("w"))  # noqa: SIM115
    with Client(find(Wanted(socket=socket))) as client:
        screen.print(dashboard(client.status(), client.history(RELOADS)))
    picture.write_text(screen.export_svg(title="hotreload status --watch"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="hr-", dir="/tmp") as made:
        anyio.run(pictures, Path(sys.argv[1]).resolve(), Path(made))
