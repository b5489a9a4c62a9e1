"""What the documents say is what there is: verbs, options, routes, fields, files, exit codes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from examples.summaries.settings import OvConf
from hotreload.admin.app import create_app
from hotreload.cli.exits import Exit
from hotreload.cli.verbs import root
from hotreload.config.settings import HotreloadSettings
from tests.commands import walk

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
SHARED = {"--help", "--json", "--url", "--key-file", "--socket", "--name", "--config", "--verbose"}
"""Options that stand elsewhere in the README."""
SUMMARIES = (ROOT / "examples/summaries/README.md").read_text()


def rows(text: str) -> dict[str, str]:
    """Return the table rows that begin with code: the code, and the rest of the row."""
    return dict(re.findall(r"^\| `([^`]+)`(.*)$", text, re.MULTILINE))


def test_every_verb_is_in_the_table_and_no_other() -> None:
    documented = {row.split()[1] for row in rows(README) if row.startswith("hotreload ")}
    assert documented == set(root.commands)


def test_every_command_and_its_options_are_in_the_row_of_its_verb() -> None:
    documented = {row.split()[1]: row + rest for row, rest in rows(README).items() if row.startswith("hotreload ")}
    for path, command in walk(root):
        row = documented[path[0]]
        assert len(path) == 1 or f"`{path[1]}" in row, path
        own = [option for each in command.params for option in each.opts if option.startswith("--")]
        missing = {option for option in own if option not in SHARED and option not in row}
        if len(path) == 1:
            assert not missing, path


def test_every_command_shown_exists_with_its_options() -> None:
    shown = re.findall(r"(?:^\$ |ExecStart=|ExecReload=)\S*hotreload (\S+)([^\n#]*)", README + SUMMARIES, re.MULTILINE)
    assert len(shown) >= 6
    for verb, arguments in shown:
        known = {option for parameter in root.commands[verb].params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", arguments.split(" -- ")[0])) <= known, (verb, arguments)


def test_every_exit_code_is_in_the_table() -> None:
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)} == {int(code) for code in Exit}


def test_every_route_is_in_the_table() -> None:
    routes: Any = create_app(_NoControl()).routes  # type: ignore[arg-type]
    table = " ".join(f"{row}{rest}" for row, rest in rows(README).items() if row.startswith(("GET /", "POST /")))
    assert {route.path for route in routes if route.path not in table} == set()


class _NoControl:
    """Routes are listed, never called."""

    subscribe = status = None


def leaves(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Return the dotted paths of a model's fields."""
    paths: list[str] = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        below = isinstance(kind, type) and issubclass(kind, BaseModel)
        paths += leaves(kind, f"{prefix}{name}.") if below else [f"{prefix}{name}"]  # type: ignore[arg-type]
    return paths


@pytest.mark.parametrize(("model", "text"), [(HotreloadSettings, README), (OvConf, SUMMARIES)])
def test_every_field_is_in_its_table_with_its_effect(model: type[BaseModel], text: str) -> None:
    from hotreload.config.settings import SettingsModel

    rules = SettingsModel(model)  # type: ignore[type-var]
    section = "hotreload." if model is HotreloadSettings else ""
    table = rows(text)
    for path in leaves(model):
        rule = rules.rule(section + path)
        cells = [cell.strip() for cell in table[path].split("|")]
        assert cells[2] == rule.effect.value, path
        assert not rule.secret or "secret" in cells[3], path


def test_every_link_leads_somewhere() -> None:
    for document in (ROOT / "README.md", ROOT / "examples/summaries/README.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert target.startswith("http") or (document.parent / target).exists(), target
