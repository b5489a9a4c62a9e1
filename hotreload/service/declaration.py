"""What a user declares: settings, workers, shared resources, parts, recovery; and how it is run."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

import anyio
from pydantic import TypeAdapter
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from hotreload.admin.app import create_app
from hotreload.admin.control import Control
from hotreload.admin.place import check_name
from hotreload.config.settings import LiveSettings, SettingsModel
from hotreload.host.documents import PoolFigures
from hotreload.host.parts import Parts
from hotreload.host.peoples_jobs import PeoplesJobs
from hotreload.host.process import serve
from hotreload.host.start import RunOptions, Started, check
from hotreload.host.work import Work
from hotreload.reload.apply import Reloadable
from hotreload.reload.report import ReloadReport
from hotreload.reload.validate import Source
from hotreload.service.composition import Declared, DeclaredModel, Recovers, Worker, compose, search
from hotreload.workers.execution import runner
from hotreload.workers.job import Job, SyncJob
from hotreload.workers.kind import Kind, Migrate
from hotreload.workers.resources import Factory, Resource

H = TypeVar("H", bound=Callable[..., Any])
F = TypeVar("F", bound=Callable[..., AsyncIterator[Any]])


class Service:
    """A service, declared at import and run by `hotreload run MODULE:ATTR`.

    `name` is also that of its default control socket; `settings` is a `LiveSettings` model of `ov.conf`. A name that
    cannot be part of a path, and two workers or resources of one name, are a ValueError; a handler that asks for a
    resource nobody declared is one as well, at the start.
    """

    def __init__(self, name: str, *, settings: type[LiveSettings], version: str = "0") -> None:
        self.name = check_name(name)
        self.version = version
        self.settings = settings
        self._declared = Declared()
        self._work: Work | None = None
        self._started: Started | None = None
        self._admin: ASGIApp | None = None

    def worker(
        self,
        queue: str,
        *,
        limit: Callable[[Any], int] | int,
        shares: Sequence[str] = (),
        process: bool = False,
        cursor: Any = None,
        version: int = 1,
        migrate: Migrate | None = None,
        migrate_cursor: Migrate | None = None,
    ) -> Callable[[H], H]:
        """Declare `handler(job, settings, **resources)` for the jobs of `queue`; it is returned as it is.

        `async def` with a `Job[Payload]` runs in the event loop, `def` with a `SyncJob[Payload]` in a thread, with
        `process` in a child process, which is killed where a job must end. Parameters after the first two are
        resources, handed in by name (not to processes). `limit(settings)` is how many run at once, 0 (paused) to
        10,000; it is asked again at each reload. `shares` names limits declared with `limit` that hold as well.
        `cursor` is the type of checkpoints; `version` that of payload and cursor, raised when either changes its
        meaning: `migrate(payload, version)` and `migrate_cursor(cursor, version)` bring older ones up to date (see
        `hotreload.workers.kind.Kind` for what happens without).
        """

        def declare(handler: H) -> H:
            if queue in self._declared.workers:
                raise ValueError(f"queue {queue!r} has a worker already")
            kind = Kind(
                queue=queue,
                payload=TypeAdapter(_payload_type(handler)),
                cursor=None if cursor is None else TypeAdapter(cursor),
                version=version,
                migrate=migrate,
                migrate_cursor=migrate_cursor,
            )
            resources = tuple(inspect.signature(handler).parameters)[2:]
            if process and resources:
                raise ValueError(f"worker {queue!r}: {resources[0]!r} cannot be handed to another process")
            runner(handler, process=process)  # raises where this cannot be
            self._declared.workers[queue] = Worker(kind, handler, process, resources, _asked(limit), tuple(shares))
            return handler

        return declare

    def limit(self, name: str, value: Callable[[Any], int] | int) -> None:
        """Declare a limit over all workers that name it in `shares`; its places are given out fairly."""
        if name in self._declared.limits:
            raise ValueError(f"limit {name!r} is declared already")
        self._declared.limits[name] = _asked(value)

    async def enqueue(
        self, queue: str, payload: Any, *, key: str | None = None, priority: int = 0, delay_s: float = 0.0
    ) -> str | None:
        """Add a job from code of this process, durable on return; its id, None where `key` is in hand already.

        ValueError for a queue without a worker, QueueDraining in a drain, RuntimeError before the service runs.
        """
        if self._work is None:
            raise RuntimeError(f"service {self.name!r} does not run in this process")
        return await self._work.enqueue(queue, payload, key=key, priority=priority, delay_s=delay_s)

    def resource(self, *, rebuilt_by: Sequence[str]) -> Callable[[F], F]:
        """Declare an asynchronous generator that yields one value shared by jobs, named after the function.

        A change below one of the dotted paths `rebuilt_by` builds a new value beside the old one; jobs that run
        keep theirs, and the old one is ended after the last of them.
        """

        def declare(factory: F) -> F:
            name = factory.__name__
            if name in self._declared.resources:
                raise ValueError(f"resource {name!r} is declared already")
            self._declared.resources[name] = Resource(name, cast(Factory, factory), tuple(rebuilt_by))
            return factory

        return declare

    def reloadable(self, part: Reloadable) -> None:
        """Declare a part of your own that takes part in reloads: see `Reloadable` and `Prepared` for what it promises.

        Parts are prepared and committed in the order they were declared, after the resources and before the limits.
        """
        if part.name in self._declared.reloadables:
            raise ValueError(f"a part {part.name!r} is declared already")
        self._declared.reloadables[part.name] = part

    def recovers(self, queue: str) -> Callable[[F], F]:
        """Declare `async def scan(settings)` of a queue, an asynchronous generator that says what should exist.

        It yields `Missing[Payload]`, and may yield `Present` and `PassedOver`. It runs after each start and when
        somebody asks (`hotreload reindex`).
        """

        def declare(scan: F) -> F:
            self._declared.scans.append((queue, cast(Recovers, scan)))
            return scan

        return declare

    def check(self, config: Path | None = None) -> ReloadReport:
        """Validate a file as a reload would, without a running service; outcome `valid` or `rejected`."""
        return anyio.run(check, self._source(RunOptions(config=config)))

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of `ov.conf`, each leaf with `x-reload` and `x-secret`."""
        return SettingsModel(self.settings).schema()

    def run(self, options: RunOptions, *, end: Callable[[int], object] | None = None) -> int:
        """Run until a drain has ended; then `end` the process, or return its exit code.

        The command ends it, so that nothing holds a drained process. See `hotreload.host.process.serve`.
        """
        return anyio.run(partial(serve, self.name, self._source(options), options, self._parts, end=end))

    async def serve(self, config: Path | None = None, *, socket: Path | None = None) -> int:
        """Run in an event loop of your own, beside a server of yours, until a drain has ended; returns the exit code.

        On the main thread, whose SIGTERM, SIGINT and SIGHUP are the service's meanwhile. Cancelled, it stops at once,
        and the next start puts back what was running. See `hotreload.host.process.serve`.
        """
        options = RunOptions(config=config, socket=socket)
        try:
            return await serve(self.name, self._source(options), options, self._parts)
        finally:
            self._started = self._admin = None

    def snapshot(self) -> Any:
        """Return the settings in force: whole, frozen, never changed under who holds them. Take them once a request.

        RuntimeError before the service runs in this process.
        """
        if self._started is None:
            raise RuntimeError(f"service {self.name!r} does not run in this process")
        return self._started.snapshots.current.settings

    def admin_app(self) -> ASGIApp:
        """Return the admin application, to mount in an ASGI application of yours; 503 while the service does not run.

        It guards itself: `root_key`, `allowed_hosts` and `Origin` as over `--http`.
        """

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            not_running = JSONResponse({"error": f"service {self.name!r} does not run in this process"}, 503)
            await (self._admin or not_running)(scope, receive, send)

        return app

    def _met(self, control: Control) -> None:
        self._admin = create_app(control)

    def _source(self, options: RunOptions) -> Source[Any]:
        path = options.config or Path("ov.conf")
        model = DeclaredModel(self.settings, self._declared.all_limits())
        return Source(
            path=path.absolute(), model=model, own_options=options.own_settings(), more_files=model.credential_files
        )

    def _parts(self, started: Started) -> Parts:
        """Make the parts of one process of this service."""
        self._started = started
        self._work, shared, reloadables = compose(self._declared, started)
        work = self._work
        return Parts(
            version=self.version,
            reloadables=reloadables,
            drainables=work.pools,
            flush=work.flush,
            pools=work.pool_figures,
            queues=started.store.depths,
            generations=work.generations,
            start=work.start,
            schema=self.schema,
            search=search(self._declared, started),
            met=self._met,
            limits=lambda: [PoolFigures(one.name, one.value, one.running, 0, None) for one in shared],
            jobs=PeoplesJobs(started.store, work.enqueue, tuple(self._declared.workers)),
        )


def _asked(limit: Callable[[Any], int] | int) -> Callable[[Any], int]:
    return limit if callable(limit) else lambda _settings: limit


def _payload_type(handler: Callable[..., Any]) -> Any:
    """Return P of the handler's first parameter `Job[P]` or `SyncJob[P]`; Any where it says nothing."""
    first = next(iter(inspect.signature(handler).parameters), None)
    hint = get_type_hints(handler).get(first) if first else None
    return get_args(hint)[0] if get_origin(hint) in (Job, SyncJob) else Any
