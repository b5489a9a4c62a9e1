"""Read OpenViking's tree of one account, and say of each folder what its L0 and L1 lack."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from hotreload.openviking.accounts import service
from hotreload.openviking.messages import SCHEME, parents

log = logging.getLogger(__name__)
PAGE: Final = 5_000
"""Entries listed at once, but for those right in one folder."""
NAMESPACES: Final = (f"{SCHEME}agent", f"{SCHEME}user", f"{SCHEME}resources")
Entry = Mapping[str, Any]
PassOver = Callable[[str, str], None]
"""Told a URI that cannot be looked at, and why."""
SIDECARS: Final = {".abstract.md": "no abstract", ".overview.md": "no overview"}
NO_VECTOR: Final = "no vector"
FILE_LEVEL: Final = 2
PLACEHOLDER: Final = re.compile(r"\[[^\]\n]* is not (?:generated|ready)\]\s*\Z")
PLACEHOLDER_BYTES: Final = 8_192
"""A sidecar that is larger holds more than a placeholder."""


@dataclass(slots=True)
class Folder:
    """What a folder of the tree has: the sizes of its sidecars, and whether there is anything to summarise."""

    abstract: int | None = None
    overview: int | None = None
    content: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    """So many entries of a tree were read; of those the folders worth a look at their files."""

    root: str
    entries: list[Entry]
    suspicious: list[str]


class Tree:
    """The folders of one account, as its `context` sees them."""

    def __init__(self, viking_fs: Any, context: Any) -> None:
        self._fs = viking_fs
        self._context = context
        self._open: dict[str, Folder] = {}
        """Folders read in parts, known whole only once all their parts are."""

    async def has(self, uri: str) -> bool:
        """Say whether there is such a folder."""
        if uri.rstrip("/") == SCHEME.rstrip("/"):
            return True
        try:
            found: Mapping[str, Any] = await self._fs.stat(uri.rstrip("/"), ctx=self._context, skip_count=True)
        except Exception as error:
            if _is_not_found(error) or isinstance(error, ValueError):
                return False
            raise
        return bool(found.get("isDir", found.get("is_dir")))

    async def read(self, start: str | None, passed_over: PassOver) -> AsyncIterator[Part]:
        """Read the folder `start`, or every namespace with summaries, part by part; what was read is forgotten.

        A part is a subtree of at most `PAGE` entries; a larger one, or one that cannot be read whole (a folder of it
        vanished meanwhile, or is damaged), is read as the files of its top folder and the subtrees below. OpenViking
        lists by offset, from the first entry on: its pages would take a time that grows with the square of the tree.
        """
        top = (start or SCHEME).rstrip("/")
        waiting = list(NAMESPACES) if top == SCHEME.rstrip("/") else [top]
        while waiting:
            root = waiting.pop()
            entries = await self._whole(root)
            if entries is not None:
                yield Part(root, entries, self._closed(root, entries))
                continue
            entries = await self._top(root, passed_over)
            waiting += self._opened(root, entries)
            yield Part(root, entries, [])
        yield Part(top, [], _suspicious(self._open))

    async def _whole(self, root: str) -> list[Entry] | None:
        """Return a subtree; None where it is large, or cannot be read."""
        try:
            entries = await self._list(root, node_limit=PAGE, level_limit=None)
        except Exception as error:  # noqa: BLE001 - whatever a damaged tree raises
            log.debug("recovery.read_apart uri=%s error=%r", root, error)
            return None
        return entries if len(entries) < PAGE else None

    async def _top(self, root: str, passed_over: PassOver) -> list[Entry]:
        """Return what is right in a folder; [] where it is gone."""
        try:
            return await self._list(root, node_limit=None, level_limit=1)
        except Exception as error:  # noqa: BLE001 - it is reported, and left as it is
            if not _is_not_found(error):
                passed_over(root, f"{type(error).__name__}: {error}")
            return []

    async def _list(self, root: str, *, node_limit: int | None, level_limit: int | None) -> list[Entry]:
        return await self._fs.tree(
            root, show_all_hidden=True, node_limit=node_limit, level_limit=level_limit, ctx=self._context
        )

    def _closed(self, root: str, entries: Iterable[Entry]) -> list[str]:
        """Return the folders of a whole subtree worth a look, having told those above that it has content."""
        folders = _folders(root, entries)
        if folders[root].content:
            self._fill(root)
        return _suspicious(folders)

    def _opened(self, root: str, entries: Iterable[Entry]) -> list[str]:
        """Keep a folder until all its parts are read; return these."""
        folders = _folders(root, entries)
        self._open[root] = folders.pop(root)
        if self._open[root].content:
            self._fill(root)
        return list(folders)

    def _fill(self, root: str) -> None:
        """Note that the folders above have content; those that are open have open ones above them."""
        for uri in parents(root):
            if uri not in self._open or self._open[uri].content:
                return
            self._open[uri].content = True

    async def unindexed(self, root: str, entries: Sequence[Entry]) -> list[str]:
        """Return the folders of a part whose vectors, or those of a file in them, OpenViking's own check misses."""
        from openviking.storage import index_consistency

        check = cast("Any", index_consistency).check_index_consistency
        listed = [dict(entry) for entry in entries]
        report = await check(self._fs, service()._vikingdb_manager, root, listed, self._context)
        missing: tuple[Any, ...] = report.missing_records
        folders = (each.uri if each.level < FILE_LEVEL else next(parents(each.uri), root) for each in missing)
        return [uri for uri in dict.fromkeys(folders) if needed(uri) is not None]

    async def vector_fault(self, uri: str) -> str | None:
        """Return `no vector` where a folder, or a file right in it, has none; None where nothing lacks."""
        entries = await self._list(uri, node_limit=None, level_limit=1)
        return NO_VECTOR if uri in await self.unindexed(uri, entries) else None

    async def fault(self, uri: str) -> str | None:
        """Return what a folder lacks now, None where nothing; OSError and others where it cannot be looked at."""
        faults = {name: await self._file_fault(f"{uri}/{name}", what) for name, what in SIDECARS.items()}
        if not needed(uri) and list(faults.values()) == list(SIDECARS.values()):
            return None  # never had any: OpenViking leaves such memories without
        return next((fault for fault in faults.values() if fault), None)

    async def _file_fault(self, uri: str, absent: str) -> str | None:
        from openviking.storage.abstract_overview import AbstractOverviewFormatError, body_for_preview

        try:
            body = body_for_preview(await self._fs.read_file_bytes(uri, ctx=self._context))
        except (AbstractOverviewFormatError, UnicodeDecodeError):
            return "damaged"
        except Exception as error:
            if _is_not_found(error):
                return absent
            raise
        if not body.strip():
            return "empty"
        return "placeholder" if PLACEHOLDER.search(body) else None


def _folders(root: str, entries: Iterable[Entry]) -> dict[str, Folder]:
    """Return the folders that entries of a subtree tell of, its top folder first."""
    folders = {root: Folder()}
    for entry in entries:
        uri = str(entry["uri"]).rstrip("/")
        above, _, name = uri.rpartition("/")
        if entry.get("isDir"):
            folders.setdefault(uri, Folder())
        elif name == ".abstract.md":
            folders.setdefault(above, Folder()).abstract = entry.get("size")
        elif name == ".overview.md":
            folders.setdefault(above, Folder()).overview = entry.get("size")
        elif not name.startswith("."):
            _fill(folders, uri, root)
    return folders


def _fill(folders: dict[str, Folder], uri: str, root: str) -> None:
    """Note that the folders from a file up to the top have content."""
    for above in parents(uri):
        folder = folders.setdefault(above, Folder())
        if folder.content:
            return
        folder.content = True
        if above == root:
            return


def _suspicious(folders: Mapping[str, Folder]) -> list[str]:
    """Return the folders whose sidecar lacks, or may be a placeholder."""
    return [
        uri
        for uri, folder in folders.items()
        if folder.content and (needs := needed(uri)) is not None and _doubtful(folder, whole=needs)
    ]


def _is_not_found(error: Exception) -> bool:
    from openviking.server.error_mapping import is_not_found_error

    return is_not_found_error(error)


def needed(uri: str) -> bool | None:
    """Say whether a folder has an L0 and an L1: True always, False both or none, None where nothing says so.

    OpenViking makes both for every folder of resources and for a skill; for memories only when a session or a
    reindex changed them. What stands in the folder that holds the skills comes with the account: no reindex makes it.
    """
    parts = uri.removeprefix(SCHEME).split("/")
    if any(part.startswith((".", "_")) for part in parts):
        return None
    match parts:
        case ["resources", *_] | ["user", _, "resources", *_] | ["user", _, "peers", _, "resources", *_]:
            return True
        case ["user", _, "skills", _] | ["user", _, "peers", _, "skills", _] | ["agent", "skills", _]:
            return True
        case ["user", _, "memories", *_] | ["user", _, "peers", _, "memories", *_]:
            return False
        case _:
            return None


def _doubtful(folder: Folder, *, whole: bool) -> bool:
    sizes = (folder.abstract, folder.overview)
    if sizes == (None, None):
        return whole
    return any(size is None or size <= PLACEHOLDER_BYTES for size in sizes)
