"""Whatever is taken from 500 summaries (HOTRELOAD_SUMMARIES says another number) is made again, and nothing else."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.counts import counted
from tests.process.running import HOTRELOAD, ROOT, Endpoint, Home, Summaries, endpoint, started, summaries, wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]
WHOLE = counted("SUMMARIES", 500, least=200)
ENTRIES = counted("ENTRIES", 1_000_000)
FILES = counted("FILES", 10_000)
OTHERS = counted("OTHERS", 100)
CALLS = 2
"""What one of these documents takes: one section, one to merge."""
LATER_NS = 10_000_000_000
PLACEHOLDER = "# it\n\n[Directory overview is not generated]\n"


@dataclass
class Tree:
    """The documents and summaries of one home, made without a model."""

    home: Home
    made: int = 0

    def add(self, count: int, *, summarised: bool) -> list[str]:
        """Write so many new documents."""
        ids = [f"f{number % 20:02}/d{number:05}.md" for number in range(self.made, self.made + count)]
        self.made += count
        for name in ids:
            source = self.source(name)
            source.parent.mkdir(exist_ok=True)
            source.write_text(f"# {name}\n\nThis says {name} and nothing more.\n")
            if summarised:
                self.summary(name).parent.mkdir(parents=True)
                for level in (".abstract.md", ".overview.md"):
                    self.summary(name, level).write_text(f"The summary of {name}, made before.\n")
        return ids

    def source(self, name: str) -> Path:
        """Return a document's file."""
        return self.home.folder / "documents" / name

    def summary(self, name: str, level: str = ".abstract.md") -> Path:
        """Return a summary's file."""
        return self.home.folder / "workspace" / name / level

    def touch(self, name: str) -> None:
        """Make a source newer than its summary."""
        later = self.summary(name).stat().st_mtime_ns + LATER_NS
        os.utime(self.source(name), ns=(later, later))

    def damage(self, chance: random.Random, whole: list[str]) -> dict[str, str]:
        """Damage 100 summaries, add 50 documents, touch 25; return what must be made again, and why."""
        ways: list[tuple[str, int, Callable[[str], object]]] = [
            ("no abstract", 20, lambda name: self.summary(name).unlink()),
            ("no overview", 20, lambda name: self.summary(name, ".overview.md").unlink()),
            ("empty", 10, lambda name: self.summary(name).write_text("")),
            ("empty", 10, lambda name: self.summary(name, ".overview.md").write_text(" \n")),
            ("placeholder", 20, lambda name: self.summary(name, ".overview.md").write_text(PLACEHOLDER)),
            ("damaged", 20, lambda name: self.summary(name).write_bytes(b"\xff\xfe\0" + chance.randbytes(500))),
            ("stale", 25, self.touch),
        ]
        hit = chance.sample(whole, sum(count for _, count, _ in ways))
        expected: dict[str, str] = {}
        for reason, count, way in ways:
            for _ in range(count):
                name = hit.pop()
                way(name)
                expected[name] = reason
        return expected | dict.fromkeys(self.add(50, summarised=False), "no abstract")


async def calls(model: Endpoint) -> int:
    """Return the calls made so far."""
    return (await model.gauges())["calls"]


@dataclass
class Summarised:
    """A home whose documents were summarised by a service that ran until nothing was left to do."""

    tree: Tree
    whole: list[str]

    def copied(self, folder: Path, model: Endpoint, **vlm: Any) -> tuple[Tree, list[str]]:
        """Return a copy that asks this model, with times and store as they were."""
        shutil.copytree(self.tree.home.folder, folder, dirs_exist_ok=True)
        home = Home(folder, {**self.tree.home.settings})
        home.write(home.set("vlm", api_base=f"{model.url}/v1", **vlm))
        return Tree(home, self.tree.made), list(self.whole)


@pytest.fixture(scope="module")
def summarised() -> Iterator[Summarised]:
    """Have a real service summarise documents; it extracts, so that no model is called."""
    folder = Path(tempfile.mkdtemp(prefix="hr-", dir="/tmp"))
    tree = Tree(Home.make(folder, [], api_base=None, max_concurrent=32))
    whole = tree.add(WHOLE, summarised=False)
    arguments = ("--config", str(tree.home.conf), "--socket", str(tree.home.socket), "--until-idle")
    subprocess.run(
        [*HOTRELOAD, "run", "examples.summaries.service:service", *arguments], cwd=ROOT, check=True, capture_output=True
    )
    assert tree.home.unsummarised() == []
    yield Summarised(tree, whole)
    shutil.rmtree(folder)


async def reindex(service: Summaries, *options: str) -> dict[str, Any]:
    done = await service.verb("reindex", "--json", *options)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


async def searched(service: Summaries) -> dict[str, Any]:
    """Return the figures of the search after the start, once it has ended."""

    async def ended() -> Any:
        found = (await service.status())["recovery"]
        return found[-1] if found and found[-1]["ended"] else None

    return await wait_until(ended, 30, "the search after the start has ended")


async def idle(service: Summaries) -> bool:
    return not any(queue["ready"] or queue["running"] for queue in (await service.status())["queues"])


async def test_a_start_makes_again_exactly_what_is_missing(
    summarised: Summarised, short_path: Path, figures: Callable[[str], None]
) -> None:
    """The rows of the jobs that made them are still in the store."""
    async with endpoint() as model:
        tree, whole = summarised.copied(short_path, model, max_concurrent=32)
        expected = tree.damage(random.Random(7), whole)
        left = {name: tree.summary(name).stat().st_mtime_ns for name in whole if name not in expected}
        async with summaries(tree.home) as service:
            found = await searched(service)
            assert found["reasons"] == dict(Counter(expected.values()))
            assert (found["scanned"], found["missing"], found["queued"]) == (WHOLE + 50, 175, 175)
            await wait_until(lambda: idle(service), 60, "all made")
            metrics = (await service.http.get("/metrics")).text
            assert "hotreload_recovery_queued 175.0" in metrics
            assert 'hotreload_recovery_missing{reason="stale"} 25.0' in metrics
            assert (await reindex(service))["missing"] == []
            assert await calls(model) == 175 * CALLS
            figures(f"{WHOLE} summaries made by a run; 175 damaged, added or touched; made again after a start: 175")
        assert left == {name: tree.summary(name).stat().st_mtime_ns for name in left}


async def test_reindex_beside_running_jobs_queues_exactly_what_is_missing(
    summarised: Summarised, short_path: Path, figures: Callable[[str], None]
) -> None:
    async with endpoint() as model:
        tree, whole = summarised.copied(short_path, model, max_concurrent=OTHERS)
        async with summaries(tree.home) as service:
            assert (await searched(service))["missing"] == 0
            await model.behave(hang=True)
            tree.add(OTHERS, summarised=False)
            assert (await reindex(service))["queued"] == OTHERS
            await wait_until(lambda: _running(model, OTHERS), 60, "the other jobs run")
            expected = tree.damage(random.Random(8), whole)
            looked = await reindex(service, "--dry-run")
            assert {each["id"]: each["reason"] for each in looked["missing"]} == expected
            assert (looked["scanned"], looked["queued"], looked["already_queued"]) == (WHOLE + OTHERS + 50, 0, OTHERS)
            some = {name for name in expected if name.startswith("f03/")}
            part = await reindex(service, "f03")
            assert ({each["id"] for each in part["missing"]}, part["queued"]) == (some, len(some))
            rest = await reindex(service)
            assert (rest["queued"], rest["already_queued"]) == (175 - len(some), OTHERS + len(some))
            await model.behave(hang=False)
            await wait_until(lambda: idle(service), 90, "all made")
            again = await reindex(service, "--wait")
            assert (again["missing"], again["queued"], again["already_queued"]) == ([], 0, 0)
            assert await calls(model) == (OTHERS + 175) * CALLS
            figures(f"of {WHOLE} summaries 175 made again beside {OTHERS} running jobs; queued by a second search: 0")


async def _running(model: Endpoint, count: int) -> bool:
    return (await model.gauges())["running"] == count


async def test_damage_of_the_tree_is_reported_and_passed_over(short_path: Path) -> None:
    async with endpoint() as model:
        home = Home.make(short_path, [], api_base=model.url)
        tree = Tree(home)
        folder = home.folder / "documents"
        whole = tree.add(40, summarised=True)
        (folder / "loop").symlink_to(folder)
        (folder / "round.md").symlink_to(folder / "round.md")
        (folder / "nowhere.md").symlink_to(folder / "gone.md")
        (folder / os.fsdecode(b"\xff.md")).write_text("its name is no text")
        tree.summary(whole[0]).unlink()
        tree.summary(whole[0]).mkdir()
        tree.source(whole[1]).unlink()
        async with summaries(home) as service:
            found = await searched(service)
            assert (found["error"], found["reasons"], found["queued"]) == (None, {"orphaned": 1}, 1)
            await wait_until(lambda: idle(service), 10, "the orphan is removed")
            looked = await reindex(service, "--dry-run")
            assert looked["missing"] == []
            assert {Path(each["id"]).name for each in looked["passed_over"]} == {
                "round.md", "nowhere.md", "\\udcff.md", Path(whole[0]).name,
            }  # fmt: skip
        assert not tree.summary(whole[1]).parent.exists()
        assert await calls(model) == 0


async def test_recovery_may_report_only_or_be_off_and_changes_live(short_path: Path) -> None:
    async with endpoint() as model:
        home = Home.make(short_path, [], api_base=model.url)
        Tree(home).add(5, summarised=False)
        home.write(home.set("hotreload", recovery="report"))
        async with summaries(home) as service:
            found = await searched(service)
            assert (found["missing"], found["queued"], found["dry_run"]) == (5, 0, True)
            report, _ = await service.ask("http", home.set("hotreload", recovery="off"))
            assert (report["outcome"], report["pending_restart"]) == ("applied", [])
            assert len((await service.status())["recovery"]) == 1
            await service.ask("http", home.set("hotreload", recovery="repair"))
            await wait_until(lambda: _made(model), 20, "all made")


async def _made(model: Endpoint) -> bool:
    return await calls(model) == 5 * CALLS


@asynccontextmanager
async def talking(socket: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Talk to a service over its control socket."""
    transport = httpx.AsyncHTTPTransport(uds=str(socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://hotreload", timeout=30) as http:
        yield http


async def followed(http: httpx.AsyncClient) -> tuple[dict[str, Any], list[int]]:
    """Search, and look at the status meanwhile; return the figures, and the progress that was shown."""
    await http.post("/admin/reindex", json={}, headers={"Prefer": "wait=0"})
    shown: list[int] = []

    async def ended() -> Any:
        newest = (await http.get("/admin/status")).json()["recovery"][0]
        shown.append(newest["scanned"])
        return newest if newest["ended"] else None

    return await wait_until(ended, 280, "the search has ended", every_s=0.05), shown


def peak_mb(pid: int) -> float:
    """Return the most memory a process has held since it began."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) / 1024


@asynccontextmanager
async def service_of_entries(home: Path, count: int) -> AsyncIterator[tuple[int, httpx.AsyncClient]]:
    """Run a service whose scan tells so many entries; yields its process and a client."""
    (home / "ov.conf").write_text(json.dumps({"entries": count, "hotreload": {"recovery": "off"}}))
    socket = home / "run/control.sock"
    command = ("run", "tests.process.missing_scan:service", "--config", str(home / "ov.conf"), "--socket", str(socket))
    async with started(*HOTRELOAD, *command, measured=False) as (process, spoken), talking(socket) as http:
        await spoken.line("listening on")
        yield process.pid, http


@asynccontextmanager
async def service_of_files(home: Path, count: int) -> AsyncIterator[tuple[int, httpx.AsyncClient]]:
    """Run the example over so many documents without a summary, and a model that never answers."""
    async with endpoint() as model:
        made = Home.make(home, [], api_base=model.url, max_concurrent=1)
        made.write(made.set("hotreload", recovery="off"))
        await model.behave(hang=True)
        for number in range(count):
            folder = home / "documents" / f"f{number // 1000}"
            if number % 1000 == 0:
                folder.mkdir()
            (folder / f"d{number}.md").touch()
        async with summaries(made) as service:
            yield service.process.pid, service.http


@pytest.mark.parametrize("kind", ["told", "files"])
async def test_a_search_of_many_entries_stays_small_and_shows_progress(
    short_path: Path, kind: str, figures: Callable[[str], None]
) -> None:
    """A million that a scan only tells, and files that the example finds without a summary, all to be queued."""
    count = ENTRIES if kind == "told" else FILES
    missing = ENTRIES // 1_000 if kind == "told" else count
    serving = service_of_entries if kind == "told" else service_of_files
    async with serving(short_path, count) as (pid, http):
        began = time.monotonic()
        found, shown = await followed(http)
        took_s = time.monotonic() - began
        peak = peak_mb(pid)
    assert (found["scanned"], found["missing"], found["queued"], found["error"]) == (count, missing, missing, None)
    assert peak < 200
    assert shown == sorted(shown)
    assert len({scanned for scanned in shown if 0 < scanned < count}) > 1, shown
    figures(f"{count} entries in {took_s:.1f} s, at most {peak:.0f} MB, progress seen {len(set(shown))} times")
