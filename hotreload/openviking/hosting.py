"""One `Host` inside a stock OpenViking server: in its event loop, around its work, ended before its service is.

create_app ──→ lifespan: OpenViking up → host runs → port bound → READY
SIGTERM ──→ host drains → uvicorn stops → service closed → the process leaves
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import apsw
import uvicorn
from anyio.abc import TaskGroup, TaskStatus

from hotreload.clock import now_ms
from hotreload.drain.report import DrainReport
from hotreload.host.documents import PoolFigures
from hotreload.host.host import Host
from hotreload.host.parts import Ended, Parts
from hotreload.host.start import Started
from hotreload.lifecycle import Flushed
from hotreload.openviking import patches, routes
from hotreload.openviking.configuration import OpenVikingModel
from hotreload.openviking.depths import QueueDepths
from hotreload.openviking.draining import QueueDrain
from hotreload.openviking.fields import POOLS
from hotreload.openviking.limits import QueueWorkers
from hotreload.openviking.missing import TreeSearch
from hotreload.openviking.progress import Progress
from hotreload.openviking.publication import LimitChange, Publication, publish
from hotreload.openviking.seams import Probe
from hotreload.openviking.swaps import swaps
from hotreload.queue.documents import Put
from hotreload.reload.apply import Reloadable
from hotreload.systemd.listen import handed_over

log = logging.getLogger(__name__)
PROGRESS = "progress.db"
LEAVE_S = 1.4
"""What OpenViking needs after a drain: uvicorn's ticks, its usage records written each second, its service closed."""
LINGER_S = 0.5
"""How long HTTP requests that still run after a drain may take, before they are cut."""
HAND_OVER_S = 0.3
"""How long clients are told to come back on a new connection, where systemd keeps the port for the next process."""


class Hosting:
    """What this process adds to the server it starts."""

    def __init__(self, started: Started, probes: Mapping[str, Probe], model: OpenVikingModel, version: str) -> None:
        self.started = started
        self.report: DrainReport | None = None
        self.failure: BaseException | None = None
        self.server: _Server | None = None
        self._workers = QueueWorkers(started.snapshots.current.settings.limits)
        self._drain = QueueDrain(self._workers)
        self._on = {name for name, probe in probes.items() if probe.ok}
        self._progress = _progress(started.state_dir / PROGRESS) if "progress" in self._on else None
        self._depths = QueueDepths()
        self._bound = anyio.Event()
        self._app: Any = None
        self._began_s = now_ms() / 1000
        self._search = TreeSearch(self._began_s) if "recovery" in self._on else None
        self.host = Host(started, self._parts(model, version, probes))

    def attach(self, bootstrap: Any) -> None:
        """Take the places in OpenViking: its workers, and two names of the module that starts the server."""
        if "limits" in self._on:
            patches.attach_limits(self._workers)
        if "draining" in self._on:
            patches.attach_parking(self._workers)
        if self._progress is not None:
            patches.attach_progress(self._workers, self._progress)
        stock_create_app = bootstrap.create_app

        def create_app(*args: Any, **kwargs: Any) -> Any:
            app = stock_create_app(*args, **kwargs)
            app.router.lifespan_context = self._around(app.router.lifespan_context)
            routes.attach(app, self.host.control)
            return app

        bootstrap.create_app = create_app
        bootstrap.uvicorn = _Uvicorn(self._take_server, self._serving)

    def _take_server(self, server: _Server) -> None:
        self.server = server

    def _serving(self) -> None:
        self._bound.set()

    def _parts(self, model: OpenVikingModel, version: str, probes: Mapping[str, Probe]) -> Parts:
        reloadables: list[Reloadable] = []
        if "configuration" in self._on:
            reloadables.append(Publication(publish))
        if "settings" in self._on:
            reloadables += swaps(lambda: self._app)
        if "limits" in self._on:
            reloadables += [LimitChange(pool, self._workers) for pool in POOLS]
        return Parts(
            version=version,
            reloadables=reloadables,
            drainables=[self._drain] if "draining" in self._on else [],
            flush=self._flush,
            pools=self._pools,
            queues=lambda: self._depths.latest,
            generations=tuple,
            start=self._start,
            schema=lambda: model.schema(self.started.source.own_model.schema()),
            serving=self._bound.wait,
            leave_s=LEAVE_S,
            restarts=self._restarts,
            search=self._search,
            impaired="; ".join(str(probe) for probe in probes.values() if not probe.ok) or None,
        )

    def _flush(self, timeout_s: float, report: Callable[[Flushed], Put]) -> None:
        """Fence what still runs; the report alone goes to our store, the messages are in OpenViking's."""
        flushed = self._drain.flush() if "draining" in self._on else Flushed()
        self.started.store.flush([], timeout_s, lambda _back: report(flushed))

    def _restarts(self) -> bool:
        """Say whether a restart was asked for over HTTP: this process ends its work and executes itself anew."""
        return bool(getattr(getattr(getattr(self._app, "state", None), "restart_controller", None), "requested", False))

    def _pools(self) -> list[PoolFigures]:
        return [replace(pool, name=f"workers.{pool.name}") for pool in self._workers.pools()]

    async def _start(self, tasks: TaskGroup, ended: Ended) -> None:
        loop = asyncio.get_running_loop()
        self._workers.ended = lambda queue, outcome: loop.call_soon_threadsafe(ended, queue, outcome) and None
        tasks.start_soon(self._depths.sample, name="queue depths")
        if self._search is not None:
            tasks.start_soon(self._search.follow, name="missing")

    def _around(self, stock: Callable[[Any], Any]) -> Callable[[Any], Any]:
        @asynccontextmanager
        async def lifespan(app: Any) -> AsyncGenerator[Any]:
            self._app = app
            async with stock(app) as state, anyio.create_task_group() as tasks:
                await tasks.start(self._run)
                yield state
                if self.report is None:  # uvicorn stops by itself: a restart was asked for, or the port is taken
                    self.host.control.start_drain("the server restarts" if self._restarts() else "the server stops")
            if self._progress is not None:
                await anyio.to_thread.run_sync(self._progress.close)
            await anyio.to_thread.run_sync(self.started.store.close)

        return lifespan

    async def _run(self, *, task_status: TaskStatus[None]) -> None:
        try:
            self.report = await self.host.run(task_status=task_status)
        except BaseException as error:
            self.failure = error
            raise
        self._drain.release()
        if self.server is not None:
            await self.server.hand_over()
            self.server.config.timeout_graceful_shutdown = LINGER_S  # pyright: ignore[reportAttributeAccessIssue]
            self.server.should_exit = True


def _progress(path: Path) -> Progress | None:
    try:
        return Progress(path)
    except (OSError, apsw.Error) as error:
        log.error("progress.off finished model calls are not remembered: %s: %r", path, error)
        return None


class _Uvicorn:
    """Stands for the module `uvicorn` in OpenViking's bootstrap: the same, but its server is known to us."""

    def __init__(self, made: Callable[[_Server], None], serving: Callable[[], None]) -> None:
        self._made = made
        self._serving = serving

    def __getattr__(self, name: str) -> Any:
        return getattr(uvicorn, name)

    def Server(self, config: uvicorn.Config) -> uvicorn.Server:
        """Make the server that says when it listens."""
        server = _Server(config, self._serving)
        self._made(server)
        return server

    def run(self, app: Any, **options: Any) -> None:
        """Serve one application ourselves; several worker processes are uvicorn's matter, and have no host."""
        if isinstance(app, str):
            log.error("hotreload is off: it runs one server process, and OpenViking was told to run several")
            uvicorn.run(app, **options)
        else:
            self.Server(uvicorn.Config(app, **options)).run()


class _Server(uvicorn.Server):
    """Listens on the sockets a `.socket` unit hands over, else where OpenViking says."""

    def __init__(self, config: uvicorn.Config, serving: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell = serving
        self._handed = [handed.listener for handed in handed_over()]

    async def hand_over(self) -> None:
        """Leave new connections to the next process and have clients open them, where systemd keeps the port."""
        if not self._handed:
            return
        for server in self.servers:
            server.close()
        close = (b"connection", b"close")
        self.config.encoded_headers.append(close)
        self.server_state.default_headers.append(close)
        await anyio.sleep(HAND_OVER_S)

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets or self._handed or None)
        if self.started:
            self._tell()
