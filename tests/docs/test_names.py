"""The public names: what can be imported is what the reference lists, and each is there."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

import hotreload
from tests.docs.typed import section

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "examples/reference/README.md").read_text()
SOURCE = ast.parse((ROOT / "hotreload/__init__.py").read_text())


def imported_for_types() -> dict[str, str]:
    """Return the names below `if TYPE_CHECKING` and the modules they come from."""
    (block,) = (node for node in SOURCE.body if isinstance(node, ast.If))
    found: dict[str, str] = {}
    for statement in block.body:
        assert isinstance(statement, ast.ImportFrom)
        found.update({name.name: f"{statement.module}".removeprefix("hotreload.") for name in statement.names})
    return found


def test_the_names_are_those_of_the_reference() -> None:
    table = section(REFERENCE, "## Public names")
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == hotreload.__all__


def test_the_lists_in_the_package_are_one() -> None:
    assert sorted(hotreload.__all__) == hotreload.__all__ == dir(hotreload)
    home = imported_for_types()
    assert sorted(home) == hotreload.__all__
    for name, module in home.items():
        assert getattr(hotreload, name) is getattr(importlib.import_module(f"hotreload.{module}"), name), name


@pytest.mark.parametrize("name", hotreload.__all__)
def test_each_name_is_there_and_says_what_it_is(name: str) -> None:
    assert getattr(hotreload, name).__doc__ or name in ("Live", "Restart", "Secret")


def test_no_other_name_is_there() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        hotreload.__getattr__("Nothing")
