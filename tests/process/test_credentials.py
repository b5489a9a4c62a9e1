"""Secrets in files of their own are read with the same care as the configuration: never half, never waited for."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from hotreload.reload.load import Reader
from tests.process.serving import Running, put, serving

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def served(folder: Path, **conf: Any) -> AsyncIterator[tuple[Running, Path]]:
    """Run the sample service with a credential for its password."""
    credentials = folder / "credentials"
    credentials.mkdir()
    (credentials / "password").write_text("first secret")
    put(folder / "ov.conf", **conf)
    async with serving(folder, environ={"CREDENTIALS_DIRECTORY": str(credentials)}) as service:
        yield service, credentials / "password"


async def shown(service: Running) -> str:
    return (await service.get("/admin/config"))["settings"]["password"]


async def test_a_rotation_and_a_hangup_are_one_applied_reload(short_path: Path) -> None:
    async with served(short_path) as (service, password):
        for number in range(5):
            new = password.with_name(".new")
            new.write_text(f"secret number {number}")
            new.replace(password)
            service.process.send_signal(signal.SIGHUP)
            await service.until("a verdict", lambda reloads, number=number: len(reloads) > number)
            await service.rest()
        await anyio.sleep(1.2)  # two looks of the watch
        applied = [len(each["changes"]) for each in service.reloads if each["outcome"] != "unchanged"]
        assert applied == [1] * 5  # on a busy machine the signal may come after the watch's reload: unchanged


@pytest.mark.parametrize("watch", [True, False])
async def test_a_secret_that_is_being_written_is_waited_for(short_path: Path, watch: bool) -> None:
    async with served(short_path, hotreload={"watch": watch}) as (service, password):
        before = await shown(service)
        with password.open("w") as file:
            service.process.send_signal(signal.SIGHUP)
            await anyio.sleep(0.3)
            assert await shown(service) == before
            file.write("second secret")
        await service.until("a verdict", lambda reloads: len(reloads) == 1)
        await service.rest()
        await anyio.sleep(1.2)
        outcomes = [each["outcome"] for each in service.reloads]
        assert [each for each in outcomes if each != "unchanged"] == ["applied"]  # the watch may ask after the signal
        assert await shown(service) != before


async def test_a_secret_that_is_none_is_refused_and_named(short_path: Path) -> None:
    async with served(short_path, hotreload={"watch": False}) as (service, password):
        before = await shown(service)
        for make, reason in (
            (password.touch, "it is empty; remove it where no secret is meant"),
            (lambda: os.mkfifo(password), "is not a regular file"),
            (password.mkdir, "is not a regular file"),
        ):
            password.unlink()
            make()
            with anyio.fail_after(10):
                report = await service.reload()
            assert (report["outcome"], report["generation"]) == ("rejected", 1)
            assert [error["message"] for error in report["errors"]] == [
                f"the credential file password cannot be used: {reason}"
            ]
            assert await shown(service) == before
        password.rmdir()
        assert (await service.reload())["outcome"] == "applied"
        assert await shown(service) is None


async def test_a_dry_run_reads_them_too_and_changes_nothing(short_path: Path) -> None:
    async with served(short_path, hotreload={"watch": False}) as (service, password):
        password.write_text("second secret")
        report = await service.reload(json={"dry_run": True})
        assert [change["path"] for change in report["changes"]] == ["password"]
        assert (await service.reload())["outcome"] == "applied"


async def test_a_secret_that_moves_is_unchanged_and_comes_from_elsewhere_now(short_path: Path) -> None:
    async with served(short_path, hotreload={"watch": False}, place="here") as (service, password):
        for where, saved in (("credential", {}), ("file", {"password": "first secret"})):
            put(service.conf, hotreload={"watch": False}, place="there", **saved)
            if where == "file":
                password.unlink()
            dry_run = await service.reload(json={"dry_run": True})
            assert (dry_run["outcome"], dry_run["changes"]) == ("valid", [])
            report = await service.reload()
            assert (report["outcome"], report["generation"]) == ("unchanged", 1)
            config = await service.get("/admin/config")
            assert config["provenance"]["password"] == where
            assert config["provenance"]["place"] == "file"
            assert (config["settings"]["place"], config["generation"]) == ("here", 1)


async def test_one_that_is_written_is_waited_for_and_one_that_never_ends_is_named(tmp_path: Path) -> None:
    conf, path, other = (tmp_path / name for name in ("ov.conf", "secret", "other"))
    conf.write_text("{}")
    other.write_bytes(b"x")
    reader = Reader(rest_s=0.2, deadline_s=0.6)
    assert (await reader.settled([conf, path, other])).beside == {other: b"x"}
    path.touch()
    began = anyio.current_time()
    assert (await reader.settled([conf, path, other])).beside == {path: b"", other: b"x"}
    assert anyio.current_time() - began >= 0.2
    async with anyio.create_task_group() as tasks:

        async def write() -> None:
            with path.open("wb") as file:
                await anyio.sleep(0.3)
                file.write(b"whole")

        tasks.start_soon(write)
        await anyio.sleep(0.05)
        assert (await reader.settled([conf, path, other])).beside == {path: b"whole", other: b"x"}
    with path.open("r+b"):
        inputs = await reader.settled([conf, path, other])
    assert inputs.document.data == {}
    assert inputs.beside == {path: "still being written", other: b"x"}
    path.unlink()
    os.mkfifo(path)
    assert (await reader.settled([conf, path])).beside == {path: "is not a regular file"}
