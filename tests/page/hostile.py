"""A service for the page's tests: jobs that wait or fail as they are told, texts that try to be markup."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import anyio
from pydantic import Field, SecretStr

from hotreload import Job, Live, LiveSettings, Service

MARKUP = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


class Conf(LiveSettings):
    """`ov.conf` of this service."""

    limit: Annotated[int, Live, Field(ge=0, le=100)] = 2
    greeting: Annotated[str, Live] = "hello"
    api_key: Annotated[SecretStr | None, Live] = None
    workspace: Path = Path("workspace")


service = Service("hostile", settings=Conf, version="1")


@service.worker("work", limit=lambda conf: conf.limit, max_attempts=1)
async def work(job: Job[Any], _conf: Conf) -> Any:
    """Do what the payload says: wait until interrupted, fail with a text, or return it."""
    what = job.payload if isinstance(job.payload, dict) else {}
    if what.get("wait"):
        await job.checkpoint({"page": what.get("text")})
        await anyio.sleep_forever()
    if what.get("fail"):
        raise RuntimeError(what.get("text"))
    return what.get("text")
