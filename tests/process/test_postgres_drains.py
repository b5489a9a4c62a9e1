"""Drains of a service whose PostgreSQL goes at a random moment: stopped, hung, or not reached any more.

HOTRELOAD_POSTGRES_DRAINS says how many of each; `make campaign-postgres` has the large count.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest

from tests.contracts.postgres import Server
from tests.contracts.proxy import FailingProxy
from tests.counts import counted

from .running import hotreload, wait_until
from .test_postgres import sample, states

pytestmark = pytest.mark.anyio
DEADLINE_S = 2.0
OVERSHOOT_S = 0.5
"""What a busy machine may add; what it added is in the figures."""


@pytest.fixture
def proxy(server: Server) -> Iterator[FailingProxy]:
    made = FailingProxy(server.folder)
    yield made
    made.close()


@pytest.mark.deadline
@pytest.mark.timeout(0)
async def test_a_drain_ends_by_its_deadline_whatever_becomes_of_the_database(
    server: Server, proxy: FailingProxy, short_path: Path, figures: Callable[[str], None]
) -> None:
    count = counted("POSTGRES_DRAINS", 1)
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)
    overshoots_s: list[float] = []
    late: list[str] = []
    ways = {
        "stopped": (lambda: server.stop("immediate"), server.start),
        "hung": (server.hang, server.wake),
        "unreachable": (proxy.swallow, proxy.heal),
    }
    address = server.schema("drains")
    for number, (how, (fail, mend)) in enumerate([way for way in ways.items() for _ in range(count)]):
        async with sample(short_path, proxy.dsn(address), 600) as (process, spoken):
            if number == 0:
                for job in range(2):
                    added = await hotreload("jobs", "add", "work", str(job), "--socket", str(short_path / "s"))
                    assert added.returncode == 0, added.stderr
            await spoken.line("listening")  # what ran before is put back; a socket may be left of the process before
            await wait_until(lambda: states(address) == {"running": 2}, 20, f"two jobs run, seed {seed}")
            fails_first = chance.random() < 0.5
            if fails_first:
                await anyio.to_thread.run_sync(fail)
            began = time.monotonic()
            process.terminate()
            if not fails_first:
                await anyio.sleep(chance.uniform(0, 0.5 * DEADLINE_S))
                await anyio.to_thread.run_sync(fail)
            code = await process.wait()
            overshoots_s.append(time.monotonic() - began - DEADLINE_S)
            await spoken.line("comes back by expiry", 5)
        said = f"{how}, {'before' if fails_first else 'in'} the drain, seed {seed}: {overshoots_s[-1]:.3f} s, {code}"
        await anyio.to_thread.run_sync(mend)
        assert code != 0, said
        late += [said] if overshoots_s[-1] > OVERSHOOT_S else []
    async with sample(short_path, address, 0):
        await wait_until(lambda: states(address) == {"done": 2}, 20, "the jobs came back")
    late_ms = sorted(1_000 * over_s for over_s in overshoots_s)
    figures(
        f"{len(late_ms)} drains, {len(ways)} ways: the process is gone {statistics.median(late_ms):.0f} ms after its "
        f"deadline at the median, {late_ms[int(len(late_ms) * 0.9)]:.0f} ms at p90, {late_ms[-1]:.0f} ms at most"
    )
    assert not late
