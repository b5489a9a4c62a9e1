"""A folder that is trusted is ours, writable by no one else, and not behind a link."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from hotreload.folder import open_own_folder, tighten

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to act as another user")


def refusal(folder: Path) -> str:
    with pytest.raises(OSError) as refused:  # noqa: PT011 - the reason is what is looked at
        open_own_folder(folder)
    assert "chmod" not in str(refused.value)
    return refused.value.strerror or ""


def test_a_missing_one_is_made_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        os.close(open_own_folder(tmp_path / "deep" / "state"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "deep" / "state").stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o755, 0o711])
def test_others_may_look(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    os.close(open_own_folder(tmp_path))
    assert stat.S_IMODE(tmp_path.stat().st_mode) == mode


@pytest.mark.parametrize("mode", [0o770, 0o775, 0o777, 0o1777, 0o702])
def test_others_may_not_write(tmp_path: Path, mode: int) -> None:
    tmp_path.chmod(mode)
    assert refusal(tmp_path).startswith(f"{tmp_path} is writable by others (mode {mode:04o})")


@needs_root
def test_another_user_s_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65534)
    assert refusal(tmp_path).startswith(f"{tmp_path} belongs to uid 65534, not to us (uid 0)")


def test_a_link_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert f"is a symbolic link to {tmp_path / 'real'}" in refusal(tmp_path / "link")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert "is a symbolic link" in refusal(tmp_path / "gone")
    assert not (tmp_path / "nowhere").exists()
    (tmp_path / "file").touch()
    assert "is not a folder" in refusal(tmp_path / "file")


def test_files_are_tightened_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("data")
    (tmp_path / "store").chmod(0o644)
    (tmp_path / "other").touch()
    (tmp_path / "other").chmod(0o644)
    os.mkfifo(tmp_path / "fifo", 0o644)
    folder = open_own_folder(tmp_path)
    try:
        tighten(folder, ["store", "missing", "fifo"])
        assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "fifo").stat().st_mode) & 0o077 == 0
        (tmp_path / "link").symlink_to(tmp_path / "other")
        with pytest.raises(OSError, match="link is a symbolic link"):
            tighten(folder, ["link"])
        assert stat.S_IMODE((tmp_path / "other").stat().st_mode) == 0o644
    finally:
        os.close(folder)
