"""Debian's Chromium on the admin page of a real service; every request of the page is recorded."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, async_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")


@dataclass
class Visit:
    """One page in a browser: what it asked for, what its console said, and the page itself."""

    page: Page
    requests: list[str] = field(default_factory=list[str])
    errors: list[str] = field(default_factory=list[str])

    def foreign(self, url: str) -> list[str]:
        """Return the requests that left the service at `url`; the page's own inline icon is none."""
        own = urlsplit(url).netloc
        return [one for one in self.requests if urlsplit(one).netloc != own and not one.startswith("data:")]

    async def violations(self) -> list[Any]:
        """Return what axe finds on the page as it stands."""
        found = await Axe().run(self.page)
        return [(one["id"], [node["html"] for node in one["nodes"]]) for one in found.response["violations"]]

    async def view(self, name: str, heading: str) -> None:
        """Follow the navigation to a view."""
        await self.page.click(f"nav a[href='#/{name}']")
        await self.page.wait_for_selector(f"main h2:has-text('{heading}')")

    async def sign_in(self, key: str) -> None:
        """Sign in with a key and wait for the overview."""
        await self.page.fill("#key", key)
        await self.page.click("main button")
        await self.page.wait_for_selector("nav a")


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """Start a browser."""
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield started
        finally:
            await started.close()


@asynccontextmanager
async def visit(started: Browser, url: str, **options: Any) -> AsyncIterator[Visit]:
    """Open a page in a context of its own: no cookie of another visit is there."""
    context = await started.new_context(**options)
    visited = Visit(await context.new_page())
    visited.page.on("request", lambda request: visited.requests.append(request.url))
    visited.page.on("pageerror", lambda error: visited.errors.append(str(error)))
    visited.page.on(
        "console", lambda line: visited.errors.append(line.text) if "Content Security" in line.text else None
    )
    try:
        await visited.page.goto(url)
        yield visited
    finally:
        await context.close()
