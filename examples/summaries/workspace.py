"""The workspace: a folder for each document with `.abstract.md` (L0) and `.overview.md` (L1)."""

from __future__ import annotations

import codecs
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from examples.summaries.documents import Document, locate
from examples.summaries.settings import Documents

ABSTRACT = ".abstract.md"
OVERVIEW = ".overview.md"


PLACEHOLDER = re.compile(r"\[[^\]\n]* is not (?:generated|ready)\]\s*\Z")
"""How a summary ends that a failed model call left behind."""
HEAD_BYTES = 4_096


def missing(workspace: Path, document: Document) -> str | None:
    """Say what is wrong with a document's summaries, None when nothing is; OSError where they cannot be looked at.

    `no abstract`, `no overview`, `empty`, `placeholder`, `damaged` (no text), `stale` (the source is newer).
    """
    source = document.source.stat()
    for name, what in ((ABSTRACT, "no abstract"), (OVERVIEW, "no overview")):
        path = workspace / document.id / name
        try:
            found = path.stat()
            fault = _fault(path)
        except (FileNotFoundError, NotADirectoryError):
            return what
        if fault or source.st_mtime_ns > found.st_mtime_ns:
            return fault or "stale"
    return None


def _fault(path: Path) -> str | None:
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head.strip():
        return "empty"
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head, final=len(head) < HEAD_BYTES)
    except UnicodeDecodeError:
        return "damaged"
    if "\0" in text:
        return "damaged"
    return "placeholder" if len(head) < HEAD_BYTES and PLACEHOLDER.search(text) else None


def orphans(workspace: Path, conf: Documents) -> Iterator[Document]:
    """Yield the summaries whose document is gone, by the document it was."""
    for folder, folders, files in os.walk(workspace):
        folders.sort()
        if ABSTRACT not in files and OVERVIEW not in files:
            continue
        document = Path(folder).relative_to(workspace).as_posix()
        source = locate(conf, document)
        if source is not None and _gone(source) and _is_text(document):
            yield Document(id=document, source=source)


def _gone(source: Path) -> bool:
    try:
        source.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # there, as far as anybody can say
        return False
    return False


def _is_text(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def remove(workspace: Path, document: str) -> None:
    """Remove the summaries of a document that is gone, and the folders that are empty then."""
    folder = workspace / document
    for name in (ABSTRACT, OVERVIEW):
        (folder / name).unlink(missing_ok=True)
    for empty in (folder, *folder.parents):
        if empty == workspace or not empty.is_dir() or next(empty.iterdir(), None) is not None:
            return
        empty.rmdir()


def write(workspace: Path, document: str, *, abstract: str, overview: str, mtime_ns: int) -> None:
    """Write both summaries, each whole or not at all and durable on return.

    They get the time of the source they were made of: a source changed meanwhile is newer, so it is stale.
    """
    folder = workspace / document
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / OVERVIEW, overview, mtime_ns)
    _replace(folder / ABSTRACT, abstract, mtime_ns)
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace(path: Path, text: str, mtime_ns: int) -> None:
    handle, temporary = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="replace") as file:
            file.write(f"{text.strip()}\n")
            file.flush()
            os.fsync(file.fileno())
        os.utime(temporary, ns=(mtime_ns, mtime_ns))
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
