"""The harness itself, against the server as it comes from the registry."""

import signal
from typing import Any

import pytest
from ov_home import Home
from ov_process import running

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]


async def test_stock_imports_documents_and_dies_by_sighup(model: Any, home: Home) -> None:
    async with running(home) as server:
        names = await server.add_documents(3)
        await server.finished(names, 60)
        assert model.gauges.cut == 0
        assert set(model.gauges.keys) == {"key-1"}
        assert "Semantic" in await server.queues()
        server.signal(signal.SIGHUP)
        assert await server.ended(20) == -signal.SIGHUP
