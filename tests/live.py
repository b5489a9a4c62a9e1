"""A service at work inside this process, as an application of its user's would run it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from hotreload import Service
from hotreload.testing import Running, running
from tests.process.running import wait_until


@dataclass
class Live:
    """A running service; `http` talks to its control socket."""

    made: Running
    http: httpx.AsyncClient

    @property
    def socket(self) -> Path:
        """The control socket."""
        return self.made.folder / "s.sock"

    async def job(self, job: Any) -> dict[str, Any]:
        """Return one job whole."""
        return (await self.http.get(f"/admin/jobs/{getattr(job, 'id', job)}")).json()

    async def until(self, job: Any, *states: str, within_s: float = 20) -> dict[str, Any]:
        """Return a job once it is in one of these states."""

        async def there() -> dict[str, Any] | None:
            found = await self.job(job)
            return found if found.get("state") in states else None

        return await wait_until(there, within_s, f"job {job} {states}", every_s=0.01)

    async def reload(self, **conf: Any) -> dict[str, Any]:
        """Apply a configuration and return the report."""
        return (await self.made.reload(conf)).to_dict()

    def status(self) -> dict[str, Any]:
        """Return the status document."""
        return self.made.service.status()


@asynccontextmanager
async def live(service: Service[Any], **conf: Any) -> AsyncIterator[Live]:
    """Run a service until the end of the block, where it drains."""
    async with running(service, conf) as made:
        transport = httpx.AsyncHTTPTransport(uds=str(made.folder / "s.sock"))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=30) as http:
            yield Live(made, http)
