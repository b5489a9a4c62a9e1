"""What a declaration refuses, where it is written."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hotreload import Job, LiveSettings, Service, SyncJob


@pytest.mark.parametrize("name", ["my svc", "", "../x", "a/b", "x" * 65, "ä"])
def test_a_name_that_cannot_be_a_socket_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is not a service name"):
        Service(name, settings=LiveSettings)


def declared() -> Service:
    service = Service("declared", settings=LiveSettings)

    @service.worker("work", limit=1)
    async def work(_job: Job[int], _conf: Any) -> None: ...

    @service.resource(rebuilt_by=())
    async def client(_conf: Any) -> AsyncIterator[int]:
        yield 1

    service.limit("calls", 1)
    return service


def test_a_name_is_declared_once() -> None:
    service = declared()
    with pytest.raises(ValueError, match="has a worker already"):
        service.worker("work", limit=1)(_other)
    with pytest.raises(ValueError, match="is declared already"):
        service.limit("calls", 2)

    async def client(_conf: Any) -> AsyncIterator[int]:
        yield 2

    with pytest.raises(ValueError, match="is declared already"):
        service.resource(rebuilt_by=())(client)


async def _other(_job: Job[int], _conf: Any) -> None: ...


def _in_a_process(_job: SyncJob[int], _conf: Any, client: int) -> None:
    del client


def test_a_process_is_handed_no_resource() -> None:
    with pytest.raises(ValueError, match="cannot be handed to another process"):
        declared().worker("render", limit=1, process=True)(_in_a_process)


@pytest.mark.anyio
async def test_a_job_is_added_only_where_the_service_runs() -> None:
    with pytest.raises(RuntimeError, match="does not run in this process"):
        await declared().enqueue("work", 1)


@pytest.mark.anyio
async def test_a_path_may_be_a_text(short_path: Path) -> None:
    conf = short_path / "ov.conf"
    conf.write_text("{}")
    service = Service("texts", settings=LiveSettings)
    async with service.running(str(conf), socket=str(short_path / "s.sock")):
        assert service.status()["config_file"] == str(conf)
        assert (short_path / "s.sock").is_socket()
