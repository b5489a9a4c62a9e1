"""OpenViking servers on one PostgreSQL: they know of each other and reload all or none; their queues stay their own."""

import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from ov_home import Home
from ov_process import Server, running, wait_until

from tests.contracts.postgres import Server as Postgres

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]
NAMES = ("a", "b")


class Servers:
    """Two servers, each with its own workspace and file, and one database."""

    def __init__(self, folder: Path, model: Any, warm: Path, address: str) -> None:
        self.running: dict[str, Server] = {}
        self._own = {"store": address, "node_ttl_s": 60, "watch": False}
        self.homes = {name: Home(folder / name, model.url, warm) for name in NAMES}
        for home in self.homes.values():
            home.folder.mkdir()

    def save(self, name: str, limit: int) -> None:
        """Write the file of one."""
        self.homes[name].write({"hotreload": self._own, "vlm": {"max_concurrent": limit}})

    async def nodes(self) -> list[dict[str, Any]]:
        """Return the nodes as the first server sees them."""
        return (await self.running["a"].status())["nodes"]

    async def limits(self) -> list[int]:
        """Return the limit of model calls that each has."""
        of_all = [(await server.status())["pools"] for server in self.running.values()]
        return [next(pool["limit"] for pool in pools if pool["name"] == "workers.semantic") for pools in of_all]

    async def pause(self, verb: str) -> None:
        """Pause the semantic queue of the first, or let it go on."""
        (await self.running["a"].admin("POST", f"jobs/{verb}", {"queue": "semantic"})).raise_for_status()

    async def paused(self) -> list[bool]:
        """Say of each whether its semantic queue is paused."""
        of_all = [(await server.status())["queues"] for server in self.running.values()]
        return [next(queue["paused"] for queue in queues if queue["name"] == "Semantic") for queues in of_all]

    async def reload(self) -> dict[str, Any]:
        """Ask the first for a reload of all."""
        return (await self.running["a"].admin("POST", "fleet/reload", {"timeout_s": 20})).json()


@pytest.fixture
async def servers(tmp_path: Path, model: Any, warm: Path, own_server: Postgres) -> AsyncIterator[Servers]:
    made = Servers(tmp_path, model, warm, own_server.schema(tmp_path.name))
    async with AsyncExitStack() as stack:
        for name, home in made.homes.items():
            made.save(name, 4)
            made.running[name] = await stack.enter_async_context(running(home, home.ours, measured=True))
            if name == "a":
                await made.pause("pause")
        yield made


async def test_servers_on_one_database_reload_all_or_none_and_do_without_it(
    servers: Servers, own_server: Postgres
) -> None:
    async def both() -> bool:
        return [node.get("phase") for node in await servers.nodes()] == ["running", "running"]

    async def degraded(server: Server) -> bool:
        return (await server.status())["degraded"] is not None

    first, second = servers.running.values()
    await wait_until(both, 30, "two nodes")
    assert await servers.paused() == [True, False]  # the second one started after the pause
    await servers.pause("resume")
    for name in NAMES:
        servers.save(name, 9)
    verdict = await servers.reload()
    assert (verdict["outcome"], [row["outcome"] for row in verdict["nodes"]]) == ("applied", ["applied", "applied"])
    assert await servers.limits() == [9, 9]
    servers.save("a", 5)
    servers.save("b", 0)
    verdict = await servers.reload()
    assert (verdict["outcome"], sorted(row["outcome"] for row in verdict["nodes"])) == (
        "refused",
        ["rejected", "valid"],
    )
    assert await servers.limits() == [9, 9]
    servers.save("b", 9)
    own_server.stop("immediate")
    try:
        for server in (first, second):
            await wait_until(lambda it=server: degraded(it), 60, "a status that says that the database is gone")
            await server.finished(await server.add_documents(2), 60)
        second.signal(signal.SIGTERM)
        assert await second.ended(30) == 0  # its messages are in its own store
    finally:
        own_server.start()

    async def whole() -> bool:
        return not await degraded(first)

    await wait_until(whole, 60, "a server that has its database again")
