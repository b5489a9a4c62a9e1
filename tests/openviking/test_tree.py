"""What OpenViking's queues are about, and which folders of its tree should have an L0 and an L1."""

import json
import uuid
from typing import Any

import pytest

from hotreload.openviking.messages import PendingWork, parents
from hotreload.openviking.tree import Tree, needed

pytestmark = pytest.mark.anyio
ACME = "acme"


def pending(queue: str, **payload: Any) -> PendingWork:
    found = PendingWork()
    found.take(queue, {"id": "1", "data": json.dumps({"account_id": ACME, **payload})})
    return found


def test_a_message_of_one_folder_holds_it_and_the_one_above() -> None:
    found = pending("Semantic", uri="viking://resources/a/b/", recursive=False)
    assert found.holds(ACME, "viking://resources/a/b")
    assert found.holds(ACME, "viking://resources/a")
    assert not found.holds(ACME, "viking://resources")
    assert not found.holds(ACME, "viking://resources/a/b/c")
    assert not found.holds(ACME, "viking://resources/a/bc")
    assert not found.holds("other", "viking://resources/a/b")


def test_a_recursive_message_or_an_import_holds_what_is_below() -> None:
    assert pending("Reindex", uri="viking://resources/a", recursive=True).holds(ACME, "viking://resources/a/b/c")
    found = pending(
        "AddResource", root_uri="viking://resources/a", prepared={"x": ["viking://temp/y", "viking://resources"]}
    )
    assert found.holds(ACME, "viking://resources/a/b")
    assert not found.holds(ACME, "viking://resources/b")


def test_a_session_holds_the_memories_of_its_user_and_embedding_holds_nothing() -> None:
    payload = {"session_uri": "viking://user/alice/sessions/s1", "user": {"account_id": ACME}}
    found = PendingWork()
    found.take("SessionCommit", {"data": payload})
    assert found.holds(ACME, "viking://user/alice/memories/facts")
    assert not found.holds(ACME, "viking://user/bob/memories")
    assert not pending("Embedding", uri="viking://resources/a").holds(ACME, "viking://resources/a")


def test_tasks_are_known_by_any_message_and_damage_is_about_nothing() -> None:
    task, other = str(uuid.UUID(int=1, version=4)), str(uuid.UUID(int=2, version=4))
    found = pending("Embedding", work=json.dumps({"task_id": task}))
    assert found.mentions(task)
    assert not found.mentions(other)
    found.take("Semantic", {"data": "{broken"})
    found.take("Semantic", {"data": 7})
    assert not found.holds(ACME, "viking://resources")


def test_parents_end_below_the_scheme() -> None:
    assert list(parents("viking://a/b/c")) == ["viking://a/b", "viking://a"]
    assert list(parents("viking://a")) == []


@pytest.mark.parametrize(
    ("uri", "wanted"),
    [
        ("resources", True),
        ("resources/a/b", True),
        ("user/u/resources/a", True),
        ("user/u/peers/p/resources/a", True),
        ("user/u/skills/s", True),
        ("user/u/skills/s/scripts", None),
        ("user/u/skills", None),
        ("user/u/peers/p/skills", None),
        ("user/u/peers/p/skills/s", True),
        ("agent/skills", None),
        ("user/u/memories", False),
        ("user/u/memories/facts/deep", False),
        ("user/u/peers/p/memories/x", False),
        ("agent/skills/s", True),
        ("user/u/sessions/x", None),
        ("user/u", None),
        ("system/compile", None),
        ("resources/.git/x", None),
        ("_system/tasks", None),
    ],
)
def test_which_folders_have_both(uri: str, wanted: bool | None) -> None:
    assert needed(f"viking://{uri}") is wanted


class Files:
    """A tree and its files, paged as OpenViking pages it."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = {f"viking://{name}": body for name, body in files.items()}
        self.unreadable: set[str] = set()
        self.listed = 0

    async def tree(
        self, root: str, *, node_limit: int | None, level_limit: int | None, **_options: Any
    ) -> list[dict[str, Any]]:
        if any(uri == root or (level_limit is None and uri.startswith(f"{root}/")) for uri in self.unreadable):
            raise PermissionError(root)
        below = {uri.removeprefix(f"{root}/"): uri for uri in self.files if uri.startswith(f"{root}/")}
        folders = {name.partition("/")[0] for name in below if "/" in name} if level_limit == 1 else set()
        files = [uri for name, uri in below.items() if level_limit is None or "/" not in name]
        entries = [{"uri": f"{root}/{name}", "isDir": True} for name in folders]
        entries += [{"uri": uri, "isDir": False, "size": len(self.files[uri])} for uri in files]
        self.listed += len(entries[:node_limit])
        return entries[:node_limit]

    async def read_file_bytes(self, uri: str, **_options: Any) -> bytes:
        if uri not in self.files:
            raise FileNotFoundError(uri)
        if self.files[uri] == b"!":
            raise PermissionError(uri)
        return self.files[uri]


def _never(uri: str, reason: str) -> None:
    raise AssertionError(f"{uri}: {reason}")


async def faults(files: dict[str, bytes]) -> dict[str, str | None]:
    tree = Tree(Files(files), None)
    parts = [part async for part in tree.read(None, _never)]
    assert sum(len(part.entries) for part in parts) == len(files)
    found = {uri: await tree.fault(uri) for part in parts for uri in part.suspicious}
    return {uri.removeprefix("viking://"): fault for uri, fault in found.items()}


async def test_what_a_folder_lacks() -> None:
    large = b"# it\n\n" + b"text " * 3_000
    assert await faults(
        {
            "resources/a/a.md": b"x",
            "resources/a/.abstract.md": b"An abstract.",
            "resources/a/.overview.md": b"# it\n\n[Directory overview is not generated]\n",
            "resources/b/b.md": b"x",
            "resources/b/.overview.md": b"An overview.",
            "resources/c/c.md": b"x",
            "resources/c/.abstract.md": b" \n",
            "resources/c/.overview.md": b"An overview.",
            "resources/whole/w.md": b"x",
            "resources/whole/.abstract.md": large,
            "resources/whole/.overview.md": large,
            "resources/nothing/.hidden": b"x",
            "resources/.abstract.md": b"Of all.",
            "resources/.overview.md": b"Of all.",
            "user/u/memories/facts/a.md": b"x",
            "user/u/memories/likes/a.md": b"x",
            "user/u/memories/likes/.abstract.md": b"Likes.",
        }
    ) == {
        "resources": None,
        "resources/a": "placeholder",
        "resources/b": "no abstract",
        "resources/c": "empty",
        "user/u/memories/likes": "no overview",
    }


async def test_text_that_only_mentions_the_placeholder_is_whole() -> None:
    told = b"It says [Directory overview is not generated] where a call failed, and goes on."
    files = {"resources/a/a.md": b"x", "resources/a/.abstract.md": told, "resources/a/.overview.md": told}
    assert (await faults(files))["resources/a"] is None


async def test_what_cannot_be_read_raises() -> None:
    files = {"resources/a/a.md": b"x", "resources/a/.abstract.md": b"!", "resources/a/.overview.md": b"text"}
    with pytest.raises(PermissionError):
        await faults(files)


async def test_what_cannot_be_listed_is_passed_over_and_the_rest_is_read() -> None:
    names = [f"resources/{folder}/d{number}/d.md" for folder in "abc" for number in range(3)]
    files = Files(dict.fromkeys(names, b"x"))
    files.unreadable = {"viking://resources/b/d1"}
    passed_over: dict[str, str] = {}
    tree = Tree(files, None)
    found = [uri async for part in tree.read(None, passed_over.__setitem__) for uri in part.suspicious]
    assert list(passed_over) == ["viking://resources/b/d1"]
    assert {uri for uri in found if uri.count("/") == 4} == {
        f"viking://{name.removesuffix('/d.md')}" for name in names if "b/d1" not in name
    }


@pytest.mark.parametrize("page", [2, 5, 11, 1_000])
async def test_a_large_tree_is_read_in_parts_and_nothing_of_it_is_lost(page: int) -> None:
    files = {f"resources/a{a}/b{b}/c{c}.md": b"x" for a in range(4) for b in range(4) for c in range(3)}
    files |= {"resources/a1/.abstract.md": b"text", "resources/a1/.overview.md": b"text", "resources/f.md": b"x"}
    passed_over: list[str] = []
    tree = Tree(Files(files), None, page=page)
    parts = [part async for part in tree.read(None, lambda uri, _reason: passed_over.append(uri))]
    found = [uri for part in parts for uri in part.suspicious]
    folders = {f"viking://resources/a{a}{below}" for a in range(4) for below in ("", *(f"/b{b}" for b in range(4)))}
    assert sorted(found) == sorted(folders | {"viking://resources"})
    assert passed_over == []


async def test_only_the_folder_asked_for_is_read() -> None:
    files = Files({f"resources/{name}/d.md": b"x" for name in ("a", "b/c", "bc")})
    parts = [part async for part in Tree(files, None).read("viking://resources/b/", _never)]
    assert {uri for part in parts for uri in part.suspicious} == {"viking://resources/b", "viking://resources/b/c"}
    assert files.listed == 1
