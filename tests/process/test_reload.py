"""The limit follows each way of asking, a bad file changes nothing, and no document is summarised twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.process.running import (
    POOL,
    WAYS,
    Endpoint,
    Home,
    Summaries,
    endpoint,
    hotreload,
    library_files,
    summaries,
    verdict,
    wait_until,
)

pytestmark = pytest.mark.anyio


async def test_limit_follows_every_way_of_asking_and_nothing_is_made_twice(short_path: Path) -> None:
    async with endpoint(latency_s=0.1) as model:
        home = Home.make(short_path, library_files(150), api_base=model.url)
        needed = home.calls_needed()
        async with summaries(home) as service:
            await wait_until(lambda: _runs(service, 4), 10, "4 jobs run")
            for way in WAYS:
                home.set("hotreload", watch=way in ("in place", "rename"))
                await _moves(service, way, 4, 16)
                await wait_until(lambda: _runs(service, 16), 20, f"{way}: running = limit after growing")
                await _shrinks(service, model, way)
                await _moves(service, way, 2, 4)
            shown = json.loads((await service.verb("status", "--json")).stdout)
            (pool,) = (pool for pool in shown["pools"] if pool["name"] == POOL)
            assert (pool["limit"], pool["running"]) == (4, 4)

            await model.behave(latency_s=0.0)
            await service.ask("cli", home.set("vlm", max_concurrent=16))
            await wait_until(lambda: _idle(service), 60, "all documents summarised")
            gauges = await model.gauges()
        assert home.unsummarised() == []
        assert (gauges["calls"], gauges["answered"], gauges["repeated"]) == (needed, needed, 0)
        assert (gauges["cut"], gauges["peak"]) == (0, 16)


async def _moves(service: Summaries, way: str, old: int, new: int) -> dict[str, Any]:
    report, code = await service.ask(way, service.home.set("vlm", max_concurrent=new))
    assert (report["outcome"], code) == ("applied", 200 if way == "http" else 0), report
    (change,) = (change for change in report["changes"] if change["path"] == "vlm.max_concurrent")
    assert (change["old"], change["new"], change["effect"], change["owner"]) == (old, new, "live", POOL)
    assert (await service.pool())["limit"] == new
    return report


async def _shrinks(service: Summaries, model: Endpoint, way: str) -> None:
    """With every call hung 16 jobs run on under a limit of 2: each report and the status say so until it is true."""
    await model.behave(hang=True)
    await wait_until(lambda: _hang(model, 16), 10, "16 calls hang")
    over = [{"owner": POOL, "limit": 2, "running": 16}]
    assert (await _moves(service, way, 16, 2))["converging"] == over
    again = json.loads((await service.verb("reload", "--json")).stdout)
    assert (again["outcome"], again["converging"]) == ("unchanged", over)
    assert (await service.status())["converging"] == over
    assert f"converging: {POOL} runs 16, its limit is 2" in (await service.verb("status")).stdout.decode()
    await model.behave(hang=False)
    await _converges(service, 2)
    status = await service.status()
    assert status["converging"] == []
    assert status["last_reload"]["converging"] == over  # the verdict of its time


async def _hang(model: Endpoint, calls: int) -> bool:
    return (await model.gauges())["hanging"] == calls


async def _runs(service: Summaries, jobs: int) -> bool:
    return await service.running() == jobs


async def _idle(service: Summaries) -> bool:
    (queue,) = (await service.status())["queues"]
    return not (queue["ready"] or queue["scheduled"] or queue["running"])


async def _converges(service: Summaries, limit: int) -> None:
    """What runs never grows on its way down, and ends at the limit."""
    before = await service.running()
    with anyio.fail_after(10):
        while before > limit:
            now = await service.running()
            assert now <= before
            before = now


BAD = ("out of range", "missing brace", "missing inner brace", "empty", "wrong type")


def _broken(home: Home, how: str) -> tuple[str, tuple[int, int]]:
    """Return a bad ov.conf and where its fault is: line and column."""
    good = home.text()
    if how == "empty":
        return "", (1, 1)
    if how == "missing brace":  # the last: it is missed where the text ends, in its own line
        return good.rstrip().removesuffix("}"), (len(good.splitlines()), 1)
    if how == "missing inner brace":  # the next section is taken for part of this one, until the text ends
        return good.replace('  },\n  "documents"', '  ,\n  "documents"'), (len(good.splitlines()) + 1, 1)
    value = "-3" if how == "out of range" else '"four"'
    lines = good.replace('"max_concurrent": 4', f'"max_concurrent": {value}').splitlines()
    line = next(number for number, text in enumerate(lines, 1) if '"max_concurrent"' in text)
    return "\n".join(lines), (line, lines[line - 1].index(value) + 1)


async def test_bad_file_is_refused_by_every_way_with_one_verdict(short_path: Path) -> None:
    async with endpoint() as model:
        await model.behave(hang=True)  # four jobs stay in hand
        home = Home.make(short_path, library_files(6), api_base=model.url)
        async with summaries(home) as service:
            await wait_until(lambda: _runs(service, 4), 10, "4 jobs run")
            verdicts: dict[str, list[dict[str, Any]]] = {}
            for watch, ways in ((True, WAYS[:2]), (False, WAYS[2:])):
                home.set("hotreload", watch=watch)
                home.replace(home.text())  # the watch may be first, and the POST shares its reload
                assert (await service.http.post("/admin/config/reload")).json()["outcome"] in ("applied", "unchanged")
                generation = (await service.status())["generation"]
                for way in ways:
                    for how in BAD:
                        text, place = _broken(home, how)
                        report, code = await service.ask(way, text)
                        assert code == {"http": 422, "cli": 1}.get(way, 0)
                        assert verdict(report)[:2] == ("rejected", generation), report
                        verdicts.setdefault(how, report["errors"])
                        assert report["errors"] == verdicts[how], way
                        _points_there(home, report, how, place)
                        assert (await service.pool())["limit"] == 4
            status = await service.status()
            assert status["last_reload"]["outcome"] == "rejected"
            assert (await service.running(), status["generation"]) == (4, generation)
            service.process.kill()

        for how, errors in verdicts.items():
            await _check_says_the_same(home, _broken(home, how)[0], errors)


def _points_there(home: Home, report: dict[str, Any], how: str, place: tuple[int, int]) -> None:
    (error,) = report["errors"]
    assert error["file"] == "ov.conf"
    assert (error["line"], error["column"]) == place, (how, error)
    if how == "missing inner brace":
        lines = home.text().splitlines()
        line = next(number for number, text in enumerate(lines, 1) if '"vlm"' in text)
        assert f"line {line}, column {lines[line - 1].index('{') + 1}" in error["hint"]
    if how in ("out of range", "wrong type"):
        assert error["path"] == "vlm.max_concurrent"


async def _check_says_the_same(home: Home, text: str, errors: list[dict[str, Any]]) -> None:
    """Without a running service: exit 1 and the same errors."""
    home.write(text)
    checked = await hotreload("check", "examples.summaries.service:service", "--config", str(home.conf), "--json")
    assert checked.returncode == 1
    assert json.loads(checked.stdout)["errors"] == errors
