"""What a user declares: settings, workers, shared resources, parts, recovery; and how it is run."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Generic, Literal, Self, TypeVar, Union, cast, get_args

import anyio
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from hotreload.admin.app import create_app
from hotreload.admin.place import check_name
from hotreload.clock import now_ms
from hotreload.config.settings import LiveSettings, SettingsModel, refuse_model
from hotreload.errors import DeclarationError, reason_of
from hotreload.host.host import Host
from hotreload.host.lifetime import CANNOT_START, Lifetime
from hotreload.host.process import make_host, run, serve
from hotreload.host.start import RunOptions, Started
from hotreload.queue.job import MAX_ATTEMPTS, Backoff, Enqueued
from hotreload.reload.apply import Reloadable
from hotreload.reload.first import check
from hotreload.reload.report import ReloadReport, Trigger, TriggerKind
from hotreload.reload.validate import Source
from hotreload.service.checks import (
    Place,
    adapter,
    asked,
    checked_name,
    examine,
    generator,
    migration,
    names,
    paths,
    policy,
    version_of,
)
from hotreload.service.checks import listener as check_listener
from hotreload.service.composition import Declared, DeclaredModel, DeclaredWorker, Recovers, compose
from hotreload.service.handle import Declares, Worker
from hotreload.service.jobs import ServiceJobs
from hotreload.service.work import ServiceWork
from hotreload.workers.deaths import DeadJob
from hotreload.workers.kind import Kind, Migrate
from hotreload.workers.limits import checked_limit, checked_rate
from hotreload.workers.policy import KEEP_DONE_S, Delays
from hotreload.workers.resources import Factory, Resource
from hotreload.workers.runners import is_async

log = logging.getLogger(__name__)
S = TypeVar("S", bound=LiveSettings)
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., AsyncIterator[Any]])
OnDead = Callable[[DeadJob, Any], Awaitable[object]]
D = TypeVar("D", bound=OnDead)
Across = Literal["process", "fleet"]
Asked = Union[T, Callable[[S], T]]  # noqa: UP007 - mypy takes no bare type variable on the left of `|`
"""A value, or a function of the settings, which is asked again at each reload."""


class Service(Generic[S]):
    """A service, declared at import and run by `hotreload run MODULE:ATTR`.

    `name` is also that of its default control socket; `settings` is a `LiveSettings` model of `ov.conf`. What is
    declared wrongly is a DeclarationError (a ValueError) of one line: at once where one declaration shows it, at
    `hotreload check` and at the start where it takes several (a resource, a limit, a path that does not exist).
    """

    def __init__(self, name: str, *, settings: type[S], version: str = "0") -> None:
        try:
            self.name = check_name(name)
        except (TypeError, ValueError) as error:
            raise DeclarationError(str(error)) from error
        place = Place(f"service {name!r}")
        given = cast("Any", settings)
        if not (isinstance(given, type) and issubclass(given, LiveSettings)):
            place.refuse(f"its settings are {settings!r}", "a class: class Settings(LiveSettings): …")
        if not isinstance(cast("Any", version), str):
            place.refuse(f"its version is {version!r}", "a text, as '1.0'")
        if settings.__pydantic_complete__:  # what its types name may be declared later; the start looks again
            refuse_model(settings)
        self.version = version
        self.settings: type[S] = settings
        self._declared = Declared(settings)
        self._lives = False
        self._host: Host | None = None
        self._inline: ServiceJobs | None = None
        self._admin: ASGIApp | None = None

    def worker(
        self,
        queue: str,
        *,
        limit: Asked[int, S],
        shares: Sequence[str] = (),
        process: bool = False,
        max_attempts: Asked[int, S] = MAX_ATTEMPTS,
        backoff: Asked[Delays, S] = Backoff(),  # noqa: B008 - frozen
        timeout_s: Asked[float | None, S] = None,
        keep_done_s: Asked[float, S] = KEEP_DONE_S,
        cursor: Any = None,
        version: int = 1,
        migrate: Migrate | None = None,
        migrate_cursor: Migrate | None = None,
    ) -> Declares[S]:
        """Declare `handler(job, settings, **resources)` for the jobs of `queue`; returns its handle (`Worker`).

        `async def` with a `Job[Payload]` runs in the event loop, `def` with a `SyncJob[Payload]` in a thread, with
        `process` in a child process, which is killed where a job must end. Parameters after the first two are
        resources, handed in by name (not to processes). `shares` names limits and rates that hold as well.

        These may each be a function of the settings, asked again at each reload, for jobs that wait and run as well:
        `limit`, how many run at once, 0 (paused) to 10,000. `max_attempts`, failures until a job is dead. `backoff`
        between two attempts: seconds, a list of seconds (the last repeats), or a `Backoff`; the defaults, 25 attempts
        and attempt⁴ seconds, outlive an outage of hours. `timeout_s`, after which a job's code is stopped, which is a
        failure: a coroutine is cancelled, a process killed, a thread told at its next checkpoint; what still runs 2 s
        later is fenced. `keep_done_s`, how long a done job and its result are kept.

        `cursor` is the type of checkpoints; `version` that of payload and cursor, raised when either changes its
        meaning: `migrate(payload, version)` and `migrate_cursor(cursor, version)` bring older ones up to date (see
        `hotreload.workers.kind.Kind` for what happens without).
        """
        frame = inspect.currentframe()
        seen = dict(frame.f_back.f_locals) if frame and frame.f_back else {}
        place = Place(f"worker {queue!r}")
        checked_name(place, queue)

        def declare(handler: Callable[..., Any]) -> Worker[Any, Any]:
            place = Place(f"worker {queue!r}", handler)
            if queue in self._declared.workers:
                place.refuse("this queue has a worker already", "one worker serves a queue")
            shape = examine(place, handler, process, self.settings, seen)
            for option, function in (("migrate", migrate), ("migrate_cursor", migrate_cursor)):
                migration(place, option, function)
            kind = Kind(
                queue=queue,
                payload=shape.payload,
                cursor=None if cursor is None else adapter(place, "cursor", cursor),
                version=version_of(place, version),
                migrate=migrate,
                migrate_cursor=migrate_cursor,
            )
            self._declared.workers[queue] = DeclaredWorker(
                kind=kind,
                handler=handler,
                process=process,
                shape=shape,
                limit=asked(place, "limit", limit, checked_limit),
                shares=names(place, "shares", shares),
                policy=policy(place, max_attempts, backoff, timeout_s, keep_done_s),
            )
            return Worker(self, queue, handler)

        return Declares(declare)

    def limit(self, name: str, value: Asked[int, S], *, across: Across = "process") -> None:
        """Declare how many jobs of all workers that name it in `shares` run at once; given out fairly.

        With `across="fleet"` so many run in all processes together that share a PostgreSQL (`hotreload.store`) and
        declare a limit of this name; whichever of them has the work. Where their values differ the lowest holds. What
        a process that died had is free again within `hotreload.node_ttl_s`; jobs of a process that was stopped or cut
        off for longer may still run beside those that began elsewhere. With an SQLite store it is this process'.
        """
        place = self._new_share("limit", name, across)
        self._declared.limits[name] = asked(place, "its value", value, checked_limit)

    def rate(self, name: str, per_minute: Asked[int, S], *, across: Across = "process") -> None:
        """Declare how many jobs of all workers that name it in `shares` begin in any 60 seconds; given out fairly.

        From 0 to 1,000,000, live: a lower value counts what began before. Retries count as well. `across` as in
        `limit`; what a process had when it ended counts for another minute.
        """
        place = self._new_share("rate", name, across)
        self._declared.rates[name] = asked(place, "its value", per_minute, checked_rate)

    def _new_share(self, what: str, name: str, across: object) -> Place:
        place = Place(f"{what} {name!r}")
        checked_name(place, name)
        if across not in get_args(Across):
            place.refuse(f"`across` is {across!r}", "it is 'process' or 'fleet'")
        if name in self._declared.limits or name in self._declared.rates:
            place.refuse("a limit or rate of this name is declared already")
        if across == "fleet":
            self._declared.across.add(name)
        return place

    async def enqueue(
        self, queue: str, payload: Any, *, key: str | None = None, priority: int = 0, delay_s: float = 0.0
    ) -> Enqueued:
        """Add a job from code of this process, durable on return.

        `existing` is the state of the job that has `key` already, None for a new job; a job has its key until it has
        ended. Lower `priority` is claimed first, from -2**31 to 2**31 - 1. It is claimed after `delay_s` seconds.
        ValueError where no worker serves `queue` or the payload does not fit it, QueueDraining once all is flushed,
        RuntimeError before the service runs here. From another process: `hotreload.Client`.
        """
        return await self._running().enqueue(queue, payload, key=key, priority=priority, delay_s=delay_s)

    async def enqueue_many(
        self,
        queue: str,
        payloads: Iterable[Any],
        *,
        key: Callable[[Any], str] | None = None,
        priority: int = 0,
        delay_s: float = 0.0,
    ) -> list[Enqueued]:
        """Add a job for each payload, all or none, in one transaction; `key(payload)` gives each its key."""
        options = {"key": key, "priority": priority, "delay_s": delay_s}
        return await self._running().enqueue_many(queue, payloads, **options)

    async def read(self, query: Callable[[Any], T]) -> T:
        """Run `query(connection)` on the store's own SQLite (apsw), beside the jobs, and return what it returns.

        For the rows that jobs write with `checkpoint(within=…)`: it sees all that is durable and may only read
        (ValueError otherwise). Another SQLite library finds the file locked while the service runs.
        """
        return await self._running().read(query)

    async def backup(self, file: str | PathLike[str]) -> int:
        """Write a consistent copy of the running store into `file`, durable on return; its size in bytes.

        A file of that name is replaced once the copy is whole; where it cannot be written it stays (OSError).
        """
        return await self._running().backup(file)

    async def result(self, job: Enqueued | str) -> Any:
        """Wait for a job's end and return its result as JSON values.

        JobFailed where it is dead, JobCancelled where it was cancelled or removed, LookupError where there is no such
        job (any more: see `keep_done_s`). Cancelled, the job goes on; `anyio.fail_after` bounds the wait.
        """
        return await self._running().result(job.id if isinstance(job, Enqueued) else job)

    async def cancel(self, *jobs: Enqueued | str) -> list[str]:
        """Cancel jobs, durable on return; returns the ids of those cancelled, others had ended or never were.

        A waiting one is removed. A running one is `cancelled` at once: its code is interrupted, and what it still
        asks of its job is refused with LeaseLost; one whose code goes on for 2 s longer gives its place away.
        """
        return await self._running().cancel([job.id if isinstance(job, Enqueued) else job for job in jobs])

    def _running(self) -> ServiceJobs:
        if self._inline is not None:
            return self._inline
        work = self._running_host().work
        assert isinstance(work, ServiceWork)
        return work.started_jobs()

    def resource(self, *, rebuilt_by: Sequence[str]) -> Callable[[F], F]:
        """Declare an asynchronous generator that yields one value shared by jobs, named after the function.

        A change below one of the dotted paths `rebuilt_by` builds a new value beside the old one; jobs that run
        keep theirs, and the old one is ended after the last of them.
        """

        def declare(factory: F) -> F:
            name = getattr(factory, "__name__", "")
            place = Place(f"resource {name!r}", factory)
            generator(place, factory, "it", "async def client(conf: Settings) -> AsyncIterator[Client]: yield …")
            if name in self._declared.resources:
                place.refuse("a resource of this name is declared already")
            rebuilt = paths(place, "rebuilt_by", rebuilt_by, self.settings)
            self._declared.factories[name] = cast(Factory, factory)
            self._declared.resources[name] = Resource(name, cast(Factory, factory), rebuilt)
            return factory

        return declare

    def reloadable(self, part: Reloadable) -> None:
        """Declare a part of your own that takes part in reloads: see `Reloadable` and `Prepared` for what it promises.

        Parts are prepared and committed in the order they were declared, after the resources and before the limits.
        """
        name = getattr(part, "name", None)
        place = Place(f"part {name!r}", getattr(part, "prepare", None))
        if isinstance(part, type):
            place.refuse(f"it is the class {part.__name__}", f"an instance: service.reloadable({part.__name__}())")
        checked_name(place, name)
        if not is_async(getattr(part, "prepare", None) or place.refuse("it has no `prepare`", "see `Reloadable`")):
            place.refuse("its `prepare` is not async", "async def prepare(self, transition)")
        paths(place, "paths", getattr(part, "paths", None), self.settings)
        if part.name in self._declared.reloadables:
            place.refuse("a part of this name is declared already")
        self._declared.reloadables[part.name] = part

    def recovers(self, queue: str) -> Callable[[F], F]:
        """Declare `async def scan(settings)` of a queue, an asynchronous generator that says what should exist.

        It yields `Missing[Payload]`, and may yield `Present` and `PassedOver`. It runs after each start and when
        a caller asks (`hotreload reindex`).
        """
        checked_name(Place(f"scan of {queue!r}"), queue)

        def declare(scan: F) -> F:
            place = Place(f"scan of {queue!r}", scan)
            generator(
                place, scan, "it", "async def missing(conf: Settings) -> AsyncIterator[Missing[Payload]]: yield …"
            )
            self._declared.scans.append((queue, cast(Recovers, scan)))
            return scan

        return declare

    def on_dead(self, listener: D) -> D:
        """Declare `async def hook(dead: DeadJob, settings)`, called after each death of a job, one death at a time.

        The death is durable then. The hook has 30 s; what it raises is logged. A process that ends at that moment
        does not call it again: the dead stay listed.
        """
        check_listener(Place("on_dead", listener), listener, "async def hook(dead: DeadJob, conf: Settings)")
        self._declared.on_dead.append(listener)
        return listener

    @property
    def declared(self) -> Declared:
        """What was declared; for `hotreload.testing`."""
        return self._declared

    @contextmanager
    def using(self, jobs: ServiceJobs) -> Generator[None]:
        """Have `enqueue`, `result`, `cancel` and the handles of workers mean these jobs; for `hotreload.testing`."""
        before, self._inline = self._inline, jobs
        try:
            yield
        finally:
            self._inline = before

    def check_declared(self) -> None:
        """Raise DeclarationError where what was declared does not fit together."""
        self._declared.check()

    def check(self, config: Path | None = None) -> ReloadReport:
        """Validate a file as a reload would, without a running service; outcome `valid` or `rejected`.

        DeclarationError where what was declared does not fit together.
        """
        return anyio.run(check, self._source(RunOptions(config=config)))

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schema of `ov.conf`, each leaf with `x-reload` and `x-secret`."""
        return SettingsModel(self.settings).schema()

    def run(self, options: RunOptions) -> int:
        """Run as this process' only matter until a drain has ended; returns its exit code, and then the process ends.

        For the command `hotreload run`: signals are taken, and the deadline of the drain is enforced up to the end of
        the process, which must come through `hotreload.host.exit.end_process`. See `hotreload.host.process.run`.
        """
        return run(self._lifetime(options), options)

    async def serve(self, config: Path | str | None = None, *, socket: Path | str | None = None) -> int:
        """Run in an event loop of your own until a drain has ended; returns the exit code (see `hotreload run --help`).

        On the main thread SIGTERM and SIGINT ask for the drain and go on to the handlers of before; SIGHUP reloads
        where it has no handler. Cancelled, running jobs are interrupted and go back to the queue, and nothing is left.
        """
        return await serve(self._lifetime(_options(config, socket), guest=True))

    @asynccontextmanager
    async def running(
        self, config: Path | str | None = None, *, socket: Path | str | None = None
    ) -> AsyncGenerator[Self]:
        """Run inside a process of yours: ready at the beginning of the block, durable and closed at its end.

        A start that fails raises: ConfigError, StoreOwned (another process runs this service on the same store),
        StoreUnavailable, ControlSocketUnsafe or OSError; nothing is left then. SIGTERM and SIGINT begin the drain, and
        with it its deadline, and go on to the handlers of before, a server's; where there was none the signal has its
        default effect once all is durable. Until the end of the block, at most until shortly before the deadline,
        `snapshot` and `enqueue` go on to work. Left by a cancellation or an error, running jobs get no grace. The
        process is never ended, and logging, the event loop's child handling and excepthooks are left as they are.
        """
        options, entered = _options(config, socket), False
        try:
            async with self._lifetime(options, guest=True, closing=anyio.Event()):
                entered = True
                yield self
        except CANNOT_START as error:
            if not entered:  # what the server makes of it is often a long traceback
                log.error("service %r cannot start: %s", self.name, reason_of(error))
            raise

    def lifespan(
        self, config: Path | str | None = None, *, socket: Path | str | None = None
    ) -> Callable[[Any], AbstractAsyncContextManager[None]]:
        """Return the lifespan of an ASGI application that runs this service: FastAPI, Starlette, Litestar.

        `FastAPI(lifespan=service.lifespan(Path("ov.conf")))`; within one of your own, `async with
        service.running(...)`. Where the start fails, the server does not come up. See `running`.
        """

        @asynccontextmanager
        async def lifespan(_app: Any) -> AsyncGenerator[None]:
            async with self.running(config, socket=socket):
                yield

        return lifespan

    def snapshot(self) -> S:
        """Return the settings in force: whole, frozen, never changed under who holds them. Take them once a request.

        RuntimeError before the service runs in this process.
        """
        return self._running_host().started.snapshots.current.settings

    async def reload(self) -> ReloadReport:
        """Ask for a reload and return its verdict; cancelled, the reload goes on. RuntimeError before it runs here."""
        trigger = Trigger(TriggerKind.CLI, f"pid {os.getpid()} uid {os.getuid()}", now_ms())
        return await self._running_host().submit_reload(trigger).wait()

    def status(self) -> dict[str, Any]:
        """Return the status document; RuntimeError before the service runs in this process."""
        return self._running_host().status()

    def _running_host(self) -> Host:
        if self._host is None:
            raise RuntimeError(f"service {self.name!r} does not run in this process")
        return self._host

    def admin_app(self) -> ASGIApp:
        """Return the admin application, to mount in an ASGI application of yours; 503 while the service does not run.

        It guards itself: `root_key`, `allowed_hosts` and `Origin` as over `--http`.
        """

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            not_running = JSONResponse({"error": f"service {self.name!r} does not run in this process"}, 503)
            await (self._admin or not_running)(scope, receive, send)

        return app

    def _source(self, options: RunOptions) -> Source[Any]:
        path = options.config or Path("ov.conf")
        self.check_declared()
        model = DeclaredModel(self.settings, self._declared.values())
        return Source(
            path=path.absolute(), model=model, own_options=options.own_settings(), more_files=model.credential_files
        )

    @asynccontextmanager
    async def _lifetime(
        self, options: RunOptions, *, guest: bool = False, closing: anyio.Event | None = None
    ) -> AsyncGenerator[Host]:
        if self._lives:
            raise RuntimeError(f"service {self.name!r} runs in this process already")

        async def make() -> Host:
            source, stored = self._source(options), bool(self._declared.workers)
            host = await make_host(self.name, source, options, self._work, stored=stored, guest=guest, closing=closing)
            self._host, self._admin = host, create_app(host)
            return host

        self._lives = True
        try:
            async with Lifetime(make) as host:
                yield host
        finally:
            self._host = self._admin = None
            self._lives = False

    def _work(self, started: Started) -> ServiceWork:
        """Return the work of one process of this service."""
        return compose(self._declared, started, self.version, self.schema())


def _options(config: Path | str | None, socket: Path | str | None) -> RunOptions:
    return RunOptions(config=None if config is None else Path(config), socket=None if socket is None else Path(socket))
