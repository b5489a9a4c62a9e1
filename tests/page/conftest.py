"""One browser for the tests of a module; each opens a context of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser

from tests.page.browser import browser


@pytest.fixture(scope="module")
async def chromium(anyio_backend: str) -> AsyncIterator[Browser]:
    """A browser, in the event loop that the tests of a module share."""
    async with browser() as started:
        yield started
