"""A service at work inside a test: its own host, pools, store and reloads, in a temporary folder."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from hotreload.reload.report import ReloadReport
from hotreload.service.declaration import Service
from hotreload.service.handle import Worker

LOOK_S = 0.01


class Running:
    """A running service; made by `running`. Handles of its workers, `service.enqueue` and `snapshot` work meanwhile."""

    def __init__(self, service: Service[Any], folder: Path) -> None:
        self.service = service
        self.folder = folder
        """Where ov.conf, the state folder and the control socket `s.sock` are; relative paths start here."""

    async def reload(self, conf: Mapping[str, Any]) -> ReloadReport:
        """Put a configuration in the file's place, apply it and return the report: `outcome`, `changes`, `errors`."""
        write(self.folder, conf)
        return await self.service.reload()

    async def until_idle(self, *workers: Worker[Any, Any] | str) -> None:
        """Return once these queues, or all, have no job that is ready or running; scheduled ones stay."""
        names = {worker if isinstance(worker, str) else worker.queue for worker in workers}
        while self._busy(names):  # noqa: ASYNC110 - depths are counters, which tell nothing
            await anyio.sleep(LOOK_S)

    def _busy(self, names: set[str]) -> bool:
        depths = [depth for depth in self.service.status()["queues"] if not names or depth["name"] in names]
        return any(depth["ready"] or depth["running"] for depth in depths)


def write(folder: Path, conf: Mapping[str, Any]) -> None:
    """Write a configuration beside and rename it into place."""
    own: Mapping[str, Any] = conf.get("hotreload", {})
    new = folder / ".ov.conf.new"
    new.write_text(json.dumps({**conf, "hotreload": {"watch": False, "drain_deadline_s": 3, **own}}))
    new.replace(folder / "ov.conf")


@asynccontextmanager
async def running(service: Service[Any], conf: Mapping[str, Any] | None = None) -> AsyncGenerator[Running]:
    """Run a service inside a test until the end of the block, where it drains.

    `conf` is what its ov.conf holds. The file is not watched, a drain has 3 s; a section `hotreload` overrides both.
    Raises as `Service.running` where it cannot start.
    """
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        write(Path(folder), conf or {})
        async with service.running(Path(folder) / "ov.conf", socket=Path(folder) / "s.sock"):
            yield Running(service, Path(folder))
