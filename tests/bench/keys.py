"""A service with 200 live keys and 10 parts that take part in every reload: 5 pools and 5 resources.

It answers each connection to `KEYS_PORT` with the value in force, as a service answers its clients.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio.lowlevel
from pydantic import BaseModel, Field, create_model

from hotreload import Job, Live, LiveSettings, Service

KEYS = 200
PARTS = 5
ANSWER = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{}"


class Tenant(BaseModel):
    """One of many entries of a large file."""

    name: str
    url: str
    limit: int
    models: list[str]


_fields: dict[str, Any] = {f"key_{number}": (Annotated[int, Live, Field(ge=0)], 0) for number in range(KEYS)}
Keys: Any = create_model(
    "Keys", __base__=LiveSettings, **_fields, tenants=(Annotated[dict[str, Tenant], Live], Field(default_factory=dict))
)
service = Service("keys", settings=Keys)


class Answers(asyncio.Protocol):
    """Answers one request."""

    def connection_made(self, transport: Any) -> None:
        """Keep where the answer goes."""
        self._transport: asyncio.Transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer with the value in force."""
        value = str(service.snapshot().key_0)
        self._transport.write(ANSWER.format(len(value), value).encode())
        self._transport.close()


@service.resource(rebuilt_by=())
async def listener(_conf: Any) -> AsyncIterator[asyncio.Server]:
    """Answer with the value in force."""

    loop = asyncio.get_running_loop()
    async with await loop.create_server(Answers, "127.0.0.1", int(os.environ["KEYS_PORT"])) as server:
        yield server


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
