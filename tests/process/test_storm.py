"""Many ask at once, and signals come at any instant: few reloads, every answer right, nobody dead, nobody forgotten."""

from __future__ import annotations

import json
import os
import random
import signal
from collections import deque
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from tests.counts import counted, patience_s
from tests.process.running import HOTRELOAD, started, wait_until
from tests.process.serving import TARGET, Running, put, serving

TRIGGERS = counted("TRIGGERS", 1000)
pytestmark = [pytest.mark.anyio, pytest.mark.timeout(patience_s(120, TRIGGERS, 1000))]
KEY = "a-root-key-of-a-test"
OWN = {"root_key": KEY, "poll_s": 2.0}
SAVES = 5
SPREAD_S = 0.7
LINES = 50
"""Connections of each kind."""
STARTS = counted("STARTS", 8)


def value_of(reloads: list[dict[str, Any]], generation: int) -> int:
    """Return the value that a generation has."""
    values = {1: 0}
    for report in reloads:
        for change in report["changes"]:
            if report["outcome"] == "applied" and change["path"] == "value":
                values[report["generation"]] = change["new"]
    return values[max(known for known in values if known <= generation)]


class Line:
    """A connection that asks without waiting for answers, and notes what had been saved when each was asked."""

    def __init__(self, stream: anyio.abc.ByteStream, key: str) -> None:
        self._stream = BufferedByteReceiveStream(stream)
        self._send = stream.send
        self._request = f"POST /admin/config/reload HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {key}\r\n\r\n".encode()
        self._asked: deque[int] = deque()
        self.answers: list[tuple[int, dict[str, Any]]] = []

    async def ask(self, saved: int) -> None:
        """Send a request."""
        self._asked.append(saved)
        await self._send(self._request)

    async def hear(self) -> None:
        """Read the answer to everything asked; they come in order."""
        while self._asked:
            head = (await self._stream.receive_until(b"\r\n\r\n", 65536)).decode()
            fields = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:])
            report = json.loads(await self._stream.receive_exactly(int(fields["content-length"])))
            assert head.startswith("HTTP/1.1 200 "), head
            assert fields["x-reload-id"] == report["id"]
            self.answers.append((self._asked.popleft(), report))


async def test_a_storm_is_a_handful_of_reloads_and_every_verdict_is_right(
    short_path: Path, figures: Callable[..., None]
) -> None:
    """Signals, POSTs over TCP and over the control socket, and saves, all sent within a second."""
    put(short_path / "ov.conf", hotreload=OWN)
    saved = 0
    async with serving(short_path, "--http", "127.0.0.1:0") as service, AsyncExitStack() as lines:
        port = int((await service.spoken.line("listening on http://")).rpartition(":")[2])
        asking: list[Line] = []
        for _ in range(LINES):
            for stream in (await anyio.connect_tcp("127.0.0.1", port), await anyio.connect_unix(service.socket)):
                asking.append(Line(await lines.enter_async_context(stream), KEY))
        began = anyio.current_time()
        for number in range(TRIGGERS):
            if number % (TRIGGERS // SAVES) == 0:
                saved += 1
                put(service.conf, value=saved, hotreload=OWN)
            if number % 3:
                await asking[number % len(asking)].ask(saved)
            else:
                service.process.send_signal(signal.SIGHUP)
            await anyio.sleep_until(began + SPREAD_S * number / TRIGGERS)
        sent_s = anyio.current_time() - began
        async with anyio.create_task_group() as hearing:
            for line in asking:
                hearing.start_soon(line.hear)
        await service.rest()
        answers = [answer for line in asking for answer in line.answers]
        assert len(answers) == TRIGGERS - len(range(0, TRIGGERS, 3))
        for asked, report in answers:
            assert report["outcome"] in ("applied", "unchanged")
            assert value_of(service.reloads, report["generation"]) >= asked
        told = {report["id"]: report for report in service.reloads}
        assert all(told[report["id"]] == report for _, report in answers)
        applied = [report for report in service.reloads if report["outcome"] == "applied"]
        values = [value_of(service.reloads, report["generation"]) for report in applied]
        assert values == sorted(set(values))
        assert values[-1] == saved
        assert 1 <= len(applied) <= SAVES
        assert (await service.status())["generation"] == 1 + len(applied)
        assert len(told) <= TRIGGERS // 2
        await wait_until(lambda: _history_agrees(service), 5, "history as the events told it")
        figures(f"{TRIGGERS} triggers in {sent_s:.2f} s: {len(told)} reloads, {len(applied)} applied of {SAVES} saves")


async def _history_agrees(service: Running) -> bool:
    history = [report["id"] for report in await service.get("/admin/config/history")]
    return history == [report["id"] for report in reversed(service.reloads)][:50]


async def test_a_cli_caller_in_the_storm_gets_the_same_verdict(short_path: Path) -> None:
    async with serving(short_path) as service:
        put(service.conf, value=1, hotreload={"watch": False})
        done: list[Any] = []

        async def ask() -> None:
            done.append(await service.verb("reload", "--json"))

        async with anyio.create_task_group() as asking:
            asking.start_soon(ask)
            asking.start_soon(ask)
        assert [each.returncode for each in done] == [0, 0]
        for each in done:
            ids = [report["id"] for report in service.reloads]
            assert json.loads(each.stdout)["id"] in ids


def caught(pid: int) -> bool:
    """Tell whether a process has a handler for SIGHUP, as proc(5) says."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = int(next(line for line in status.splitlines() if line.startswith("SigCgt:")).split()[1], 16)
    return bool(mask & 1 << (signal.SIGHUP - 1))


@pytest.mark.parametrize("seed", range(STARTS))
async def test_hangups_from_the_first_statement_to_the_end(short_path: Path, seed: int) -> None:
    """No death, and what came before the drain is served; the drain's own end is where the last ones come."""
    chance = random.Random(seed)
    put(short_path / "ov.conf")
    arguments = ("--config", str(short_path / "ov.conf"), "--socket", str(short_path / "run" / "s"))
    async with started(*HOTRELOAD, "run", TARGET, *arguments) as (process, spoken):
        await wait_until(lambda: caught(process.pid), 10, "a handler", every_s=0)
        await anyio.sleep(chance.uniform(0, 0.8))
        for _ in range(chance.randint(1, 4)):
            os.kill(process.pid, signal.SIGHUP)
        assert "reload.unchanged" in await spoken.line("trigger=signal")
        process.send_signal(signal.SIGTERM)
        with suppress(ProcessLookupError):
            while process.returncode is None:
                os.kill(process.pid, signal.SIGHUP)  # the process object would reap it, and lose its exit code
                with anyio.move_on_after(chance.uniform(0, 0.01)):
                    await process.wait()
        await process.wait()
    assert process.returncode == 0, "\n".join(spoken.lines)


async def test_a_hangup_while_a_reload_runs_is_served_after_it(short_path: Path) -> None:
    put(short_path / "ov.conf", hotreload={"watch": False})
    async with serving(short_path) as service:
        for value in range(1, counted("HANGUPS", 30) + 1):
            await _hang_up_in_between(service, value)


async def _hang_up_in_between(service: Running, value: int) -> None:
    """Ask, save again while that is served, hang up: the newest is there in the end."""
    async with anyio.create_task_group() as asking:
        asking.start_soon(service.reload)
        await anyio.sleep(0.001 * (value % 5))
        put(service.conf, value=value, hotreload={"watch": False})
        service.process.send_signal(signal.SIGHUP)
    await service.applied(value, within_s=5)
