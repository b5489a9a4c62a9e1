"""What OpenViking's queue messages are about: their URIs and tasks, and what of a tree has unfinished work."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

VECTORS_ONLY: Final = frozenset({"Embedding"})
"""Queues whose messages make no L0 or L1."""
ONE_FOLDER: Final = frozenset({"Semantic", "Reindex"})
"""Queues whose messages name one folder, and whether what is below it is meant too."""
SCHEME: Final = "viking://"
TASK_ID: Final = re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b")
Folder = tuple[str, str]
"""An account and a URI."""


class PendingWork:
    """Which folders have work, as of one look at every queue."""

    def __init__(self) -> None:
        self._folders: set[Folder] = set()
        self._trees: set[Folder] = set()
        self._ids: set[str] = set()
        self._vectors: set[Folder] = set()

    def holds(self, account: str, uri: str) -> bool:
        """Say whether a message is about this folder, or about a tree it is in."""
        if (account, uri) in self._folders:
            return True
        return any((account, above) in self._trees for above in (uri, *parents(uri)))

    def holds_vectors(self, account: str, uri: str) -> bool:
        """Say whether a message makes a vector of this folder or of a file in it."""
        return (account, uri) in self._vectors

    def mentions(self, task_id: str) -> bool:
        """Say whether a message belongs to this task."""
        return task_id in self._ids

    def take(self, queue: str, message: Mapping[str, Any]) -> None:
        """Note what a message is about; one that cannot be read is about nothing."""
        payload = _payload(message)
        self._ids.update(TASK_ID.findall(json.dumps(payload, default=str)))
        if queue in VECTORS_ONLY:
            for uri in _uris(payload):
                account = _account(payload.get("context_data") or payload)
                self._vectors.update((account, above) for above in (uri.rstrip("/"), *list(parents(uri))[:1]))
            return
        account = _account(payload)
        if queue in ONE_FOLDER:
            for key in ("uri", "target_uri"):
                self._note(account, payload.get(key), tree=bool(payload.get("recursive", True)))
            return
        self._note(account, payload.get("root_uri"), tree=True)
        for uri in _uris(payload):
            if "/" in uri.removeprefix(SCHEME).rstrip("/"):  # a whole namespace is only named as the place of something
                self._note(account, uri, tree=True)
            if queue == "SessionCommit":  # what a session taught goes into the memories of its user
                self._note(account, "/".join(uri.split("/")[:4]), tree=True)

    def _note(self, account: str, uri: Any, *, tree: bool) -> None:
        if not isinstance(uri, str) or not uri.startswith(SCHEME):
            return
        folder = uri.rstrip("/")
        (self._trees if tree else self._folders).add((account, folder))
        self._folders.update((account, above) for above in list(parents(folder))[:1])  # it is refreshed after its child


async def look() -> PendingWork:
    """Look at every queue of this process."""
    from openviking.storage.queuefs.queue_manager import get_queue_manager

    manager: Any = get_queue_manager()
    found = PendingWork()
    for name in await manager.check_status():
        for message in await manager.get_queue(name).snapshot():
            found.take(name, message)
    return found


def about(message: Mapping[str, Any]) -> str:
    """Return the URI that a message is about, for people; its id where it names none."""
    payload = _payload(message)
    uris = (payload.get(key) for key in ("uri", "target_uri", "root_uri"))
    named = next((uri for uri in uris if isinstance(uri, str) and uri), None)
    return named or next(_uris(payload), str(message.get("id", "")))


def parents(uri: str) -> Iterator[str]:
    """Yield the folders above a URI, nearest first, the scheme alone left out."""
    above = uri.rstrip("/").rpartition("/")[0]
    while len(above) > len(SCHEME):
        yield above
        above = above.rpartition("/")[0]


def _payload(message: Mapping[str, Any]) -> dict[str, Any]:
    data: Any = message.get("data", message)
    if isinstance(data, (str, bytes)):
        try:
            data = json.loads(data)
        except ValueError:
            return {}
    return cast("dict[str, Any]", data) if isinstance(data, dict) else {}


def _account(payload: Mapping[str, Any]) -> str:
    user: Any = payload.get("user")
    inner: Any = cast("dict[str, Any]", user).get("account_id") if isinstance(user, dict) else None
    return str(payload.get("account_id") or inner or "default")


def _uris(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value.startswith(SCHEME):
        yield value
    elif isinstance(value, dict):
        for each in cast("dict[str, Any]", value).values():
            yield from _uris(each)
    elif isinstance(value, list):
        for each in cast("list[Any]", value):
            yield from _uris(each)
