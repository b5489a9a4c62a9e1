"""Several processes on one PostgreSQL: they know of each other, reload all or none, and drain one after the other.

HOTRELOAD_FLEET_RELOADS says how many reloads of the fleet are tried.
"""

from __future__ import annotations

import json
import random
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest

from tests.contracts.postgres import Server
from tests.counts import counted, patience_s
from tests.process.running import HOTRELOAD, started, wait_until
from tests.process.serving import Running, put, serving

pytestmark = pytest.mark.anyio
NAMES = ("a", "b", "c")
USUAL = 5
JOBS = 20
RELOADS = counted("FLEET_RELOADS", USUAL)


class Nodes:
    """Three services on one store, each with a file of its own that only a reload reads."""

    def __init__(self, folder: Path, address: str, ttl_s: float, stack: AsyncExitStack) -> None:
        self.folder = folder
        self.address = address
        self.running: dict[str, Running] = {}
        self._stack = stack
        self._own = {"store": address, "node_ttl_s": ttl_s, "watch": False}

    async def start(self, name: str) -> None:
        """Start a node, and wait until it runs."""
        self.running[name] = await self._stack.enter_async_context(serving(self.folder / name))

    async def add(self, count: int) -> None:
        """Queue jobs."""
        jobs = [{"payload": number} for number in range(count)]
        answer = await self.running["a"].http.post("/admin/jobs/batch", json={"queue": "work", "jobs": jobs})
        answer.raise_for_status()

    def jobs(self) -> dict[str, int]:
        """Return how many jobs are in each state."""
        with psycopg.connect(self.address) as connection:
            return dict(connection.execute("SELECT state, count(*) FROM hotreload_jobs GROUP BY state").fetchall())

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

    async def accepted(self, *names: str) -> None:
        """Wait until these nodes have accepted what all are asked to reload, and nothing is decided."""
        sql = """
        SELECT node FROM hotreload_answers JOIN hotreload_rounds AS asked ON id = round WHERE asked.phase = 'check'
        """

        def told() -> bool:
            with psycopg.connect(self.address) as connection:
                given = {node for (node,) in connection.execute(sql)}
            return given == {self.named(name) for name in names}

        await wait_until(told, 20, f"{names} have accepted")

    async def values(self) -> list[int]:
        """Return the value that each node runs with."""
        return [(await node.get("/admin/config"))["settings"]["value"] for node in self.running.values()]


@asynccontextmanager
async def fleet(server: Server, folder: Path, ttl_s: float = 30) -> AsyncIterator[Nodes]:
    """Run three nodes, and wait until each knows of all."""
    async with AsyncExitStack() as stack:
        nodes = Nodes(folder, server.schema(folder.name.replace("-", "_").lower()), ttl_s, stack)
        nodes.save(*NAMES, value=1)
        for name in NAMES:
            await nodes.start(name)
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
        shown = (await nodes.running["a"].verb("status", "--all")).stdout.decode()
        assert f"another configuration: {nodes.named('b')}" in " ".join(shown.split())
        nodes.save("c", value=8)
        assert (await nodes.running["c"].reload())["outcome"] == "applied"
        await nodes.see(lambda rows: all(row["differs"] for row in rows), "none is like another, so all are marked")
        nodes.save("a", "c", value=7)
        done = await nodes.running["c"].verb("reload", "--all", "--json")
        verdict = json.loads(done.stdout)
        assert (done.returncode, verdict["outcome"]) == (0, "applied")
        assert sorted(node["outcome"] for node in verdict["nodes"]) == ["applied", "applied", "unchanged"]
        await nodes.see(lambda rows: not any(row["differs"] for row in rows), "none differs")


async def test_a_node_that_is_killed_is_named_and_nothing_is_applied(server: Server, short_path: Path) -> None:
    async with fleet(server, short_path, ttl_s=5) as nodes:
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


ODD: dict[str, dict[str, Any]] = {
    "bad": {"value": -1},
    "refuses": {"first": {"value": 1, "trouble": "fail"}},
    "killed": {"first": {"value": 1, "trouble": "kill"}},
    "stopped": {},
}
"""What the file of the odd node says besides, by what is wrong with it; one that is stopped does not answer."""
WAYS = ("good", *ODD)


@pytest.mark.timeout(patience_s(240, RELOADS, USUAL))
async def test_reloads_of_the_fleet_are_all_or_none_each_time(
    server: Server, short_path: Path, figures: Callable[[str], None]
) -> None:
    """With jobs running: each way once, then as chance has it; one node is odd, and none applies where it is."""
    chance, told, added = random.Random(11), Counter[tuple[str, str]](), 0
    async with fleet(server, short_path, ttl_s=60) as nodes:  # one that is stopped is not taken over
        before = 1
        for number in range(RELOADS):
            way = WAYS[number] if number < len(WAYS) else chance.choice(WAYS)
            odd, value = chance.choice("bc"), number + 2
            await nodes.add(JOBS)
            added += JOBS
            nodes.save(*NAMES, value=value, hold_s=0.1)
            if way in ODD:
                nodes.save(odd, **{"value": value, "hold_s": 0.1, **ODD[way]})
            if way == "stopped":
                nodes.running[odd].process.send_signal(signal.SIGSTOP)
            done = await nodes.running["a"].verb("reload", "--all", "--json", "--timeout", "8")
            verdict = json.loads(done.stdout)
            told[way, verdict["outcome"]] += 1
            assert (done.returncode, verdict["outcome"]) == ((0, "applied") if way == "good" else (1, "refused")), done
            before = value if way == "good" else before
            if way == "stopped":
                nodes.running[odd].process.send_signal(signal.SIGCONT)
            if way == "killed":
                assert await nodes.running[odd].process.wait() == -signal.SIGKILL
                nodes.save(odd, value=before, hold_s=0.1)
                await nodes.start(odd)
            assert await nodes.values() == [before] * 3, way
        await wait_until(lambda: nodes.jobs() == {"done": added}, 60, "all jobs are done")
    shown = ", ".join(f"{way} {outcome} {count}" for (way, outcome), count in sorted(told.items()))
    figures(f"{RELOADS} reloads of three nodes, {added} jobs done: {shown}")


async def test_nodes_drain_one_by_one_and_lose_nothing(server: Server, short_path: Path) -> None:
    async with fleet(server, short_path) as nodes:
        nodes.save(*NAMES, value=2, hold_s=0.3)
        assert (await nodes.running["a"].verb("reload", "--all")).returncode == 0
        await nodes.add(300)
        await wait_until(lambda: nodes.jobs().get("running") == 6, 20, "all nodes run jobs")
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

            await wait_until(lambda: nodes.jobs() == {"done": 300}, 60, "all jobs are done")


@pytest.mark.deadline
async def test_a_drain_of_all_keeps_its_deadline_on_every_node_and_is_told_as_json(
    server: Server, short_path: Path
) -> None:
    async with fleet(server, short_path) as nodes:
        nodes.save(*NAMES, value=1, hold_s=600)
        assert (await nodes.running["a"].verb("reload", "--all")).returncode == 0
        await nodes.add(6)
        await wait_until(lambda: nodes.jobs() == {"running": 6}, 20, "all nodes run jobs")
        with anyio.fail_after(60):
            done = await nodes.running["a"].verb("drain", "--all", "--deadline", "2", "--json")
            for node in nodes.running.values():
                assert await node.process.wait() == 0
        told = json.loads(done.stdout)
        assert done.returncode == 0, done.stderr
        assert told["nodes"] == [{"node": nodes.named(name), "outcome": "drained"} for name in ("b", "c", "a")]
        assert (told["report"]["deadline_s"], len(told["report"]["requeued"])) == (2, 2)
        assert nodes.jobs() == {"ready": 6}
        with psycopg.connect(nodes.address) as connection:
            reports = connection.execute("SELECT body FROM hotreload_documents WHERE kind = 'drain'").fetchall()
        assert [json.loads(report)["deadline_s"] for (report,) in reports] == [2, 2, 2]


async def test_a_node_that_does_not_come_back_ends_the_roll(server: Server, short_path: Path) -> None:
    async with fleet(server, short_path) as nodes:
        done = await nodes.running["a"].verb("drain", "--all", "--one-by-one", "--timeout", "4")
        gone = nodes.named("b")
        assert done.returncode == 5
        assert f"{gone} did not come back within 4 s: no further node was drained" in done.stderr.decode()
        assert done.stdout.decode().splitlines() == [f"{gone}: draining", f"{gone}: drained"]
        assert await nodes.running.pop("b").process.wait() == 0
        assert await nodes.values() == [1, 1]


async def test_a_node_that_does_not_end_its_drain_is_named(server: Server, short_path: Path) -> None:
    async with fleet(server, short_path, ttl_s=5) as nodes:
        gone = nodes.named("b")
        command = (*HOTRELOAD, "drain", "--all", "--socket", str(nodes.running["a"].socket))
        nodes.running["b"].process.send_signal(signal.SIGSTOP)
        async with started(*command) as (process, spoken):
            await spoken.line(f"{gone}: draining")
            nodes.running["b"].process.kill()
            await spoken.line(f"{gone}: gone before its drain ended")
            with anyio.fail_after(30):
                assert await process.wait() == 1


async def test_a_row_says_what_a_node_is_and_is_removed_a_day_after_it_is_gone(
    server: Server, short_path: Path
) -> None:
    async with fleet(server, short_path, ttl_s=5) as nodes:
        (row,) = (each for each in nodes.rows if each["own"])
        with psycopg.connect(nodes.address) as connection:
            schema = connection.execute("SELECT max(version) FROM hotreload_schema").fetchone()
            for ago in ("2 days", "1 hour"):
                sql = "INSERT INTO hotreload_nodes (name, owner, seen_at) VALUES (%s, '', now() - %s::interval)"
                connection.execute(sql, (ago, ago))
        assert {key: row[key] for key in ("host", "pid", "hotreload", "schema", "phase", "generation")} == {
            "host": socket.gethostname(),
            "pid": nodes.running["a"].process.pid,
            "hotreload": version("openviking-hotreload"),
            "schema": (schema or (0,))[0],
            "phase": "running",
            "generation": 1,
        }
        assert row["pools"] == [{"name": "workers.work", "running": 0, "limit": 2}]
        assert row["last_reload"] is None
        names = {nodes.named(name) for name in NAMES}
        await nodes.see(lambda rows: {each["name"] for each in rows} == names | {"1 hour"}, "the old row is gone")


async def test_a_service_with_a_store_of_its_own_has_no_fleet(short_path: Path) -> None:
    async with serving(short_path) as service:
        for verb in (("status", "--all"), ("reload", "--all"), ("drain", "--all")):
            done = await service.verb(*verb)
            assert "this service shares its store with no other" in done.stderr.decode()
            assert done.returncode not in (0, 1)
        assert (await service.status())["nodes"] == []


async def test_a_node_whose_part_refuses_keeps_all_from_applying(server: Server, short_path: Path) -> None:
    async with fleet(server, short_path) as nodes:
        nodes.save("a", "c", value=2, first={"value": 1})
        nodes.save("b", value=2, first={"value": 1, "trouble": "fail"})
        done = await nodes.running["a"].verb("reload", "--all", "--json")
        verdict = json.loads(done.stdout)
        assert (done.returncode, verdict["outcome"]) == (1, "refused"), verdict
        assert f"refused by {nodes.named('b')}: nothing was applied anywhere" in done.stderr.decode()
        assert "cannot build 1" in done.stderr.decode()
        assert await nodes.values() == [1, 1, 1]


async def test_a_node_killed_while_it_checks_is_named_and_nothing_is_applied(server: Server, short_path: Path) -> None:
    async with fleet(server, short_path, ttl_s=5) as nodes:
        nodes.save("a", "c", value=2)
        nodes.save("b", value=2, first={"value": 1, "trouble": "kill"})
        done = await nodes.running["a"].verb("reload", "--all")
        assert done.returncode == 1
        assert f"refused by {nodes.named('b')}: nothing was applied anywhere" in done.stderr.decode()
        assert await nodes.running.pop("b").process.wait() == -signal.SIGKILL
        assert await nodes.values() == [1, 1]
        assert (await nodes.running["a"].verb("reload", "--all")).returncode == 0
        assert await nodes.values() == [2, 2]


@asynccontextmanager
async def asked(nodes: Nodes, *, stopped: str, timeout_s: float = 20) -> AsyncIterator[list[Any]]:
    """Ask the first node for a reload of all while one is stopped; within, the others have accepted.

    Yields the list that has the finished command afterwards.
    """
    done: list[Any] = []

    async def ask() -> None:
        done.append(await nodes.running["a"].verb("reload", "--all", "--json", "--timeout", str(timeout_s)))

    nodes.running[stopped].process.send_signal(signal.SIGSTOP)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await nodes.accepted(*(name for name in NAMES if name != stopped))
        yield done


async def test_a_node_applies_what_it_checked_though_its_file_changed_since(server: Server, short_path: Path) -> None:
    async with fleet(server, short_path, ttl_s=60) as nodes:
        nodes.save(*NAMES, value=2)
        async with asked(nodes, stopped="c") as done:
            nodes.save("a", value=3)
            nodes.save("b", value=-3)
            nodes.running["c"].process.send_signal(signal.SIGCONT)
        assert json.loads(done[0].stdout)["outcome"] == "applied"
        assert await nodes.values() == [2, 2, 2]


async def test_a_second_reload_of_all_is_refused_while_one_is_checked(server: Server, short_path: Path) -> None:
    async with fleet(server, short_path, ttl_s=60) as nodes:
        nodes.save(*NAMES, value=2)
        async with asked(nodes, stopped="c") as done:
            second = await nodes.running["b"].verb("reload", "--all")
            assert second.returncode == 4
            assert "another reload of all nodes is being checked" in second.stderr.decode()
            nodes.running["c"].process.send_signal(signal.SIGCONT)
        assert done[0].returncode == 0
        assert await nodes.values() == [2, 2, 2]


async def test_a_node_killed_after_it_accepted_is_named(server: Server, short_path: Path) -> None:
    async with fleet(server, short_path, ttl_s=15) as nodes:  # the one that is stopped is not taken over
        nodes.save(*NAMES, value=2)
        async with asked(nodes, stopped="c", timeout_s=60) as done:
            nodes.running["b"].process.kill()
            nodes.running["c"].process.send_signal(signal.SIGCONT)
        verdict, gone = json.loads(done[0].stdout), nodes.named("b")
        assert (done[0].returncode, verdict["outcome"]) == (1, "partial")
        assert {node["node"] for node in verdict["nodes"] if node["outcome"] == "gone"} == {gone}
        assert f"applied by 2 of 3 nodes, not by {gone}" in done[0].stderr.decode()
        del nodes.running["b"]
        assert await nodes.values() == [2, 2]


async def test_where_the_asked_node_dies_the_others_take_back_what_they_prepared(
    server: Server, short_path: Path
) -> None:
    async with fleet(server, short_path, ttl_s=60) as nodes:
        nodes.save(*NAMES, value=2)
        async with asked(nodes, stopped="c", timeout_s=8) as done:
            nodes.running["a"].process.kill()
        assert done[0].returncode == 3
        await nodes.running["b"].until("b gives up", lambda reloads: [each["outcome"] for each in reloads])
        assert nodes.running["b"].reloads[0]["outcome"] == "rolled_back"
        nodes.running["c"].process.send_signal(signal.SIGCONT)
        del nodes.running["a"]
        assert await nodes.values() == [1, 1]
        assert (await nodes.running["b"].reload())["outcome"] == "applied"
