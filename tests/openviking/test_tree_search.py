"""A search through OpenViking's tree: locked folders, tasks nobody works on, what does not exist, and its pace."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from openviking.server.dependencies import get_service_or_none, set_service
from openviking.service.task_tracker import set_task_tracker
from openviking.storage.expr import Eq
from openviking_cli.exceptions import NotFoundError, OpenVikingError

from hotreload.errors import SearchRefused
from hotreload.openviking.messages import PendingWork
from hotreload.openviking.missing import TreeSearch
from hotreload.recovery.findings import Findings, Wanted

pytestmark = pytest.mark.anyio
STARTED_S = 1_000.0
WHOLE = b"An abstract of it."


class Service:
    """Stands where OpenViking has its service: files of the account `acme`, and a reindex that may be refused."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.viking_fs = self
        self._async_agfs = self
        self._vikingdb_manager = self
        self.without_vectors: set[str] = set()
        self.without_summaries: set[str] = set()
        self.files = {f"viking://{name}": body for name, body in files.items()}
        self.refusals: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self.reads = 0

    async def ls(self, _path: str) -> list[dict[str, Any]]:
        """List the accounts."""
        return [{"name": "acme", "isDir": True}, {"name": "_system", "isDir": True}]

    async def filter(self, *, filter: Any, **_options: Any) -> list[dict[str, Any]]:  # noqa: A002 - its name there
        """Return the vectors of a file or folder."""
        uris = [filter.value] if isinstance(filter, Eq) else filter.conds[1].values
        there = [uri for uri in uris if uri not in self.without_vectors]
        return [
            {"uri": uri, "level": level, "abstract": "" if uri in self.without_summaries else "A summary."}
            for uri in there
            for level in (0, 1, 2)
        ]

    async def stat(self, uri: str, **_options: Any) -> dict[str, Any]:
        """Tell whether it is a file or a folder."""
        if not any(name == uri or name.startswith(f"{uri}/") for name in self.files):
            raise NotFoundError(uri, "resource")
        return {"isDir": uri not in self.files}

    async def tree(self, root: str, **_options: Any) -> list[dict[str, Any]]:
        """List all that is below."""
        below = [(uri, body) for uri, body in self.files.items() if uri.startswith(f"{root}/")]
        return [{"uri": uri, "isDir": False, "size": len(body)} for uri, body in below]

    async def read_file_bytes(self, uri: str, **_options: Any) -> bytes:
        """Return a file."""
        self.reads += 1
        if uri not in self.files:
            raise NotFoundError(uri, "resource")
        return self.files[uri]

    async def reindex(self, **asked: Any) -> dict[str, Any]:
        """Take it, or refuse it as often as told."""
        if self.refusals:
            raise OpenVikingError("somebody is at it", code=self.refusals.pop())
        self.asked.append(asked)
        return {"task_id": str(uuid.uuid4())}


class Tasks:
    """Stands where OpenViking has its task list."""

    def __init__(self, *tasks: Any) -> None:
        self.tasks = tasks
        self.ended: list[str] = []
        self.ends: list[str] = []
        self.all_told = anyio.Event()
        self.broken = False

    async def list_tasks(self, **_options: Any) -> list[Any]:
        """List all."""
        if self.broken:
            raise NotADirectoryError("tasks")
        return list(self.tasks)

    async def fail(self, task: str, _error: str, **_options: Any) -> None:
        """End one."""
        self.ended.append(task)

    async def get(self, task_id: str, **_options: Any) -> Any:
        """Return one that ended as is told next."""
        end = self.ends.pop()
        if not self.ends:
            self.all_told.set()
        return task(task_id, end)


class Tracker(Tasks):
    """A task list, and who works on it."""

    def has_active_producer(self, _task: str) -> bool:
        """Say that no coroutine is at it."""
        return False

    async def has_work(self, task: str, **_options: Any) -> bool:
        """Say whether there is work of it."""
        return task == "worked on"


class Tracker050(Tasks):
    """As 0.5.0 has it: one synchronous question, and no other."""

    def has_work(self, task: str) -> bool:
        """Say whether there is work of it."""
        return task == "worked on"


def task(task_id: str, status: str = "running", created_at: float = STARTED_S - 1) -> Any:
    """Return a task."""
    return SimpleNamespace(
        task_id=task_id,
        status=SimpleNamespace(value=status),
        created_at=created_at,
        account_id="acme",
        user_id="alice",
        task_type="admin_reindex",
        resource_id="viking://resources/a",
        error="bound to a different event loop" if status == "failed" else None,
    )


@pytest.fixture
def tracker() -> Tracker:
    """An empty task list."""
    return Tracker()


@pytest.fixture
def service(tracker: Tracker) -> Iterator[Service]:
    """A service of one damaged folder."""
    set_task_tracker(tracker)
    before = get_service_or_none()
    made = Service({"resources/a/a.md": b"x", "resources/a/.abstract.md": b"", "resources/a/.overview.md": WHOLE})
    made.files |= {"viking://resources/.abstract.md": WHOLE, "viking://resources/.overview.md": WHOLE}
    set_service(made)
    yield made
    set_service(before)
    set_task_tracker(None)


async def idle() -> PendingWork:
    """Find nothing in the queues."""
    return PendingWork()


def tree_search(**more: Any) -> TreeSearch:
    """Return a search beside queues that hold nothing."""
    return TreeSearch(STARTED_S, look=idle, **more)


async def searched(search: TreeSearch | None = None, **wanted: Any) -> Findings:
    """Run one search to its end."""
    findings = Findings("it", Wanted(**wanted))
    await (search or tree_search()).search(findings.wanted, findings)
    findings.end()
    return findings


async def test_a_folder_somebody_is_at_is_tried_again(service: Service) -> None:
    service.refusals = ["CONFLICT", "RESOURCE_LOCKED"]
    found = await searched()
    assert (found.queued, found.refused) == (1, {})
    assert [asked["uri"] for asked in service.asked] == ["viking://resources/a"]
    assert service.asked[0]["force"] is True  # the body is there, and empty


@pytest.mark.parametrize("code", ["CONFLICT", "FAILED_PRECONDITION"])
async def test_a_folder_that_cannot_be_queued_has_failed(service: Service, code: str) -> None:
    service.refusals = [code] * 10
    search = tree_search(locked_s=0.6)
    found = await searched(search)
    assert (found.queued, found.refused) == (0, {"viking://resources/a": "somebody is at it"})
    made = await search.making(found)
    assert (made.left, made.done, made.failed) == (0, 0, {"viking://resources/a": "not queued: somebody is at it"})
    assert len(service.refusals) == (7 if code == "CONFLICT" else 9)


async def test_what_fails_is_queued_again_twice(service: Service, tracker: Tracker) -> None:
    search = tree_search()
    found = await searched(search)
    tracker.ends = ["completed", "failed", "running"]
    assert (await search.making(found)).left == 1
    assert len(service.asked) == 1
    service.refusals = ["CONFLICT"]
    assert (await search.making(found)).left == 1  # failed, and somebody is at it
    tracker.ends.append("failed")
    assert (await search.making(found)).left == 1
    assert len(service.asked) == 2
    service.files["viking://resources/a/.abstract.md"] = WHOLE
    assert (await search.making(found)).to_dict() == {"left": 0, "done": 1, "failed": []}


@pytest.mark.parametrize(
    ("end", "error"), [("failed", "bound to a different event loop"), ("completed", "made, and still: empty")]
)
async def test_what_fails_again_and_again_has_failed(service: Service, tracker: Tracker, end: str, error: str) -> None:
    search = tree_search()
    found = await searched(search)
    tracker.ends = [end] * 3
    assert [(await search.making(found)).left for _ in range(3)] == [1, 1, 0]
    assert (await search.making(found)).failed == {"viking://resources/a": error}
    assert [(asked["recursive"], "force" in asked) for asked in service.asked] == [
        (False, True),
        (False, True),
        (True, False),
    ]


async def test_what_fails_is_queued_again_though_nobody_asks(service: Service, tracker: Tracker) -> None:
    search = tree_search(follow_s=0.01)
    await searched(search)
    tracker.ends = ["completed", "failed"]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(search.follow)
        with anyio.fail_after(5):
            await tracker.all_told.wait()
        tasks.cancel_scope.cancel()
    assert len(service.asked) >= 2


async def test_what_is_given_up_is_told_and_tried_again_later(service: Service, tracker: Tracker) -> None:
    search = tree_search(again_s=0.05, follow_s=0.01)
    found = await searched(search)
    tracker.ends = ["failed"] * 4
    while (await search.making(found)).left:
        pass
    assert search.given_up() == {"viking://resources/a": "bound to a different event loop"}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(search.follow)
        with anyio.fail_after(5):
            await tracker.all_told.wait()  # tried once more, and failed
            service.files["viking://resources/a/.abstract.md"] = WHOLE
            while search.given_up():  # noqa: ASYNC110 - the search tells nobody
                await anyio.sleep(0.01)
        tasks.cancel_scope.cancel()
    assert len(service.asked) == 4
    assert (await search.making(found)).to_dict() == {"left": 0, "done": 1, "failed": []}


async def test_what_others_work_on_is_waited_for_and_failed_where_they_leave_it(service: Service) -> None:
    at_it = PendingWork()
    at_it.take("Semantic", {"data": {"uri": "viking://resources/a", "account_id": "acme"}})
    looks = [at_it] * 3

    async def look() -> PendingWork:
        return looks.pop() if looks else PendingWork()

    search = TreeSearch(STARTED_S, look=look)
    found = await searched(search)
    assert (found.already_queued, service.asked) == (1, [])
    assert (await search.making(found)).left == 1
    left = {"viking://resources/a": "left by work that was under way: empty"}
    assert ((await search.making(found)).left, (await search.making(found)).failed) == (0, left)


async def test_zombies_are_ended_before_anything_is_queued(service: Service, tracker: Tracker) -> None:
    tracker.tasks = (
        task("left"),
        task("cancelled", "cancelling"),
        task("done", "completed"),
        task("ours", created_at=STARTED_S),
        task("worked on"),
    )
    looked = await searched(repair=False)
    assert (list(looked.zombies), tracker.ended) == (["left", "cancelled"], [])
    assert looked.zombies["left"] == "admin_reindex viking://resources/a"
    order: list[str] = []
    reindex, fail = service.reindex, tracker.fail

    async def reindexed(**asked: Any) -> dict[str, Any]:
        order.append("queued")
        return await reindex(**asked)

    async def failed(task_id: str, error: str, **owner: Any) -> None:
        order.append("ended")
        await fail(task_id, error, **owner)

    service.reindex, tracker.fail = reindexed, failed  # type: ignore[method-assign]
    found = await searched()
    assert (list(found.zombies), tracker.ended, found.queued) == (["left", "cancelled"], ["left", "cancelled"], 1)
    assert order == ["ended", "ended", "queued"]


@pytest.mark.usefixtures("service")
async def test_zombies_of_the_release_with_other_signatures() -> None:
    old = Tracker050(task("left"), task("worked on"))
    set_task_tracker(old)
    assert list((await searched()).zombies) == old.ended == ["left"]


async def test_a_task_list_that_cannot_be_read_is_passed_over(service: Service, tracker: Tracker) -> None:
    tracker.broken = True
    found = await searched()
    assert found.passed_over == {"tasks of acme": "NotADirectoryError: tasks"}
    assert len(service.asked) == 1


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"uri": "viking://resources/gone"}, "no such folder: viking://resources/gone"),
        ({"uri": "viking://resources/a/a.md"}, "no such folder"),
        ({"account": "other"}, "no such account: other"),
    ],
)
async def test_what_does_not_exist_is_refused(service: Service, wanted: dict[str, Any], said: str) -> None:
    with pytest.raises(SearchRefused, match=said):
        await searched(**wanted)
    assert service.reads == 0


@pytest.mark.parametrize("uri", ["viking://resources/a", "viking://resources/a/", "viking://resources/", "viking://"])
async def test_a_slash_at_the_end_is_no_difference(service: Service, uri: str) -> None:
    assert [entry for entry, _ in (await searched(uri=uri, repair=False)).missing] == ["viking://resources/a"]
    assert service.asked == []


async def test_a_search_in_the_background_counts_the_bodies_it_reads(service: Service) -> None:
    for number in range(300):
        for name in ("d.md", ".abstract.md", ".overview.md"):
            service.files[f"viking://resources/n{number}/{name}"] = WHOLE
    began = anyio.current_time()
    found = await searched(per_s=5_000, repair=False)
    took_s = anyio.current_time() - began
    looked = found.scanned + service.reads
    assert (found.scanned, looked > 1_500) == (905, True)
    assert looked / took_s < 5_000 * 1.25
