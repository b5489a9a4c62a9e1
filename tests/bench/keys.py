"""A service with 200 live keys and 10 parts that take part in every reload: 5 pools and 5 resources."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio.lowlevel
from pydantic import Field, create_model

from hotreload import Job, Live, LiveSettings, Service

KEYS = 200
PARTS = 5
_fields: dict[str, Any] = {f"key_{number}": (Annotated[int, Live, Field(ge=0)], 0) for number in range(KEYS)}
Keys: Any = create_model("Keys", __base__=LiveSettings, **_fields)

service = Service("keys", settings=Keys)


def _declare(number: int) -> None:
    async def resource(conf: Any) -> AsyncIterator[int]:
        yield conf.key_0

    async def work(_job: Job[int], _conf: Any) -> None:
        await anyio.lowlevel.checkpoint()

    resource.__name__ = f"resource_{number}"
    service.resource(rebuilt_by=("key_0",))(resource)
    service.worker(f"queue_{number}", limit=lambda conf: 1 + conf.key_0 % 7)(work)


for _number in range(PARTS):
    _declare(_number)
