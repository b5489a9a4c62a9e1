"""What the documents say is what there is: verbs, options, routes, fields, files, exit codes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
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
REFERENCE = (ROOT / "examples/reference/README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "examples").glob("*/README.md")), ROOT / "systemd/README.md"]
BLOCK = re.MULTILINE | re.DOTALL
TYPED = {"examples/fleet/README.md", "README.md", "examples/summaries/README.md", "examples/monitoring/README.md"}
"""Pages whose console blocks are typed by tests."""
SHARED = {"--help", "--json", "--url", "--key-file", "--socket", "--name", "--config", "--verbose"}
"""Options that are described for all verbs together."""
SUMMARIES = (ROOT / "examples/summaries/README.md").read_text()


def rows(text: str) -> dict[str, str]:
    """Return the table rows that begin with code: the code, and the rest of the row."""
    return dict(re.findall(r"^\| `([^`]+)`(.*)$", text, re.MULTILINE))


def test_every_verb_is_in_the_table_and_no_other() -> None:
    documented = {row.split()[1] for row in rows(REFERENCE) if row.startswith("hotreload ")}
    assert documented == set(root.commands)


def test_every_command_and_its_options_are_in_the_row_of_its_verb() -> None:
    documented = {row.split()[1]: row + rest for row, rest in rows(REFERENCE).items() if row.startswith("hotreload ")}
    for path, command in walk(root):
        row = documented[path[0]]
        assert len(path) == 1 or f"`{path[1]}" in row, path
        own = [option for each in command.params for option in each.opts if option.startswith("--")]
        missing = {option for option in own if option not in SHARED and option not in row}
        if len(path) == 1:
            assert not missing, path


def test_every_command_shown_exists_with_its_options() -> None:
    blocks = "".join(block for page in PAGES for block in re.findall(r"^```\w+\n(.*?)^```", page.read_text(), BLOCK))
    shown = re.findall(r"(?:^(?:\$ )?|ExecStart=|ExecReload=)\S*hotreload (\w+)([^\n#]*)", blocks, re.MULTILINE)
    assert len(shown) >= 6
    for verb, arguments in shown:
        command = root.commands[verb]
        if isinstance(command, click.Group):
            command = command.commands[arguments.split()[0]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", arguments.split(" -- ")[0])) <= known, (verb, arguments)


def test_every_exit_code_is_in_the_table() -> None:
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", REFERENCE, re.MULTILINE)} == {int(code) for code in Exit}


def test_every_route_is_in_the_table() -> None:
    routes: Any = create_app(_NoControl()).routes  # type: ignore[arg-type]
    table = " ".join(f"{row}{rest}" for row, rest in rows(REFERENCE).items() if row.startswith(("GET /", "POST /")))
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


@pytest.mark.parametrize(("model", "text"), [(HotreloadSettings, REFERENCE), (OvConf, SUMMARIES)])
def test_every_field_is_in_its_table_with_its_effect(model: type[BaseModel], text: str) -> None:
    from hotreload.config.settings import SettingsModel

    rules = SettingsModel(model)  # type: ignore[type-var]
    section = "hotreload." if model is HotreloadSettings else ""
    table = rows(text)
    for path in leaves(model):
        rule = rules.rule(tuple(f"{section}{path}".split(".")))
        cells = [cell.strip() for cell in table[path].split("|")]
        assert cells[2] == rule.effect.value, path
        assert not rule.secret or "secret" in cells[3], path


def test_every_metric_is_in_the_table_and_no_other() -> None:
    source = (ROOT / "hotreload/admin/metrics.py").read_text()
    whole, begun = (set(re.findall(rf'"(hotreload_\w+){end}', source)) for end in ('"', "\\{"))
    documented = {row.removesuffix("_total") for row in rows(REFERENCE) if row.startswith("hotreload_")}
    assert whole <= documented
    assert {name for name in documented - whole if not name.startswith(tuple(begun))} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text()
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", text):
        assert target.startswith("http") or (page.parent / target).exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", (page.parent / target).read_text(), re.MULTILINE)
            assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, anchor


def test_the_readme_leads_to_every_page() -> None:
    for page in PAGES[1:]:
        assert f"({page.relative_to(ROOT)}" in README


def test_console_blocks_are_only_where_a_test_types_them() -> None:
    assert {str(page.relative_to(ROOT)) for page in PAGES if "```console" in page.read_text()} == TYPED


def test_the_readme_stays_short() -> None:
    assert len(README.splitlines()) <= 220
