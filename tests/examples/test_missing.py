"""What the example says is missing of a workspace, and what it does with summaries of nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.summaries import workspace
from examples.summaries.documents import Document, find, locate
from examples.summaries.settings import Documents


@pytest.fixture
def conf(tmp_path: Path) -> Documents:
    """An input folder of two documents, both with summaries in `w`."""
    for name in ("a.md", "sub/b.md"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("# it\n\nA text.\n")
        workspace.write(tmp_path / "w", name, abstract="a", overview="o", mtime_ns=path.stat().st_mtime_ns)
    return Documents(path=tmp_path / "in", min_bytes=0)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"# a.md\n\n[Directory overview is not generated]\n", "placeholder"),
        (b"# a.md [Directory abstract is not ready]", "placeholder"),
        (b"It says [this is not ready] and goes on.", None),
        (b"\n \n", "empty"),
        (b"\xff\xfe\x00", "damaged"),
        (b"text\0", "damaged"),
        ("é".encode() * 4_000, None),
        (b"x" + "é".encode() * 4_000, None),
    ],
)
def test_a_body_is_looked_at(tmp_path: Path, conf: Documents, body: bytes, reason: str | None) -> None:
    (tmp_path / "w/a.md/.overview.md").write_bytes(body)
    assert workspace.missing(tmp_path / "w", Document(id="a.md", source=tmp_path / "in/a.md")) == reason


def test_what_cannot_be_looked_at_raises(tmp_path: Path, conf: Documents) -> None:
    (tmp_path / "w/a.md/.overview.md").unlink()
    (tmp_path / "w/a.md/.overview.md").mkdir()
    with pytest.raises(OSError, match="directory"):
        workspace.missing(tmp_path / "w", Document(id="a.md", source=tmp_path / "in/a.md"))


def test_summaries_of_a_document_that_is_gone_are_orphans_and_can_be_removed(tmp_path: Path, conf: Documents) -> None:
    folder = tmp_path / "w"
    assert list(workspace.orphans(folder, conf)) == []
    (tmp_path / "in/sub/b.md").unlink()
    assert [orphan.id for orphan in workspace.orphans(folder, conf)] == ["sub/b.md"]
    workspace.remove(folder, "sub/b.md")
    assert sorted(path.name for path in folder.iterdir()) == ["a.md"]


def test_an_input_folder_that_is_gone_or_empty_makes_no_orphans(tmp_path: Path, conf: Documents) -> None:
    (tmp_path / "in").rename(tmp_path / "aside")
    assert list(workspace.orphans(tmp_path / "w", conf)) == []
    (tmp_path / "in").mkdir()
    assert list(workspace.orphans(tmp_path / "w", conf)) == []
    assert locate(conf, "a.md") is None


def test_what_is_passed_over_is_told(tmp_path: Path, conf: Documents) -> None:
    (tmp_path / "in/round.md").symlink_to(tmp_path / "in/round.md")
    told: dict[str, str] = {}
    assert [found.id for found in find(conf, lambda path, reason: told.update({Path(path).name: reason}))] == [
        "a.md",
        "sub/b.md",
    ]
    assert "symbolic links" in told["round.md"]
