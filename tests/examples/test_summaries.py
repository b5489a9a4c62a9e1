"""The parts of `summaries` that are its own: finding, reading, splitting, extracting, writing."""

from __future__ import annotations

import json
import os
import re
import sysconfig
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from examples.summaries import extract, workspace
from examples.summaries.documents import MAX_SECTIONS, Document, Section, find, pieces, read, split
from examples.summaries.model import PROMPT_CHARS, Chat
from examples.summaries.service import service
from examples.summaries.settings import VLM, Documents

PYTHON = '''"""Says what it is for. And more."""
import json
LIMIT = 3

def first(a: int, *, b: str = "x") -> bool:
    """Do the first thing.

    At length.
    """

@decorated
class Second(Base):
    """Be the second thing."""

    def method(self) -> None:
        """Act."""

    def _hidden(self) -> None: ...
'''


def document(folder: Path, name: str, raw: bytes) -> Document:
    (folder / name).write_bytes(raw)
    return Document(id=name, source=folder / name)


def test_python_is_told_by_docstrings_and_signatures() -> None:
    sections = split(".py", PYTHON)
    overview = extract.merge("it.py", [extract.note(section) for section in sections])
    assert extract.abstract(overview) == "Says what it is for. Defines `first`, `Second`."
    assert "- `def first(a: int, *, b: str='x') -> bool`: Do the first thing." in overview
    assert "- `class Second(Base)`: Be the second thing.\n  - `def method(self) -> None`: Act." in overview
    assert "_hidden" not in overview


def test_prose_is_told_by_the_first_sentences_below_its_headings() -> None:
    text = "# Title\n\nIt begins so. Then more.\n\nPart\n----\n\nA part says this. And that.\n"
    overview = extract.merge("a.md", [extract.note(section) for section in split(".md", text)])
    assert "It begins so." in overview
    assert "A part says this." in overview


def test_sections_cover_a_document_in_order_and_are_few() -> None:
    text = "# head\n\f\n"
    text += "".join(f"def f{number}():\n    return {number!r:>{number * 10}}\n\n\n" for number in range(60))
    sections = split(".py", text)
    assert 1 < len(sections) <= MAX_SECTIONS
    assert "".join(section.text for section in sections) == text


@given(st.sampled_from([".py", ".md", ".txt"]), st.text())
def test_whatever_is_written_has_a_summary(suffix: str, text: str) -> None:
    sections = split(suffix, text)
    assert 1 <= len(sections) <= MAX_SECTIONS
    notes = [extract.note(section) for section in sections]
    assert all(notes)
    assert extract.abstract(extract.merge("it", notes)).strip()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0\xff\xfe binary",
        b"# coding: no-such-codec\nx = 1\n",
        "# coding: latin-1\nname = 'é'\n".encode("latin-1"),
        b"\xef\xbb\xbfx = 1\n",
        b"def broken(:\n",
        b"((((((((((" * 1000,
    ],
)
def test_damaged_documents_are_summarised_like_others(tmp_path: Path, raw: bytes) -> None:
    text = read(document(tmp_path, "it.py", raw))
    assert extract.merge("it.py", [extract.note(section) for section in text.sections])


def test_section_title_stands_in_where_nothing_is_said() -> None:
    assert extract.note(Section("empty", "")) == "- empty"


@given(st.text(), st.integers(1, 50))
def test_pieces_are_the_whole_text(text: str, chars: int) -> None:
    found = pieces(text, chars)
    assert "".join(found) == text
    assert all(len(piece) <= chars for piece in found)


@asynccontextmanager
async def chat(answer: Callable[[str], str]) -> AsyncIterator[tuple[Chat, list[str]]]:
    """Yield the client of an endpoint in this process, and the prompts it was sent."""
    prompts: list[str] = []

    async def complete(request: Request) -> JSONResponse:
        prompt = (await request.json())["messages"][1]["content"]
        prompts.append(prompt)
        return JSONResponse({"choices": [{"message": {"content": answer(prompt)}}]})

    app = Starlette(routes=[Route("/v1/chat/completions", complete, methods=["POST"])])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost/v1") as http:
        yield Chat(http), prompts


@pytest.mark.anyio
async def test_an_endpoint_is_sent_every_word_however_long(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(20_000)]
    text = read(document(tmp_path, "long.txt", "\n".join(words).encode()))
    conf = VLM(pace_s=0)
    async with chat(lambda prompt: " ".join(prompt.split()[-1200:])) as (client, prompts):
        sections = client.sections(text)
        notes = [await client.note("long.txt", section, conf) for section in sections]
        assert len(prompts) == len(sections) > 1
        assert sorted(re.findall(r"word\d+", " ".join(prompts))) == sorted(words)
        prompts.clear()
        assert await client.merge("long.txt", notes, conf)
        assert len(prompts) > 1
        assert all(len(prompt) <= PROMPT_CHARS + 100 for prompt in prompts)
        assert set(re.findall(r"word\d+", " ".join(notes))) <= set(re.findall(r"word\d+", " ".join(prompts)))
    async with chat(lambda prompt: prompt) as (client, _):
        with pytest.raises(ValueError, match="do not get shorter"):
            await client.merge("long.txt", [section.text for section in sections], conf)


@pytest.mark.parametrize("value", ["http://h:abc", "127.0.0.1:9000/v1", "ftp://h/v1", "http://", ""])
def test_an_address_no_client_can_call_is_refused_with_its_place(tmp_path: Path, value: str) -> None:
    (tmp_path / "ov.conf").write_text(json.dumps({"vlm": {"api_base": value}}))
    (error,) = service.check(tmp_path / "ov.conf").errors
    assert (error.path, error.line, error.column) == ("vlm.api_base", 1, 22)


@pytest.mark.parametrize("value", [None, "http://127.0.0.1:9000/v1", "https://[::1]/v1"])
def test_an_address_or_none_is_taken(tmp_path: Path, value: str | None) -> None:
    (tmp_path / "ov.conf").write_text(json.dumps({"vlm": {"api_base": value}}))
    assert service.check(tmp_path / "ov.conf").outcome == "valid"


def test_find_passes_over_what_is_excluded_hidden_damaged_or_linked_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("in/a.py", "in/tests/b.py", ".hidden/c.py", "in/__pycache__/d.py", "e.exe", ".f.py", "short.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x = 1\n" * (1 if name == "short.py" else 100))
    (tmp_path / "in/loop").symlink_to(tmp_path)
    (tmp_path / "dangling.py").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.py")
    (tmp_path / os.fsdecode(b"\xff.py")).write_text("x = 1\n" * 100)
    assert [found.id for found in find(Documents(path=tmp_path))] == ["in/a.py"]


def test_limit_takes_a_sample_that_a_new_document_hardly_moves(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"{number}.py").write_text("x = 1\n" * 100)
    conf = Documents(path=tmp_path, limit=10)
    before = {found.id for found in find(conf)}
    (tmp_path / "new.py").write_text("x = 1\n" * 100)
    assert len(before) == 10
    assert len(before & {found.id for found in find(conf)}) >= 9
    assert len(list(find(Documents(path=tmp_path, limit=0)))) == 51


def test_default_input_is_this_python() -> None:
    ids = [found.id for found in find(Documents(limit=0))]
    assert "library/json/decoder.py" in ids
    assert "packages/anyio/__init__.py" in ids
    assert Path(sysconfig.get_path("stdlib"), "json/decoder.py").exists()


def test_missing_names_the_reason_until_both_summaries_are_there(tmp_path: Path) -> None:
    source = document(tmp_path, "it.py", b"x = 1\n")
    folder = tmp_path / "workspace"
    assert workspace.missing(folder, source) == "no abstract"
    workspace.write(folder, "it.py", abstract="short", overview="long", mtime_ns=source.source.stat().st_mtime_ns)
    assert workspace.missing(folder, source) is None
    assert sorted(path.name for path in (folder / "it.py").iterdir()) == [".abstract.md", ".overview.md"]
    (folder / "it.py/.abstract.md").write_text("")
    assert workspace.missing(folder, source) == "empty"
    (folder / "it.py/.abstract.md").write_text("short")
    (folder / "it.py/.overview.md").unlink()
    assert workspace.missing(folder, source) == "no overview"
    (folder / "it.py/.overview.md").write_text("long")
    later = source.source.stat().st_mtime_ns + 10**10
    os.utime(source.source, ns=(later, later))
    assert workspace.missing(folder, source) == "stale"


def test_a_source_changed_while_it_was_summarised_is_stale(tmp_path: Path) -> None:
    source = document(tmp_path, "it.py", b"x = 1\n")
    seen = read(source).mtime_ns
    os.utime(source.source, ns=(seen + 1_000_000, seen + 1_000_000))
    workspace.write(tmp_path / "w", "it.py", abstract="a", overview="b", mtime_ns=seen)
    assert workspace.missing(tmp_path / "w", source) == "stale"


def test_a_docstring_that_spells_nul_makes_no_damaged_summary() -> None:
    sections = split(".py", 'class Prober:\n    """Looks for [\\0] bytes."""\n')
    notes = [extract.note(section) for section in sections]
    assert "Looks for [�] bytes." in extract.merge("prober.py", notes)
    assert all("\0" not in note for note in notes)
