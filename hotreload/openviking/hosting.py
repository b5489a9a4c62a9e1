"""One `Host` inside a stock OpenViking server: in its event loop, around its work, ended before its service is.

create_app ──→ lifespan: OpenViking up → host runs → port bound → READY
SIGTERM ──→ host drains → uvicorn stops → service closed → the process leaves
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
import apsw
import uvicorn
from anyio.abc import TaskGroup
from uvicorn.config import STARTUP_FAILURE

from hotreload.admin.acceptor import Acceptor, hand_over, share_of_descriptors
from hotreload.admin.serving import CLOSE
from hotreload.clock import now_ms
from hotreload.errors import StoreUnavailable, reason_of
from hotreload.host.host import Host
from hotreload.host.lifetime import Lifetime
from hotreload.host.start import Started
from hotreload.host.status import PoolFigures
from hotreload.host.work import Ended, Keep, Work
from hotreload.lifecycle import Flushed, Phase
from hotreload.openviking import patches, routes
from hotreload.openviking.accounts import overridden, service
from hotreload.openviking.calls import CALLED_BY, Calls, follow_configuration
from hotreload.openviking.configuration import OpenVikingModel
from hotreload.openviking.depths import QueueDepths
from hotreload.openviking.draining import QueueDrain
from hotreload.openviking.endpoints import Endpoints
from hotreload.openviking.fields import POOLS
from hotreload.openviking.jobs import OpenVikingJobs
from hotreload.openviking.limits import QueueWorkers
from hotreload.openviking.missing import TreeSearch
from hotreload.openviking.progress import Progress
from hotreload.openviking.publication import LimitChange, Publication, publish
from hotreload.openviking.rerank import attach_rerank
from hotreload.openviking.seams import Probe
from hotreload.openviking.swaps import set_up_loggers, swaps
from hotreload.openviking.waits import RequestWaits
from hotreload.queue.contract import QueueDepth
from hotreload.reload.apply import Reloadable
from hotreload.systemd.listen import handed_over
from hotreload.workers.active import JobEnd

log = logging.getLogger(__name__)
PROGRESS = "progress.db"
LEAVE_S = 1.4
"""What OpenViking needs after a drain: uvicorn's ticks, its usage records written each second, its service closed."""
LINGER_S = 0.5
"""How long HTTP requests that still run after a drain may take, before they are cut."""
REPORT_S = 3.0
"""How long it is tried at most to keep the report of a drain, where a database does not answer."""
MOST = 4096
"""HTTP connections at once, where there are descriptors for twice as many."""


class Hosting(Work):
    """What this process adds to the server it starts."""

    leave_s = LEAVE_S

    def __init__(self, started: Started, probes: Mapping[str, Probe], model: OpenVikingModel, version: str) -> None:
        self.started = started
        self.version = version
        self.failure: BaseException | None = None
        self.server: _Server | None = None
        self._workers = QueueWorkers(started.snapshots.current.settings.limits)
        self._drain = QueueDrain(self._workers)
        self._on = {name for name, probe in probes.items() if probe.ok}
        self._progress = _progress(started.state_dir / PROGRESS) if "progress" in self._on else None
        self._endpoints = Endpoints(lambda: started.snapshots.current.own.hold_s) if "hold" in self._on else None
        self._off = "; ".join(str(probe) for probe in probes.values() if not probe.ok) or None
        self._depths = QueueDepths()
        self._waits = RequestWaits()
        self.serving = bound = anyio.Event()
        self._is_bound = bound.set
        self._app: Any = None
        self._began_s = now_ms() / 1000
        self._model = model
        assert started.store is not None
        self.jobs = self._jobs = OpenVikingJobs(self._workers, started.store) if "limits" in self._on else None
        self._search = self.search = TreeSearch(self._began_s) if "recovery" in self._on else None
        self.drainables = [self._drain] if "draining" in self._on else []
        self.reloadables = self._reloadables()
        self.host = Host(started, self)
        started.lifecycle.listen(self._entered)

    def attach(self, bootstrap: Any) -> None:
        """Take the places in OpenViking: its workers, and two names of the module that starts the server."""
        self._attach_features()
        stock_create_app = bootstrap.create_app

        def create_app(*args: Any, **kwargs: Any) -> Any:
            app = stock_create_app(*args, **kwargs)
            app.router.lifespan_context = self._around(app.router.lifespan_context)
            routes.attach(app, self.host, self._waits)
            return app

        bootstrap.create_app = create_app
        bootstrap.uvicorn = _Uvicorn(self._take_server, self._is_bound, self._off_for_several)

    def _attach_features(self) -> None:
        if "limits" in self._on:
            patches.attach_limits(self._workers)
            Calls(self._workers, self._endpoints, self._progress).attach()
        if "rerank" in self._on and self._endpoints is not None:
            attach_rerank(self._endpoints)
        if "draining" in self._on:
            patches.attach_parking()
            self._waits.attach()
        if self._progress is not None or self._endpoints is not None:
            patches.attach_deliveries()
        if "locks" in self._on:
            patches.attach_locks()
        if "recovery" in self._on:
            patches.attach_damaged_tasks()
        self._follow_messages()

    def _follow_messages(self) -> None:
        if self._progress is not None:
            self._workers.acknowledged = self._progress.acknowledged
        self._workers.withheld = self._withheld
        if self._endpoints is not None:
            self._endpoints.turned = self._workers.nudge

    def _withheld(self, queue: str) -> str | None:
        """Say why no message of a queue should be begun now."""
        if self._jobs is not None and self._jobs.paused(queue):
            return "paused"
        kind = CALLED_BY.get(queue)
        return self._endpoints.down(kind) if self._endpoints is not None and kind is not None else None

    @property
    def impaired(self) -> str | None:
        """Which endpoints fail now, and which features are off for as long as the process lives."""
        down = self._endpoints.degraded if self._endpoints is not None else None
        return "; ".join(each for each in (down, self._off) if each) or None

    def more(self) -> dict[str, Any]:
        """Return the endpoints of OpenViking's models, what they refused last, and what recovery gave up."""
        told: dict[str, Any] = {}
        if self._endpoints is not None:
            told |= {"endpoints": self._endpoints.figures(), "refused": self._endpoints.refusals()}
        if self._search is not None:
            told["given_up"] = [{"id": uri, "error": error} for uri, error in self._search.given_up().items()]
        return told

    def _off_for_several(self) -> None:
        """Tell the service manager, which waits for READY, that OpenViking serves without this package."""
        said = "hotreload is off: it runs one server process, and OpenViking was told to run several"
        log.error("%s", said)
        self.started.start_up.end()
        self.started.start_up.notifier.ready(said, self.started.snapshots.current.generation)

    def _take_server(self, server: _Server) -> None:
        self.server = server

    def _entered(self, phase: Phase) -> None:
        if phase is Phase.QUIESCING:
            self._waits.end()
            if self.server is not None:
                self.server.retire()

    def _reloadables(self) -> list[Reloadable]:
        reloadables: list[Reloadable] = []
        if "configuration" in self._on:
            reloadables.append(Publication(publish, overridden if "overrides" in self._on else None))
        if "settings" in self._on:
            reloadables += swaps(lambda: self._app)
        if "limits" in self._on:
            reloadables += [LimitChange(pool, self._workers) for pool in POOLS]
        return reloadables

    def flush(self, timeout_s: float, keep: Keep) -> None:
        """Fence what still runs; messages are in OpenViking's store, so ours keeps no more than the report."""
        assert self.started.store is not None
        flushed = self._drain.flush() if "draining" in self._on else Flushed()
        try:
            self.started.store.flush([], min(timeout_s, REPORT_S), lambda _back: keep(flushed))
        except (StoreUnavailable, TimeoutError) as error:
            keep(flushed)
            log.warning("drain.report_not_kept %s", reason_of(error))

    def hung_up(self) -> None:
        """Open OpenViking's log file again; where that cannot be, it goes on to write to the one it has."""
        if "settings" in self._on:
            try:
                set_up_loggers()
            except OSError as error:
                log.error("log.not_opened_again %s", reason_of(error))

    def restarts(self) -> bool:
        """Tell whether a restart was asked for over HTTP: this process ends its work and executes itself again."""
        return bool(getattr(getattr(getattr(self._app, "state", None), "restart_controller", None), "requested", False))

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of OpenViking's ov.conf."""
        return self._model.schema(self.started.source.own_model.schema())

    def queues(self) -> Sequence[QueueDepth]:
        """Return OpenViking's queues, as they were last looked at; what is delivered again later is `scheduled`."""
        later = {worker.name: len(worker.failed()) for worker in self._workers.workers()}
        return [
            replace(
                depth,
                scheduled=later.get(depth.name, 0),
                running=max(0, depth.running - later.get(depth.name, 0)),
                paused=self._jobs is not None and self._jobs.paused(depth.name),
            )
            for depth in self._depths.latest
        ]

    def pools(self) -> list[PoolFigures]:
        """Return OpenViking's pools."""
        return [replace(pool, name=f"workers.{pool.name}") for pool in self._workers.pools()]

    async def start(self, tasks: TaskGroup, ended: Ended) -> None:
        """Follow OpenViking's queues, and hear of each message that ended."""
        loop = asyncio.get_running_loop()
        self._workers.ended = lambda queue, outcome: loop.call_soon_threadsafe(ended, JobEnd(queue, outcome)) and None
        self.hung_up()
        tasks.start_soon(self._depths.sample, name="queue depths")
        if self._search is not None:
            tasks.start_soon(self._search.follow, name="missing")

    def _around(self, stock: Callable[[Any], Any]) -> Callable[[Any], Any]:
        @asynccontextmanager
        async def lifespan(app: Any) -> AsyncGenerator[Any]:
            self._app = app
            try:
                async with stock(app) as state:
                    if self._endpoints is not None:
                        manager = service().runtime_config_manager
                        follow_configuration(self._endpoints, manager, self.host.recovering.again)
                    async with Lifetime(self._made) as host:
                        stopping = asyncio.create_task(self._stop_server(host))
                        yield state
                        if host.drain.deadline is None:  # uvicorn stops by itself: a restart, or the port is taken
                            host.start_drain("the server restarts" if self.restarts() else "the server stops")
                        await host.over.wait()
                        await stopping
            except BaseException as error:
                self.failure = error
                raise
            finally:
                if self._progress is not None:
                    await anyio.to_thread.run_sync(self._progress.close)

        return lifespan

    async def _made(self) -> Host:
        return self.host

    async def _stop_server(self, host: Host) -> None:
        """Have uvicorn stop once the host has drained."""
        await host.over.wait()
        self._drain.release()
        if self.server is not None:
            await self.server.hand_over(self.host.leaves_by)
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

    def __init__(
        self, made: Callable[[_Server], None], serving: Callable[[], None], several: Callable[[], None]
    ) -> None:
        self._made = made
        self._serving = serving
        self._several = several

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
            self._several()
            uvicorn.run(app, **options)
        else:
            self.Server(uvicorn.Config(app, **options)).run()


class _Server(uvicorn.Server):
    """Listens on the sockets a `.socket` unit hands over, else where OpenViking says; accepts as our own servers do."""

    def __init__(self, config: uvicorn.Config, serving: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell = serving
        self._handed = [handed.listener for handed in handed_over()]
        self._acceptors: list[Acceptor] = []
        self._retired = False

    def retire(self) -> None:
        """Let each answer from now on end its connection, so that clients come back on a new one."""
        if self._handed:
            self._retired = True
            self._end_connections(True)

    def _end_connections(self, wanted: bool) -> None:
        """Say `Connection: close`, or no longer: what is encoded becomes the default headers each second."""
        for headers in (self.config.encoded_headers, self.server_state.default_headers):
            if wanted and CLOSE not in headers:
                headers.append(CLOSE)
            elif not wanted and not self._retired and CLOSE in headers:
                headers.remove(CLOSE)

    async def hand_over(self, until: float) -> None:
        """Leave the sockets that systemd keeps to the next process: see `acceptor.hand_over`."""
        if self._handed:
            self.retire()
            await hand_over(self._acceptors, until)

    async def startup(self, sockets: Any = None) -> None:
        await super().startup([])  # the application alone: asyncio accepts as soon as it has a socket
        try:
            listeners = sockets or self._handed or await self._bind()
        except OSError as error:
            logging.getLogger("uvicorn.error").error(error)
            await self.lifespan.shutdown()
            sys.exit(STARTUP_FAILURE)
        most = share_of_descriptors(2, least=16, most=MOST)
        accept = partial(Acceptor, most=most, full=self._end_connections)
        self._acceptors = [accept(listener, self._protocol) for listener in listeners]
        self.servers = cast("Any", self._acceptors)
        self._tell()

    async def _bind(self) -> list[socket.socket]:
        """Listen on every address that the configured host stands for; OSError where one cannot be had."""
        config = self.config
        loop = asyncio.get_running_loop()
        bound = await loop.create_server(asyncio.Protocol, host=config.host, port=config.port, start_serving=False)
        listeners = [socket.socket(fileno=os.dup(each.fileno())) for each in bound.sockets]
        bound.close()
        for listener in listeners:
            listener.setblocking(False)
            listener.listen(config.backlog)
        self._log_started_message(listeners)
        return listeners

    def _protocol(self) -> asyncio.Protocol:
        """Make what serves one connection, as uvicorn does."""
        made: Any = self.config.http_protocol_class
        return made(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
