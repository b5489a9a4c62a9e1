"""No trigger ever applies a mixture: each writer × each trigger × a file that is ours and one that is not.

Every version says the same number twice, so that a mixture of two shows. Writers pause longer than the rest where a
lease tells that they are not done, and less than that elsewhere; HOTRELOAD_PAUSES (seconds, `0.02,0.1,0.5,1,2`) makes
a campaign of it.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import anyio
import pytest

from hotreload.reload.load import REST_S
from tests.process.saves import atomic_rename, copied
from tests.process.serving import Running, serving, text

pytestmark = pytest.mark.anyio

PAUSES = [float(pause) for pause in os.environ.get("HOTRELOAD_PAUSES", f"{REST_S / 2},{REST_S + 0.2}").split(",")]
CAMPAIGN = "HOTRELOAD_PAUSES" in os.environ
NOT_OURS = ("setpriv", "--inh-caps=-lease", "--bounding-set=-lease")
Save = Callable[[Path, str, float], Awaitable[None]]


def version(number: int, *, watch: bool) -> str:
    """Return a version; all are of one length, and a half of one with a half of another parses."""
    own = {"watch": watch, "poll_s": 0.5}
    return text(hotreload=own, value=100_000 + number, place="x" * 200, twin=100_000 + number)


async def over_the_old(conf: Path, new: str, pause_s: float) -> None:
    half = len(new) // 2
    with conf.open("r+") as file:
        for part in (new[:half], new[half:]):
            file.write(part)
            file.flush()
            await anyio.sleep(pause_s)


async def truncated(conf: Path, new: str, pause_s: float) -> None:
    with conf.open("w") as file:
        for part in (new[:20], new[20:]):
            await anyio.sleep(pause_s)
            file.write(part)
            file.flush()


async def renamed(conf: Path, new: str, _pause_s: float) -> None:
    await atomic_rename(conf, new)


async def copied_over(conf: Path, new: str, _pause_s: float) -> None:
    await copied(conf, new)


async def two_writers(conf: Path, new: str, pause_s: float) -> None:
    """The second begins and ends while the first has written half; then the first writes it all again."""
    with conf.open("r+") as file:
        file.write(new[: len(new) // 2])
        file.flush()
        await over_the_old(conf, new, pause_s)
        file.seek(0)
        file.write(new)


SAVES: list[Save] = [over_the_old, truncated, renamed, copied_over, two_writers]


async def by_signal(service: Running) -> None:
    service.process.send_signal(signal.SIGHUP)


async def by_http(service: Running) -> None:
    await service.reload()


async def by_cli(service: Running) -> None:
    await service.verb("reload")


async def by_file(_service: Running) -> None:
    """The watch alone."""


@asynccontextmanager
async def asking(service: Running, ask: Callable[[Running], Awaitable[None]]) -> AsyncIterator[None]:
    """Ask again and again while the file is written, and once more afterwards."""
    written = False

    async def again() -> None:
        while not written:
            await ask(service)
            await anyio.sleep(0.03)
        await ask(service)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(again)
        yield
        written = True


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("ask", [by_signal, by_http, by_cli, by_file])
async def test_no_mixture_is_applied(short_path: Path, ask: Callable[[Running], Awaitable[None]], ours: bool) -> None:
    if not ours and (os.geteuid() != 0 or shutil.which("setpriv") is None):
        pytest.skip("setpriv and root are needed to be another user")
    (short_path / "etc").mkdir()
    conf = short_path / "etc" / "ov.conf"
    numbers = count(1)
    watch = ask is by_file
    conf.write_text(version(0, watch=watch))
    before = () if ours else NOT_OURS
    if not ours:
        os.chown(conf, 12345, 12345)
    async with serving(short_path, conf=conf, before=before) as service:
        for save in SAVES:
            for pause_s in [pause for pause in PAUSES if (CAMPAIGN and ours) or (pause > REST_S) is ours]:
                number = next(numbers)
                async with asking(service, ask):
                    await save(conf, version(number, watch=watch), pause_s)
                    if not ours:
                        os.chown(conf, 12345, 12345)
                await service.applied(100_000 + number)
        for report in service.reloads:
            new = {change["path"]: change["new"] for change in report["changes"]}
            assert new.get("value") == new.get("twin"), report
        assert {report["outcome"] for report in service.reloads} <= {"applied", "unchanged"}
