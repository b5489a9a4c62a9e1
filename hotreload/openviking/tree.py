"""Read OpenViking's tree of one account, and say what its folders lack of L0 and L1, its files of summaries."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
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
NO_SUMMARY: Final = "no file summary"
FILE_LEVEL: Final = 2
ASKED: Final = 200
"""Files whose summaries are asked for at once."""
SKILL: Final = re.compile(r"(viking://(?:agent|user/[^/]+(?:/peers/[^/]+)?)/skills/[^/]+)/")
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
    """The folders of one account, as its `context` sees them; of `page` entries or more none is listed at once."""

    def __init__(self, viking_fs: Any, context: Any, *, page: int = PAGE) -> None:
        self._fs = viking_fs
        self._context = context
        self._page = page
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

        A part is a subtree of fewer than `page` entries; a larger one, or one that cannot be read whole (a folder of it
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
            entries = await self._list(root, node_limit=self._page, level_limit=None)
        except Exception as error:  # noqa: BLE001 - whatever a damaged tree raises
            log.debug("recovery.read_apart uri=%s error=%r", root, error)
            return None
        return entries if len(entries) < self._page else None

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

    async def lacking(self, root: str, entries: Sequence[Entry]) -> dict[str, str]:
        """Return what the index lacks of a part: folders without a vector, files without one or without a summary.

        A file is named by itself where the vectors of its folder are there. OpenViking keeps the summary of a file
        with its vector, and nowhere else. Where the model's call for it failed it makes no vector, or one with an
        empty summary, makes L0 and L1 of the rest, and counts all of it as done. A vector that is missing is made
        again with what the folder's L1 says of the file; where that says nothing the summary is lost.
        """
        missing = await self._missing(root, entries)
        folders = {uri for uri, level in missing if level < FILE_LEVEL}
        files = {uri for uri, level in missing if level == FILE_LEVEL and _folder(uri) not in folders}
        found = dict.fromkeys((uri for uri in folders if needed(uri) is not None), NO_VECTOR)
        names = {str(entry["uri"]) for entry in entries}
        for uri in sorted(uri for uri in files if needed(_folder(uri)) is not None):
            lost = _summarised(uri, names) and _can_summarise() and not await self._told(uri)
            found[uri] = NO_SUMMARY if lost else NO_VECTOR
        summaries = await self._summaries([uri for uri in names if _summarised(uri, names)])
        return found | {uri: NO_SUMMARY for uri in sorted(summaries) if not summaries[uri] and _can_summarise()}

    async def _missing(self, root: str, entries: Sequence[Entry]) -> list[tuple[str, int]]:
        """Return the URIs and levels whose vectors OpenViking's own check misses."""
        from openviking.storage import index_consistency

        check = cast("Any", index_consistency).check_index_consistency
        listed = [dict(entry) for entry in entries]
        report = await check(self._fs, service()._vikingdb_manager, root, listed, self._context)
        return [(str(each.uri), int(each.level)) for each in report.missing_records]

    async def _summaries(self, files: Sequence[str]) -> dict[str, str]:
        """Return the summaries of those files that are in the index."""
        from openviking.storage.expr import And, Eq, In

        manager = service()._vikingdb_manager
        found: dict[str, str] = {}
        for first in range(0, len(files), ASKED):
            some = list(files[first : first + ASKED])
            wanted = And([Eq("level", FILE_LEVEL), In("uri", some)])
            fields = {"limit": 2 * len(some), "output_fields": ["uri", "abstract"]}
            records: list[Entry] = await manager.filter(filter=wanted, ctx=self._context, **fields)
            found |= {str(each["uri"]): str(each.get("abstract") or "").strip() for each in records}
        return found

    async def _told(self, uri: str) -> bool:
        """Say whether the L1 of its folder tells what is in a file; one that cannot be read is the folder's fault."""
        from openviking.storage.abstract_overview import parse_overview_file_summaries

        folder, _, name = uri.rpartition("/")
        try:
            overview = await self._fs.read_file_bytes(f"{folder}/.overview.md", ctx=self._context)
            return name in parse_overview_file_summaries(overview)
        except Exception as error:  # noqa: BLE001 - whatever a damaged tree raises
            log.debug("recovery.unreadable_overview uri=%s error=%r", uri, error)
            return True

    async def lacking_in(self, uri: str) -> dict[str, str]:
        """Return what the index lacks of a folder and of the files right in it."""
        entries = await self._list(uri, node_limit=None, level_limit=1)
        return await self.lacking(uri, [entry for entry in entries if not entry.get("isDir")])

    async def file_fault(self, uri: str) -> str | None:
        """Return what the index lacks of a file, None where nothing."""
        summary = (await self._summaries([uri])).get(uri)
        if summary is None:
            return NO_VECTOR
        return NO_SUMMARY if not summary and _can_summarise() else None

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


def _folder(uri: str) -> str:
    return uri.rpartition("/")[0]


def _summarised(uri: str, names: Collection[str]) -> bool:
    """Say whether a file is one that OpenViking summarises, in a folder that looks whole."""
    folder, _, name = uri.rpartition("/")
    if name.startswith(".") or needed(folder) is None:
        return False
    return all(f"{folder}/{sidecar}" in names for sidecar in SIDECARS)


def _can_summarise() -> bool:
    """Say whether a model is set: without one OpenViking keeps empty summaries."""
    from openviking_cli.utils.config import get_openviking_config

    return bool(get_openviking_config().vlm.is_available())


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


def skill_of(uri: str) -> str | None:
    """Return the folder of the skill that a file is in, None outside of any: OpenViking reindexes skills whole."""
    found = SKILL.match(uri)
    return found.group(1) if found else None


def _doubtful(folder: Folder, *, whole: bool) -> bool:
    sizes = (folder.abstract, folder.overview)
    if sizes == (None, None):
        return whole
    return any(size is None or size <= PLACEHOLDER_BYTES for size in sizes)
