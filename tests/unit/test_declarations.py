"""What is declared wrongly is one line that says what would be right: at once, or when the service is checked."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from hotreload import DeclarationError, Job, Live, LiveSettings, Missing, Service, SyncJob

if TYPE_CHECKING:
    from fractions import Fraction


class Vlm(BaseModel):
    """A section."""

    calls: Annotated[int, Live] = 4
    key: Annotated[SecretStr | None, Live] = None


class Settings(LiveSettings):
    """The settings of the services here."""

    vlm: Vlm = Vlm()
    tags: dict[str, int] = Field(default_factory=dict)


class Other(LiveSettings):
    """Settings of another service."""


class Text(BaseModel):
    """A payload."""

    name: str


class Holds(BaseModel):
    """A payload with a secret."""

    key: SecretStr


class Odd:
    """Not a type that pydantic knows."""


class Opaque(BaseModel):
    """A payload with an object that only code can make."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    odd: Odd


def fresh() -> Service[Settings]:
    return Service("declared", settings=Settings)


async def good(job: Job[Text], conf: Settings) -> None: ...
def plain(job: SyncJob[Text], conf: Settings) -> None: ...
async def alone(job: Job[Text]) -> None: ...
async def nothing() -> None: ...
async def swapped(conf: Settings, job: Job[Text]) -> None: ...
async def bare_payload(text: Text, conf: Settings) -> None: ...
async def other_settings(job: Job[Text], conf: Other) -> None: ...
async def other_generic(job: Job[Text, Other], conf: Settings) -> None: ...
async def sync_job(job: SyncJob[Text], conf: Settings) -> None: ...
def async_job(job: Job[Text], conf: Settings) -> None: ...
async def yields(job: Job[Text], conf: Settings) -> AsyncIterator[int]:
    yield 1


def yields_too(job: SyncJob[Text], conf: Settings) -> Iterator[int]:
    yield 1


async def odd(job: Job[Odd], conf: Settings) -> None: ...
async def secret(job: Job[Holds], conf: Settings) -> None: ...
async def of_function(job: Job[Callable[[], int]], conf: Settings) -> None: ...
async def of_object(job: Job[Opaque], conf: Settings) -> None: ...
async def unknown_type(job: Job[Fraction], conf: Settings) -> None: ...
async def with_client(job: Job[Text], conf: Settings, client: int) -> None: ...
def with_client_too(job: SyncJob[Text], conf: Settings, client: int) -> None: ...
async def positional(job: Job[Text], conf: Settings, client: int, /) -> None: ...
async def resource(conf: Settings) -> AsyncIterator[int]:
    yield 1


async def resource_of_nothing() -> AsyncIterator[int]:
    yield 1


async def returns(conf: Settings) -> int:
    return 1


def plain_generator(conf: Settings) -> Iterator[int]:
    yield 1


async def scan(conf: Settings) -> AsyncIterator[Missing[Text]]:
    yield Missing("a", "gone", Text(name="a"))


def migrates_one(value: Any) -> Any:
    return value


async def of_no_arguments() -> None: ...
def plain_hook(dead: Any, conf: Any) -> None: ...


class Part:
    """A part of a reload; its paths are wrong where a test says so."""

    def __init__(self, paths: Any, name: Any = "mine") -> None:
        self.name = name
        self.paths = paths

    async def prepare(self, transition: Any) -> None: ...


class Callable_:
    """An object that is called."""

    async def __call__(self, job: Job[Text], conf: Settings) -> int:
        return 1

    async def method(self, job: Job[Text], conf: Settings) -> int:
        return 1


class Unprepared:
    """Has no prepare."""

    name = "mine"
    paths = ("vlm",)


def worker(handler: Any = good, queue: Any = "work", **options: Any) -> Callable[[Service[Settings]], object]:
    return lambda service: service.worker(queue, **{"limit": 1, **options})(handler)


def twice(*declare: Callable[[Service[Settings]], object]) -> Callable[[Service[Settings]], object]:
    return lambda service: [each(service) for each in declare]


WRONG: list[tuple[str, Callable[[Service[Settings]], object], str]] = [
    ("queue: a number", worker(queue=3), "a name is a text"),
    ("queue: empty", worker(queue=""), "is not a name"),
    ("queue: spaces", worker(queue=" work "), "without spaces"),
    ("queue: a line break", worker(queue="wo\nrk"), "printable"),
    ("queue: twice", twice(worker(), worker()), "has a worker already"),
    ("handler: a class", worker(Text), "the class Text"),
    ("handler: not callable", worker("work.handler"), "async def handler"),
    ("handler: nothing", worker(nothing), "must take the job and the settings"),
    ("handler: only the job", worker(alone), "must take the job and the settings"),
    ("handler: swapped", worker(swapped), "annotated Settings"),
    ("handler: the payload itself", worker(bare_payload), "Job[Payload]"),
    ("handler: other settings", worker(other_settings), "the settings of this service are Settings"),
    ("handler: a job of other settings", worker(other_generic), "the settings of this service are Settings"),
    ("handler: async with SyncJob", worker(sync_job), "so its job is a Job"),
    ("handler: plain with Job", worker(async_job), "so its job is a SyncJob"),
    ("handler: an async generator", worker(yields), "has a yield"),
    ("handler: a generator", worker(yields_too), "has a yield"),
    ("handler: a partial of an async generator", worker(functools.partial(yields)), "has a yield"),
    ("handler: positional-only resource", worker(positional), "handed in by name"),
    ("handler: a builtin", worker(max), "signature"),
    ("payload: no such type", worker(odd), "cannot be validated"),
    ("payload: a secret", worker(secret), "holds a secret"),
    ("payload: a function", worker(of_function), "no JSON value becomes"),
    ("payload: an object", worker(of_object), "no JSON value becomes"),
    ("handler: a method of the class", worker(Callable_.method), "its second parameter is the job"),
    ("payload: imported for types only", worker(unknown_type), "cannot be read"),
    ("resource: not declared", worker(with_client), "no resource has that name"),
    ("process: async", worker(good, process=True), "a plain function"),
    ("process: a resource", worker(with_client_too, process=True), "another process"),
    ("process: a lambda", worker(lambda job, conf: None, process=True), "at the top of a module"),
    ("process: a partial", worker(functools.partial(plain), process=True), "at the top of a module"),
    ("limit: a fraction", worker(limit=2.5), "a whole number from 0 to 10,000, not 2.5"),
    ("limit: a truth", worker(limit=True), "a whole number"),
    ("limit: negative", worker(limit=-1), "a whole number"),
    ("limit: too many", worker(limit=10_001), "a whole number"),
    ("limit: a text", worker(limit="4"), "a whole number"),
    ("limit: of nothing", worker(limit=lambda: 4), "lambda conf"),
    ("limit: of two", worker(limit=lambda conf, more: 4), "lambda conf"),
    ("limit: async", worker(limit=returns), "answers at once"),
    ("shares: a text", worker(shares="calls"), "('calls',)"),
    ("shares: numbers", worker(shares=(1,)), "the name of one"),
    ("shares: twice", twice(lambda s: s.limit("calls", 1), worker(shares=("calls", "calls"))), "twice"),
    ("shares: not declared", worker(shares=("calls",)), "no limit or rate has that name"),
    ("max_attempts: none", worker(max_attempts=0), "from 1"),
    ("max_attempts: a fraction", worker(max_attempts=2.5), "whole number"),
    ("backoff: negative", worker(backoff=-1), "from 0"),
    ("backoff: an empty list", worker(backoff=[]), "at least one"),
    ("backoff: a text", worker(backoff="1s"), "number of seconds"),
    ("timeout_s: none", worker(timeout_s=0), "more than 0"),
    ("timeout_s: not a number", worker(timeout_s=float("nan")), "number of seconds"),
    ("timeout_s: a text", worker(timeout_s="30"), "number of seconds"),
    ("keep_done_s: negative", worker(keep_done_s=-1), "from 0"),
    ("version: zero", worker(version=0), "from 1"),
    ("version: a text", worker(version="2"), "from 1"),
    ("migrate: of one argument", worker(migrate=migrates_one), "two arguments"),
    ("migrate_cursor: not a function", worker(migrate_cursor=3), "plain function"),
    ("cursor: no such type", worker(cursor=Odd), "cannot be validated"),
    ("limit: twice", twice(lambda s: s.limit("calls", 1), lambda s: s.limit("calls", 2)), "declared already"),
    ("limit and rate", twice(lambda s: s.limit("calls", 1), lambda s: s.rate("calls", 2)), "declared already"),
    ("rate: a fraction", lambda s: s.rate("calls", 0.5), "whole number"),
    ("rate: too many", lambda s: s.rate("calls", 10_000_000), "1,000,000"),
    ("resource: returns", lambda s: s.resource(rebuilt_by=())(returns), "with a yield"),
    ("resource: a plain generator", lambda s: s.resource(rebuilt_by=())(plain_generator), "async function"),
    ("resource: of nothing", lambda s: s.resource(rebuilt_by=())(resource_of_nothing), "the settings"),
    ("resource: a text of paths", lambda s: s.resource(rebuilt_by="vlm.key")(resource), "('vlm.key',)"),
    ("resource: a typo", lambda s: s.resource(rebuilt_by=("vlm.kye",))(resource), "did you mean 'vlm.key'?"),
    ("resource: no such section", lambda s: s.resource(rebuilt_by=("llm.key",))(resource), "no such field"),
    (
        "resource: twice",
        twice(*[lambda s: s.resource(rebuilt_by=())(resource)] * 2),
        "declared already",
    ),
    ("part: a typo", lambda s: s.reloadable(Part(("vlm.cals",))), "did you mean 'vlm.calls'?"),
    ("part: a text of paths", lambda s: s.reloadable(Part("vlm")), "('vlm',)"),
    ("part: without a name", lambda s: s.reloadable(Part(("vlm",), None)), "a name is a text"),
    ("part: a class", lambda s: s.reloadable(Part), "an instance: service.reloadable(Part())"),  # type: ignore[arg-type]
    ("shares: a set", worker(shares={"calls"}), "a list or tuple of names"),
    ("part: without prepare", lambda s: s.reloadable(Unprepared()), "`prepare`"),
    ("part: twice", twice(*[lambda s: s.reloadable(Part(("vlm",)))] * 2), "declared already"),
    ("scan: of an unknown queue", lambda s: s.recovers("wrok")(scan), "no worker serves that queue"),
    ("scan: a plain function", twice(worker(), lambda s: s.recovers("work")(plain_generator)), "async function"),
    ("scan: of nothing", twice(worker(), lambda s: s.recovers("work")(resource_of_nothing)), "the settings"),
    ("on_dead: plain", lambda s: s.on_dead(plain_hook), "not an async function"),
    ("on_dead: of nothing", lambda s: s.on_dead(of_no_arguments), "two arguments"),
    ("service: a bad name", lambda _: Service("my svc", settings=Settings), "service name"),
    ("service: a model of another kind", lambda _: Service("x", settings=Text), "class Settings(LiveSettings)"),  # type: ignore[type-var]
    ("service: an instance", lambda _: Service("x", settings=Settings()), "class Settings(LiveSettings)"),  # type: ignore[arg-type]
    ("service: a number as version", lambda _: Service("x", settings=Settings, version=2), "a text"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("declare", "right"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_what_is_declared_wrongly_is_one_line(declare: Callable[[Service[Settings]], object], right: str) -> None:
    service = fresh()
    with pytest.raises(DeclarationError) as refused:  # noqa: PT012 - some are seen only when all is declared
        declare(service)
        service.check_declared()
    line = str(refused.value)
    assert right in line
    assert "\n" not in line


def forgets_async(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **options: Any) -> Any:
        return function(*args, **options)

    return wrapper


async def extra(job: Job[Text], conf: Settings, *, extra: int = 3) -> int:
    return extra


async def default(job: Job[Text], conf: Settings, retries: int = 3) -> int:
    return retries


@pytest.mark.parametrize(
    "handler",
    [
        good,
        plain,
        Callable_(),
        Callable_().method,
        functools.partial(extra, extra=5),
        default,
        forgets_async(good),
        lambda job, conf: None,
    ],
)
def test_any_callable_that_takes_a_job_is_a_handler(handler: Any) -> None:
    service = fresh()
    service.worker("work", limit=lambda conf: conf.vlm.calls)(handler)
    service.check_declared()


def test_an_event_loop_that_is_not_of_asyncio_is_refused_in_one_line() -> None:
    entered = fresh().running().__aenter__()
    with pytest.raises(RuntimeError, match="a service runs in an event loop of asyncio"):
        entered.send(None)
