"""A service that has little more than a scan: `entries` of them, every thousandth missing, and nobody who makes them.

hotreload run tests.process.missing_scan:service --config ov.conf
"""

from collections.abc import AsyncIterator
from typing import Annotated

from anyio import sleep_forever

from hotreload import Job, Live, LiveSettings, Missing, Present, Service

EVERY = 1_000
FOLDER = 1_000


class Settings(LiveSettings):
    """How many entries there are."""

    entries: Annotated[int, Live] = 0


service = Service("entries", settings=Settings)


@service.worker("made", limit=1)
async def make(job: Job[str], conf: Settings) -> None:
    """Take one, and keep it."""
    del job, conf
    await sleep_forever()


@service.recovers("made")
async def unmade(conf: Settings) -> AsyncIterator[Missing[str] | Present]:
    """Yield the entries one by one, as the slowest scan would tell them."""
    for number in range(conf.entries):
        name = f"folder{number // FOLDER}/entry{number}"
        yield Present() if number % EVERY else Missing(name, "no abstract", name)
