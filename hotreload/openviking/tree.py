"""Read OpenViking's tree of one account, and say of each folder what its L0 and L1 lack."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from hotreload.openviking.in_hand import SCHEME, parents

log = logging.getLogger(__name__)
PAGE: Final = 5_000
NAMESPACES: Final = (f"{SCHEME}agent", f"{SCHEME}user", f"{SCHEME}resources")
PassOver = Callable[[str, str], None]
"""Told a URI that cannot be looked at, and why."""
SIDECARS: Final = {".abstract.md": "no abstract", ".overview.md": "no overview"}
PLACEHOLDER: Final = re.compile(r"\[[^\]\n]* is not (?:generated|ready)\]\s*\Z")
PLACEHOLDER_BYTES: Final = 8_192
"""A sidecar that is larger holds more than a placeholder."""


@dataclass(slots=True)
class Folder:
    """What a folder of the tree has: the sizes of its sidecars, and whether there is anything to summarise."""

    abstract: int | None = None
    overview: int | None = None
    content: bool = False


class Tree:
    """The folders of one account, as its `context` sees them."""

    def __init__(self, viking_fs: Any, context: Any) -> None:
        self._fs = viking_fs
        self._context = context
        self.folders: dict[str, Folder] = {}

    async def read(self, seen: Callable[[int], None], passed_over: PassOver) -> AsyncIterator[None]:
        """Read every namespace with summaries, a page at a time; yields after each, having told `seen` its entries.

        Where a subtree cannot be read whole (a folder of it vanished meanwhile, or is damaged) its parts are read.
        """
        waiting = list(NAMESPACES)
        while waiting:
            root = waiting.pop()
            try:
                async for entries in self._pages(root, level_limit=None):
                    seen(len(entries))
                    yield
            except Exception as error:  # noqa: BLE001 - whatever a damaged tree raises
                log.debug("recovery.read_apart uri=%s error=%r", root, error)
                waiting += await self._parts(root, passed_over)

    async def _parts(self, root: str, passed_over: PassOver) -> list[str]:
        """Take the files of one folder and return the folders in it; [] where it is gone."""
        parts: list[str] = []
        try:
            async for entries in self._pages(root, level_limit=1):
                parts += [str(entry["uri"]).rstrip("/") for entry in entries if entry.get("isDir")]
        except Exception as error:  # noqa: BLE001 - it is reported, and left as it is
            if not _is_not_found(error):
                passed_over(root, f"{type(error).__name__}: {error}")
        return parts

    async def _pages(self, root: str, *, level_limit: int | None) -> AsyncIterator[list[dict[str, Any]]]:
        offset = 0
        while True:
            entries: list[dict[str, Any]] = await self._fs.tree(
                root, show_all_hidden=True, node_limit=PAGE, level_limit=level_limit, offset=offset, ctx=self._context
            )
            for entry in entries:
                self._take(entry)
            yield entries
            if len(entries) < PAGE:
                return
            offset += len(entries)

    def _take(self, entry: dict[str, Any]) -> None:
        uri = str(entry["uri"]).rstrip("/")
        if entry.get("isDir"):
            self.folders.setdefault(uri, Folder())
            return
        above, _, name = uri.rpartition("/")
        if name in SIDECARS:
            folder = self.folders.setdefault(above, Folder())
            if name == ".abstract.md":
                folder.abstract = entry.get("size")
            else:
                folder.overview = entry.get("size")
        elif not name.startswith("."):
            self._fill(parents(uri))

    def _fill(self, above: Iterable[str]) -> None:
        for uri in above:
            folder = self.folders.setdefault(uri, Folder())
            if folder.content:
                return
            folder.content = True

    def suspicious(self) -> list[str]:
        """Return the folders worth a look at their files: a sidecar lacks, or may be a placeholder."""
        return [
            uri
            for uri, folder in self.folders.items()
            if folder.content and (needs := needed(uri)) is not None and _doubtful(folder, whole=needs)
        ]

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


def _is_not_found(error: Exception) -> bool:
    from openviking.server.error_mapping import is_not_found_error

    return is_not_found_error(error)


def needed(uri: str) -> bool | None:
    """Say whether a folder has an L0 and an L1: True always, False both or none, None nobody says so.

    OpenViking makes both for every folder of resources and for a skill; for memories only when a session or a
    reindex changed them.
    """
    parts = uri.removeprefix(SCHEME).split("/")
    if any(part.startswith((".", "_")) for part in parts):
        return None
    match parts:
        case ["resources", *_] | ["user", _, "resources", *_] | ["user", _, "peers", _, "resources", *_]:
            return True
        case ["user", _, "skills", _] | ["user", _, "peers", _, "skills", _] | ["agent", "skills", _]:
            return True
        case ["user", _, "memories" | "skills", *more] | ["user", _, "peers", _, "memories" | "skills", *more]:
            return False if parts[-1 - len(more)] == "memories" or not more else None
        case _:
            return None


def _doubtful(folder: Folder, *, whole: bool) -> bool:
    sizes = (folder.abstract, folder.overview)
    if sizes == (None, None):
        return whole
    return any(size is None or size <= PLACEHOLDER_BYTES for size in sizes)
