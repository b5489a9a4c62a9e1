"""Find documents, read them, and split them into the sections that are summarised one by one."""

from __future__ import annotations

import ast
import hashlib
import heapq
import io
import logging
import os
import re
import stat
import sysconfig
import tokenize
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path

from pydantic import BaseModel

from examples.summaries.settings import Documents

log = logging.getLogger(__name__)
MAX_SECTIONS = 8
SECTION_CHARS = 1_200
TRIES = 5
_PARSED_AS = "<document>"

# Old code has string escapes that today's parser warns about: not this service's business.
warnings.filterwarnings("ignore", category=SyntaxWarning, module=re.escape(_PARSED_AS))


class Document(BaseModel):
    """One document: `id` is its path below the input folder (with `/`), `source` where it is read."""

    id: str
    source: Path


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a document that is summarised by one call."""

    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """A document as read: `digest` tells two states of it apart, `mtime_ns` is that of the state read."""

    id: str
    digest: str
    mtime_ns: int
    sections: tuple[Section, ...]


def _log(path: str, reason: str) -> None:
    log.warning("documents.passed_over path=%r reason=%s", path, reason)


Tell = Callable[[str, str], None]
"""Told the path of what is passed over, and why."""


def find(conf: Documents, tell: Tell = _log) -> Iterator[Document]:
    """Yield the documents to summarise, by id; with a limit a sample that new documents hardly move.

    What cannot be listed or read is told and passed over; symbolic links to folders are not followed.
    """
    found: Iterable[tuple[str, str]] = _walk_all(conf, tell)
    if conf.limit:
        sample = heapq.nsmallest(conf.limit, ((hashlib.sha256(each[0].encode()).digest(), each) for each in found))
        found = sorted(each for _, each in sample)
    for name, path in found:
        yield Document(id=name, source=Path(path))


def locate(conf: Documents, document: str) -> Path | None:
    """Return where the source of a document is, or was; None where its input folder is gone or empty.

    An empty folder is more likely a disk that is not there than the end of every document.
    """
    prefix, _, rest = document.partition("/")
    roots = {"": conf.path} if conf.path is not None else {each: root for each, root, _ in _roots()}
    root = roots.get("", roots.get(f"{prefix}/"))
    if root is None or not root.is_dir() or next(root.iterdir(), None) is None:
        return None
    return root / (document if "" in roots else rest)


def _roots() -> list[tuple[str, Path, tuple[str, ...]]]:
    library, packages = Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))
    return [("library/", library, ("site-packages", "dist-packages")), ("packages/", packages, ())]


def _walk_all(conf: Documents, tell: Tell) -> Iterator[tuple[str, str]]:
    """Yield id and path of every document: text, as installed packages may have a hundred thousand files."""
    for prefix, root, leave_out in [("", conf.path, ())] if conf.path is not None else _roots():
        yield from _walk(root, prefix, conf, leave_out, tell)


def _walk(
    root: Path, prefix: str, conf: Documents, leave_out: tuple[str, ...], tell: Tell
) -> Iterator[tuple[str, str]]:
    out = (*conf.exclude, *leave_out, "__pycache__", ".*")

    def not_listed(error: OSError) -> None:
        tell(str(error.filename), error.strerror or "cannot be listed")

    for folder, folders, files in os.walk(root, onerror=not_listed):
        folders[:] = sorted(name for name in folders if not _matches(name, out))
        below = "".join(f"{part}/" for part in Path(folder).relative_to(root).parts)
        for name in sorted(files):
            path = os.path.join(folder, name)
            if not _matches(name, conf.include) or name.startswith("."):
                continue
            if reason := _unusable(path, conf):
                tell(path, reason)
            elif reason is None:
                yield f"{prefix}{below}{name}", path


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _unusable(path: str, conf: Documents) -> str | None:
    """Say why a file cannot be a document; "" where it is none by its kind or its size."""
    try:
        found = os.stat(path)
        path.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    except OSError as error:
        return error.strerror or "cannot be read"
    if not stat.S_ISREG(found.st_mode) or not conf.min_bytes <= found.st_size <= conf.max_bytes:
        return ""
    return None if os.access(path, os.R_OK) else "Permission denied"


def read(document: Document) -> Text:
    """Read a document and split it; OSError when it cannot be read, bytes that are not text are replaced."""
    mtime_ns = document.source.stat().st_mtime_ns
    raw = document.source.read_bytes()
    text = (
        _decode(raw, python=document.source.suffix == ".py")
        .replace("\r\n", "\n")
        .replace("\r", "\n")
        .replace("\0", "�")
    )
    return Text(document.id, hashlib.sha256(raw).hexdigest()[:16], mtime_ns, tuple(split(document.source.suffix, text)))


def _decode(raw: bytes, *, python: bool) -> str:
    encoding = "utf-8"
    if python:
        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        except SyntaxError:
            encoding = "utf-8"
    try:
        return raw.decode(encoding, errors="replace").removeprefix("\ufeff")
    except LookupError:
        return raw.decode("utf-8", errors="replace")


def split(suffix: str, text: str) -> list[Section]:
    """Split by definitions (Python) or headings (all else) into 1 to 8 sections; small neighbours share one."""
    parts = (_python_parts(text) if suffix == ".py" else None) or _prose_parts(text)
    return _grouped(parts) or [Section("empty", "")]


def in_pieces(sections: Iterable[Section], chars: int) -> list[Section]:
    """Return the sections, each longer than `chars` as several; none of the text is left out."""
    found: list[Section] = []
    for section in sections:
        texts = pieces(section.text, chars)
        if len(texts) > 1:
            found += [Section(f"{section.title} ({n} of {len(texts)})", text) for n, text in enumerate(texts, 1)]
        else:
            found.append(section)
    return found


def pieces(text: str, chars: int) -> list[str]:
    """Cut a text into pieces of up to `chars`, at the ends of lines where it can be."""
    found = [""]
    for line in text.splitlines(keepends=True):
        for at in range(0, len(line), chars):
            part = line[at : at + chars]
            if len(found[-1]) + len(part) > chars:
                found.append("")
            found[-1] += part
    return found


def parse_python(text: str) -> ast.Module | None:
    """Return the tree of a module, None for what is none."""
    for _ in range(TRIES):
        try:
            return ast.parse(text, filename=_PARSED_AS)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None
        except SystemError:  # the parser's count of its depth is disturbed now and then, by another thread or a trace:
            continue  # https://github.com/python/cpython/issues/106905
    return None


def _python_parts(text: str) -> list[Section] | None:
    tree = parse_python(text)
    if tree is None:
        return None
    lines = list(io.StringIO(text))  # as the parser counts them: a form feed ends no line
    parts: list[Section] = []
    begin, title = 0, "module"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            first = min((node.lineno, *(decorator.lineno for decorator in node.decorator_list))) - 1
            parts.append(Section(title, "".join(lines[begin:first])))
            begin, title = first, node.name
    parts.append(Section(title, "".join(lines[begin:])))
    return [part for part in parts if part.text.strip()]


_HEADING = re.compile(
    r"#{1,6} +(?P<hashed>\S.*?)[ #]*$|(?P<underlined>\S.*)\n(?:={3,}|-{3,}|~{3,})[ \t]*$", re.MULTILINE
)


def _prose_parts(text: str) -> list[Section]:
    marks = [(match.start(), match["hashed"] or match["underlined"]) for match in _HEADING.finditer(text)]
    marks = [(0, "beginning"), *marks, (len(text), "")]
    parts = [Section(title.strip()[:80], text[at:end]) for (at, title), (end, _) in pairwise(marks)]
    return [part for part in parts if part.text.strip()]


def _grouped(parts: list[Section]) -> list[Section]:
    room = max(SECTION_CHARS, sum(len(part.text) for part in parts) // MAX_SECTIONS + 1)
    groups: list[list[Section]] = []
    size = 0
    for part in parts:
        if groups and (size + len(part.text) <= room or len(groups) == MAX_SECTIONS):
            groups[-1].append(part)
            size += len(part.text)
        else:
            groups.append([part])
            size = len(part.text)
    return [Section(_title(group), "".join(part.text for part in group)) for group in groups]


def _title(group: list[Section]) -> str:
    first, last = group[0].title, group[-1].title
    return first if len(group) == 1 else f"{first} … {last}"
