"""A search over a real store: nothing in hand is queued again, nothing finished meanwhile, and damage ends nothing."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import TypeAdapter

from hotreload.queue.job import Done, Failed, JobRow, NewJob
from hotreload.queue.sqlite import SqliteQueue
from hotreload.recovery.coordinator import RecoveryCoordinator
from hotreload.recovery.findings import FOLDERS, LISTED, REST, Findings, Wanted
from hotreload.recovery.scan import Missing, PassedOver, Present, QueueSearch, Scan, Seen

pytestmark = pytest.mark.anyio
QUEUE = "semantic"


@pytest.fixture
def store(tmp_path: Path) -> Iterable[SqliteQueue]:
    """A store of its own."""
    opened = SqliteQueue.open(tmp_path / "queue.db")
    yield opened
    opened.close()


class Tree:
    """What a scan tells; `between` is called after each entry."""

    def __init__(self, *entries: Seen | Exception) -> None:
        self.entries = list(entries)
        self.between: Any = None
        self.closed = False

    async def scan(self, _settings: Any) -> AsyncIterator[Seen]:
        """Tell the entries, raise what is an error."""
        try:
            for entry in self.entries:
                if isinstance(entry, Exception):
                    raise entry
                yield entry
                if self.between is not None:
                    await self.between()
        finally:
            self.closed = True


def missing(*names: str, reason: str = "empty") -> list[Missing[Any]]:
    """Return finds."""
    return [Missing(name, reason, {"name": name}) for name in names]


async def searched(store: SqliteQueue, *trees: Tree, **wanted: Any) -> Findings:
    """Run one search to its end."""
    findings = Findings("it", Wanted(**wanted))
    search = QueueSearch([Scan(QUEUE, tree.scan, TypeAdapter(Any)) for tree in trees], store, lambda: None)
    await search.search(findings.wanted, findings)
    findings.end(findings.error)
    return findings


async def claimed(store: SqliteQueue, count: int = 100) -> list[JobRow]:
    """Take jobs as a worker does."""
    return await store.claim(QUEUE, count)


def names(rows: Iterable[JobRow]) -> set[str]:
    """Return what jobs are about."""
    return {row.payload["name"] for row in rows}


async def test_what_is_missing_is_queued_once(store: SqliteQueue) -> None:
    tree = Tree(*missing("a/1", "a/2"), Present(7), *missing("b/3", reason="stale"))
    first = await searched(store, tree)
    assert (first.scanned, first.queued, first.already_queued) == (10, 3, 0)
    assert (first.reasons, first.folders) == ({"empty": 2, "stale": 1}, {"a": 2, "b": 1})
    again = await searched(store, tree)
    assert (again.missing, again.queued, again.already_queued) == ([], 0, 3)
    rows = await claimed(store)
    assert names(rows) == {"a/1", "a/2", "b/3"}
    assert (await searched(store, tree)).already_queued == 3  # running now
    for row in rows:
        await store.settle(row, Done())
    await anyio.sleep(0.002)  # a job done in the millisecond in which a search begins counts as done meanwhile
    assert (await searched(store, tree)).queued == 3  # finished before this search: missing again


async def test_what_is_finished_while_the_scan_runs_is_not_queued_again(store: SqliteQueue) -> None:
    await store.enqueue([NewJob(QUEUE, {"name": "a"}, dedupe_key="a")])
    tree = Tree(*missing("a", "b"))

    async def finish() -> None:
        for row in await claimed(store):
            await store.settle(row, Done())

    tree.between = finish
    found = await searched(store, tree)
    assert ([entry for entry, _ in found.missing], found.queued, found.already_queued) == (["b"], 1, 1)


async def test_a_dry_run_queues_nothing_and_names_the_same(store: SqliteQueue) -> None:
    await store.enqueue([NewJob(QUEUE, {"name": "b"}, dedupe_key="b")])
    tree = Tree(*missing("a", "b", "c"))
    looked = await searched(store, tree, repair=False)
    assert (looked.missing, looked.queued, looked.already_queued) == ([("a", "empty"), ("c", "empty")], 0, 1)
    assert (await searched(store, tree)).missing == looked.missing


async def test_a_uri_limits_it_to_a_folder_or_an_entry(store: SqliteQueue) -> None:
    tree = Tree(*missing("a/b/1", "a/bc/2", "a/b"))
    for uri in ("a/b/", "a/b"):
        found = await searched(store, tree, uri=uri, repair=False)
        assert [entry for entry, _ in found.missing] == ["a/b/1", "a/b"]
        assert found.scanned == 3


async def test_a_search_of_an_account_that_nobody_knows_is_refused(store: SqliteQueue) -> None:
    async with coordinator(store, Tree(*missing("a"))) as searches:
        found = await searches.submit(Wanted(account="acme")).wait()
        assert (found.unknown, found.scanned, found.queued) == (True, 0, 0)
        assert found.error == "this service has no accounts, so none called acme"


async def test_dead_jobs_are_told_left_alone_and_on_demand_tried_again(store: SqliteQueue) -> None:
    tree = Tree(*missing("a", "b"))
    first = await searched(store, tree)
    search = QueueSearch([], store, lambda: None)
    for row, verdict in zip(await claimed(store), (Failed("boom", for_good=True), Done()), strict=True):
        await store.settle(row, verdict)
    made = await search.making(first)
    assert (made.left, made.done, made.failed) == (0, 1, {"a": "boom"})
    left = await searched(store, Tree(*missing("a")))
    assert (left.missing, left.queued, left.dead) == ([("a", "empty")], 0, 1)
    again = await searched(store, Tree(*missing("a")), retry=True)
    assert (again.queued, again.dead) == (1, 0)
    assert (await search.making(again)).left == 1
    await store.settle((await claimed(store))[0], Done())
    assert (await search.making(again)).to_dict() == {"left": 0, "done": 1, "failed": []}


async def test_damage_is_passed_over(store: SqliteQueue) -> None:
    tree = Tree(
        PassedOver("x", "Permission denied"),
        *missing("half\ud800"),
        Missing("no json", "empty", object()),
        *missing("good"),
    )
    found = await searched(store, tree)
    assert (found.queued, found.scanned, found.passed_over_count) == (1, 4, 3)
    assert found.to_dict()["passed_over"][0] == {"id": "x", "reason": "Permission denied"}
    assert "half\\ud800" in found.passed_over


async def test_names_of_any_bytes_are_found_again(store: SqliteQueue) -> None:
    name = os.fsdecode(b"folder/bad\xff")
    first = await searched(store, Tree(*missing(name)))
    again = await searched(store, Tree(*missing(name)))
    assert (first.missing, first.queued) == ([("folder/bad\\udcff", "empty")], 1)
    assert (again.missing, again.queued, again.already_queued) == ([], 0, 1)


async def test_a_scan_that_fails_is_told_and_keeps_no_other_from_its_end(store: SqliteQueue) -> None:
    broken = Tree(*missing("a"), OSError("the disk is gone"))
    found = await searched(store, broken, Tree(*missing("b")))
    assert "the disk is gone" in str(found.error)
    assert found.queued == 1
    assert broken.closed


async def test_a_report_stays_small(store: SqliteQueue) -> None:
    count = LISTED + 2 * FOLDERS
    found = await searched(store, Tree(*missing(*(f"{n}/entry" for n in range(count)))), repair=False)
    document = found.to_dict()
    assert (document["missing_count"], len(document["missing"])) == (count, LISTED)
    assert len(document["folders"]) == FOLDERS + 1
    assert document["folders"][REST] == count - FOLDERS


async def test_ranges_of_jobs_stay_few(store: SqliteQueue) -> None:
    findings = Findings("it", Wanted())
    findings.made_by(["3", "1", "2"])
    findings.made_by(["4", "9"])
    assert findings.jobs == [(1, 4), (9, 9)]
    findings.made_by(str(2 * number) for number in range(10, 30_000))
    assert len(findings.jobs) == 10_000
    assert findings.jobs[-1][1] == 59_998


@asynccontextmanager
async def coordinator(store: SqliteQueue, *trees: Tree) -> AsyncIterator[RecoveryCoordinator]:
    scans = [Scan(QUEUE, tree.scan, TypeAdapter(Any)) for tree in trees]
    made = RecoveryCoordinator(QueueSearch(scans, store, lambda: None))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.run)
        yield made
        tasks.cancel_scope.cancel()


async def test_searches_run_one_at_a_time_in_their_order(store: SqliteQueue) -> None:
    async with coordinator(store, Tree(*missing("a"))) as searches:
        first, second = searches.submit(Wanted(repair=False)), searches.submit(Wanted())
        assert (await second.wait()).queued == 1
        assert first.findings.ended
        assert searches.find(first.findings.id) is first
        assert [report["dry_run"] for report in searches.reports] == [False, True]
        assert not searches.busy


async def test_a_drain_ends_the_running_search_and_those_that_wait(store: SqliteQueue) -> None:
    tree = Tree(*missing("a", "b"))
    begun = anyio.Event()

    async def stay() -> None:
        begun.set()
        await anyio.sleep_forever()

    tree.between = stay
    async with coordinator(store, tree) as searches:
        running, waiting = searches.submit(Wanted()), searches.submit(Wanted())
        await begun.wait()
        assert searches.line == "recovery: 1 scanned, 0 missing, 0 queued, 0 already queued"
        searches.stop("the service is draining")
        with anyio.fail_after(5):
            assert (await running.wait()).error == (await waiting.wait()).error == "the service is draining"
            assert (await searches.submit(Wanted()).wait()).error == "the service is draining"
        assert tree.closed
        assert searches.line is None


async def test_a_search_in_the_background_keeps_its_pace(store: SqliteQueue) -> None:
    began = anyio.current_time()
    await searched(store, Tree(*(Present() for _ in range(1_500))), per_s=5_000)
    assert anyio.current_time() - began >= 0.15
