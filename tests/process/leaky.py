"""The sample service with parts and jobs that tell secrets in their errors, as client libraries do."""

from __future__ import annotations

import base64
import json
import logging
import warnings
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import model_validator

from hotreload import Job, Live, Missing, PassedOver, Service, SyncJob
from hotreload.host.start import Started
from tests.process.sample import Sample

log = logging.getLogger(__name__)


class Leaky(Sample):
    """`place` says where it goes wrong."""

    place: Annotated[str, Live] = "here"

    @model_validator(mode="after")
    def _careless(self) -> Leaky:
        if self.place == "validator":
            raise LookupError(told(self))
        if self.place == "validator that refuses":
            raise ValueError(told(self))
        return self


def told(conf: Sample) -> str:
    """Return the secrets of the settings, each in the spellings that libraries use."""
    password = conf.password.get_secret_value() if conf.password else ""
    basic = base64.b64encode(f"user:{password}".encode()).decode()
    texts = [
        f"{password} {conf.headers} {conf.nested} {conf.url}",
        json.dumps(conf.nested),
        repr(json.dumps(conf.headers)),
    ]
    return f"{texts} {basic} https://user:{quote(password, safe='')}@example.org/ {password.splitlines()}"


@dataclass
class Part:
    """Fails with the whole settings in its message."""

    name: str = "leaky"
    paths: Sequence[str] = ("",)
    place: str = ""
    told: str = ""

    async def prepare(self, transition: Any) -> Part:
        """Take the settings, secrets in clear."""
        self.place = transition.new.place
        self.told = told(transition.new)
        self._fail("prepare")
        if self.place == "print":
            log.warning("connecting with %s", self.told)
            warnings.warn(f"connected with {self.told}", stacklevel=1)
        return self

    def _fail(self, *places: str) -> None:
        if self.place in places:
            raise ConnectionError(f"refused: {self.told}")

    def commit(self) -> None:
        """Fail if told to."""
        self._fail("commit", "undo", "revert")

    def revert(self) -> None:
        """Fail if told to."""
        self._fail("revert")

    async def undo(self) -> None:
        """Fail if told to."""
        self._fail("undo")

    async def retire(self) -> None:
        """Fail if told to."""
        self._fail("retire")


class LeakyService(Service):
    """A service that may fail in ways of its own before it runs."""

    def _work(self, started: Started) -> Any:
        conf = started.snapshots.current.settings
        if conf.place == "defect":
            raise LookupError(told(conf))
        if conf.place == "system":
            raise ConnectionError(told(conf))
        return super()._work(started)


service = LeakyService("sample", settings=Leaky, version="1")
service.reloadable(Part())


@service.resource(rebuilt_by=("place",))
async def client(conf: Leaky) -> AsyncIterator[str]:
    """Connect, and fail if told to."""
    if conf.place == "resource":
        raise RuntimeError(f"refused: {told(conf)}")
    yield "connected"


@service.worker("coroutine", limit=1)
async def coroutine(_job: Job[str], conf: Leaky, client: str) -> None:
    """Fail in the loop."""
    assert client == "connected"
    log.warning("a coroutine has %s", told(conf))
    raise ConnectionError(f"refused: {told(conf)}")


@service.worker("thread", limit=1)
def thread(_job: SyncJob[str], conf: Leaky) -> None:
    """Fail in a thread, for a reason."""
    try:
        raise KeyError(told(conf))
    except KeyError as error:
        raise ConnectionError("refused") from error


@service.worker("process", limit=1, process=True)
def process(_job: SyncJob[str], conf: Leaky) -> None:
    """Fail in another process."""
    log.warning("a process has %s", told(conf))
    raise ExceptionGroup(told(conf), [ConnectionError(f"refused: {told(conf)!r}")])


@service.recovers("coroutine")
async def lost(conf: Leaky) -> AsyncIterator[Missing[str] | PassedOver]:
    """Fail to look."""
    yield PassedOver("two", f"cannot be read: {told(conf)}")
    if conf.place != "no":
        raise ConnectionError(f"refused: {told(conf)}")
    yield Missing(id="one", reason="none", payload="one")
