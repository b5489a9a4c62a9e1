"""The sample service with a part that tells secrets in its errors, as client libraries do."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from hotreload import Live, Service
from tests.process.sample import Sample

log = logging.getLogger(__name__)


class Leaky(Sample):
    """`place` says where it goes wrong."""

    place: Annotated[str, Live] = "here"


@dataclass
class Part:
    """Fails with the whole settings in its message."""

    name: str = "leaky"
    paths: Sequence[str] = ("",)
    place: str = ""
    told: str = ""

    async def prepare(self, transition: Any) -> Part:
        """Take the settings, secrets in clear."""
        conf = transition.new
        self.place = conf.place
        self.told = f"{conf.password.get_secret_value()} {conf.headers} {conf.nested} {conf.url}"
        self._fail("prepare")
        if self.place == "print":
            log.warning("connecting with %s", self.told)
        return self

    def _fail(self, place: str) -> None:
        if self.place == place or (place == "commit" and self.place == "undo"):
            raise ConnectionError(f"refused: {self.told}")

    def commit(self) -> None:
        """Fail if told to."""
        self._fail("commit")

    def revert(self) -> None:
        """Nothing was switched."""

    async def undo(self) -> None:
        """Fail if told to."""
        if self.place == "undo":
            raise ConnectionError(f"refused: {self.told}")

    async def retire(self) -> None:
        """Fail if told to."""
        self._fail("retire")


service = Service("sample", settings=Leaky, version="1")
service.reloadable(Part())
