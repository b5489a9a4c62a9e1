"""Where control sockets are: one rule for who makes them and who looks for them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from hotreload.admin.place import Places, default_socket_path, parse_address


@pytest.fixture
def places(tmp_path: Path) -> Places:
    for folder in ("run", "user"):
        (tmp_path / folder).mkdir()
    return Places(os.geteuid(), None, tmp_path / "run", tmp_path / "user", tmp_path / "tmp" / "hotreload-0")


def test_the_runtime_directory_of_systemd_comes_first(tmp_path: Path) -> None:
    environ = {"RUNTIME_DIRECTORY": f"{tmp_path}:/other", "XDG_RUNTIME_DIR": "/x"}
    assert default_socket_path("docs", environ) == tmp_path / "hotreload.sock"


def test_the_first_place_that_fits_is_made(places: Places, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        assert places.to_create("docs") == tmp_path / "run" / "docs" / "hotreload.sock"
    (tmp_path / "run" / "docs").mkdir()
    (tmp_path / "run" / "docs").chmod(0o775)
    assert places.to_create("docs") == tmp_path / "user" / "hotreload" / "docs.sock"
    (tmp_path / "run" / "docs").chmod(0o755)
    assert places.to_create("docs") == tmp_path / "run" / "docs" / "hotreload.sock"
    assert replace(places, uid=4242).to_create("docs") != tmp_path / "run" / "docs" / "hotreload.sock"
    (tmp_path / "run" / "docs").rmdir()
    (tmp_path / "run" / "docs").symlink_to(tmp_path / "user")
    assert places.to_create("docs") == tmp_path / "user" / "hotreload" / "docs.sock"
    (tmp_path / "user" / "hotreload").mkdir()
    (tmp_path / "user" / "hotreload").chmod(0o770)
    assert places.to_create("docs") == tmp_path / "tmp" / "hotreload-0" / "docs.sock"
    assert replace(places, user=None).to_create("docs") == tmp_path / "tmp" / "hotreload-0" / "docs.sock"


def test_what_is_made_is_found(places: Places) -> None:
    made = [places.system / "a" / "hotreload.sock", *(p.parent / "b.sock" for p in places.of_name("b")[1:])]
    for path in made:
        path.parent.mkdir(parents=True)
        path.touch()
    assert places.existing() == [("a", made[0]), ("b", made[1]), ("b", made[2])]


@pytest.mark.parametrize("name", ["", "..", ".x", "a/b", "a b", "-x", "x" * 65, "a\n"])
def test_a_name_is_no_path(places: Places, name: str) -> None:
    with pytest.raises(ValueError, match="is not a service name"):
        places.of_name(name)


def test_addresses() -> None:
    assert parse_address("127.0.0.1:8750") == ("127.0.0.1", 8750)
    assert parse_address("[::1]:0") == ("::1", 0)
    for wrong in ("8750", ":8750", "localhost", "::1:8750", "a:b", "a:99999", "http://a:1", "a:1/x", "u@a:1"):
        with pytest.raises(ValueError, match="HOST:PORT"):
            parse_address(wrong)
