"""The public names: what can be imported is what the README lists, and each is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import hotreload

ROOT = Path(__file__).parents[2]
LISTED = re.search(r"^Public names: (.*?)\n\n", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
SOURCE = ast.parse((ROOT / "hotreload/__init__.py").read_text())


def imported_for_types() -> dict[str, str]:
    """Return the names below `if TYPE_CHECKING` and the modules they come from."""
    (block,) = (node for node in SOURCE.body if isinstance(node, ast.If))
    found: dict[str, str] = {}
    for statement in block.body:
        assert isinstance(statement, ast.ImportFrom)
        found.update({name.name: f"{statement.module}".removeprefix("hotreload.") for name in statement.names})
    return found


def test_the_names_are_those_of_the_readme() -> None:
    assert LISTED is not None
    assert sorted(re.findall(r"`(\w+)`", LISTED[1])) == hotreload.__all__


def test_the_lists_in_the_package_are_one() -> None:
    assert sorted(hotreload.__all__) == hotreload.__all__ == dir(hotreload)
    assert imported_for_types() == hotreload._HOME
    assert sorted(hotreload._HOME) == hotreload.__all__


@pytest.mark.parametrize("name", hotreload.__all__)
def test_each_name_is_there_and_says_what_it_is(name: str) -> None:
    assert getattr(hotreload, name).__doc__ or name in ("Live", "Restart", "Secret")


def test_no_other_name_is_there() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        hotreload.__getattr__("Nothing")
