"""Several processes on one PostgreSQL: they know of each other, reload all or none, and drain one after the other.

HOTRELOAD_FLEET_RELOADS says how many reloads of the fleet are tried.
"""

from __future__ import annotations

import json
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.contracts.postgres import Server
from tests.counts import counted, patience_s
from tests.process.running import HOTRELOAD, started, wait_until
from tests.process.serving import Running, put, serving

pytestmark = pytest.mark.anyio
NAMES = ("a", "b", "c")
USUAL = 4
RELOADS = counted("FLEET_RELOADS", USUAL)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.remove()


class Nodes:
    """Three services on one store, each with a file of its own that only a reload reads."""

    def __init__(self, folder: Path, address: str, ttl_s: float) -> None:
        self.folder = folder
        self.running: dict[str, Running] = {}
        self._own = {"store": address, "node_ttl_s": ttl_s, "watch": False}

    def save(self, *names: str, **conf: Any) -> None:
        """Write the files of these nodes."""
        for name in names:
            (self.folder / name).mkdir(exist_ok=True)
            put(self.folder / name / "ov.conf", hotreload=self._own, **conf)

    def named(self, name: str) -> str:
        """Return what the others call a node: it ends with its state folder."""
        (found,) = (each["name"] for each in self.rows if each["name"].endswith(f"/{name}/.hotreload"))
        return found

    async def see(self, wanted: Callable[[list[dict[str, Any]]], bool], what: str) -> None:
        """Wait until the nodes as the first sees them are so."""

        async def is_so() -> bool:
            self.rows = (await self.running["a"].status())["nodes"]
            return wanted(self.rows)

        await wait_until(is_so, 20, what)

    async def values(self) -> list[int]:
        """Return the value that each node runs with."""
        return [(await node.get("/admin/config"))["settings"]["value"] for node in self.running.values()]


@asynccontextmanager
async def fleet(server: Server, folder: Path, ttl_s: float = 5) -> AsyncIterator[Nodes]:
    """Run three nodes, and wait until each knows of all."""
    nodes = Nodes(folder, server.schema(folder.name.replace("-", "_").lower()), ttl_s)
    nodes.save(*NAMES, value=1)
    async with AsyncExitStack() as stack:
        for name in NAMES:
            nodes.running[name] = await stack.enter_async_context(serving(folder / name))
        await nodes.see(lambda rows: sum(row.get("fingerprint") is not None for row in rows) == 3, "three nodes")
        yield nodes


async def test_all_reload_or_none(server: Server, short_path: Path) -> None:
    async with fleet(server, short_path) as nodes:
        assert [(row["alive"], row["differs"], row["phase"]) for row in nodes.rows] == [(True, False, "running")] * 3
        nodes.save(*NAMES, value=2)
        done = await nodes.running["a"].verb("reload", "--all")
        assert done.returncode == 0, done.stderr.decode()
        assert "applied on 3 of 3 nodes" in done.stdout.decode()
        assert await nodes.values() == [2, 2, 2]
        nodes.save("a", "c", value=3)
        nodes.save("b", value=-1)
        done = await nodes.running["a"].verb("reload", "--all", "--json")
        verdict = json.loads(done.stdout)
        assert done.returncode == 1
        assert verdict["outcome"] == "refused"
        assert sorted(node["outcome"] for node in verdict["nodes"]) == ["rejected", "valid", "valid"]
        first, second = done.stderr.decode().splitlines()[:2]
        assert first.endswith(f"refused by {nodes.named('b')}: nothing was applied anywhere")
        assert "ov.conf:9:12: value: must be at least 0 (got -1)" in second, second
        assert await nodes.values() == [2, 2, 2]


async def test_a_node_whose_configuration_differs_is_marked(server: Server, short_path: Path) -> None:
    async with fleet(server, short_path) as nodes:
        nodes.save("b", value=7)
        assert (await nodes.running["b"].reload())["outcome"] == "applied"
        await nodes.see(lambda rows: [row["differs"] for row in rows].count(True) == 1, "one differs")
        shown = (await nodes.running["c"].verb("status", "--all")).stdout.decode()
        assert f"another configuration than most: {nodes.named('b')}" in " ".join(shown.split())
        nodes.save("a", "c", value=7)
        done = await nodes.running["c"].verb("reload", "--all", "--json")
        verdict = json.loads(done.stdout)
        assert (done.returncode, verdict["outcome"]) == (0, "applied")
        assert sorted(node["outcome"] for node in verdict["nodes"]) == ["applied", "applied", "unchanged"]
        await nodes.see(lambda rows: not any(row["differs"] for row in rows), "none differs")


async def test_a_node_that_is_killed_is_named_and_nothing_is_applied(server: Server, short_path: Path) -> None:
    async with fleet(server, short_path) as nodes:
        nodes.save(*NAMES, value=2)
        nodes.running["c"].process.kill()
        done = await nodes.running["a"].verb("reload", "--all")
        gone = nodes.named("c")
        assert done.returncode == 1
        assert f"refused by {gone}: nothing was applied anywhere" in done.stderr.decode()
        assert "it is gone: it does not keep its lease" in done.stderr.decode()
        del nodes.running["c"]
        assert await nodes.values() == [1, 1]
        await nodes.see(lambda rows: [row["alive"] for row in rows if row["name"] == gone] == [False], "one is gone")
        shown = (await nodes.running["a"].verb("status", "--all")).stdout.decode()
        assert "gone since" in shown
        assert (await nodes.running["a"].verb("reload", "--all")).returncode == 0
        assert await nodes.values() == [2, 2]


@pytest.mark.timeout(patience_s(180, RELOADS, USUAL))
async def test_reloads_of_the_fleet_are_all_or_none_each_time(
    server: Server, short_path: Path, figures: Callable[[str], None]
) -> None:
    """A third of them good, a third bad on one node, a third with a node that is stopped for a while."""
    chance, told = random.Random(11), {"applied": 0, "refused": 0}
    async with fleet(server, short_path, ttl_s=60) as nodes:  # one that is stopped is not taken over
        before = 1
        for value in range(2, RELOADS + 2):
            way, odd = chance.choice(("good", "bad", "stopped")), chance.choice("bc")
            nodes.save(*NAMES, value=value)
            if way == "bad":
                nodes.save(odd, value=-value)
            if way == "stopped":
                nodes.running[odd].process.send_signal(signal.SIGSTOP)
            done = await nodes.running["a"].verb("reload", "--all", "--json", "--timeout", "5")
            nodes.running[odd].process.send_signal(signal.SIGCONT)
            verdict = json.loads(done.stdout)
            told[verdict["outcome"]] += 1
            assert (verdict["outcome"] == "applied") == (way == "good"), verdict
            before = value if way == "good" else before
            assert await nodes.values() == [before] * 3
    figures(f"{RELOADS} reloads of three nodes: {told}")
    assert sum(told.values()) == RELOADS


async def test_nodes_drain_one_by_one_and_lose_nothing(server: Server, short_path: Path) -> None:
    async with fleet(server, short_path) as nodes:
        nodes.save(*NAMES, value=2, hold_s=0.05)
        assert (await nodes.running["a"].verb("reload", "--all")).returncode == 0
        jobs = [{"payload": number} for number in range(200)]
        await nodes.running["a"].http.post("/admin/jobs", json={"queue": "work", "jobs": jobs})
        command = (*HOTRELOAD, "drain", "--all", "--one-by-one", "--socket", str(nodes.running["a"].socket))
        async with started(*command) as (process, spoken), AsyncExitStack() as stack:
            for name in ("b", "c"):
                with anyio.fail_after(30):
                    assert await nodes.running[name].process.wait() == 0
                await spoken.line(f"{nodes.named(name)}: drained", 20)
                assert nodes.running["c" if name == "b" else "a"].process.returncode is None
                nodes.running[name] = await stack.enter_async_context(serving(nodes.folder / name))
                await spoken.line(f"{nodes.named(name)}: back", 20)
            with anyio.fail_after(30):
                assert await process.wait() == 0
            assert await nodes.running["a"].process.wait() == 0

            async def is_idle() -> bool:
                queues = (await nodes.running["b"].status())["queues"]
                return all(queue[state] == 0 for queue in queues for state in ("ready", "scheduled", "running", "dead"))

            await wait_until(is_idle, 60, "all jobs are done")


async def test_a_service_with_a_store_of_its_own_has_no_fleet(short_path: Path) -> None:
    async with serving(short_path) as service:
        for verb in (("status", "--all"), ("reload", "--all"), ("drain", "--all")):
            done = await service.verb(*verb)
            assert "this service shares its store with no other" in done.stderr.decode()
            assert done.returncode not in (0, 1)
        assert (await service.status())["nodes"] == []
