"""What the pages show, mypy --strict and basedpyright accept; what a user types wrongly, they find."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.process.running import ROOT

GIVEN = """
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Protocol

from fastapi import FastAPI
from pydantic import BaseModel, Field

from hotreload import AsyncClient, Client as HotreloadClient, DeadJob, Job, Live, LiveSettings
from hotreload import Missing, PassedOver, Prepared, Present, Service, SyncJob, Transition


class Text(BaseModel):
    path: Path

class Document(BaseModel):
    path: str
    id: str = ""

class Page(BaseModel):
    number: int

class Place(BaseModel):
    page: int

class Letter(BaseModel):
    to: str

class Vlm(BaseModel):
    api_base: Annotated[str, Live] = ""
    max_concurrent: Annotated[int, Live] = 4
    max_calls: Annotated[int, Live] = 4
    calls_per_minute: Annotated[int, Live] = 60
    timeout_s: Annotated[float, Live] = 60.0

class OvConf(LiveSettings):
    vlm: Vlm = Vlm()

class Client:
    def __init__(self, vlm: Vlm) -> None: ...
    async def __aenter__(self) -> "Client":
        return self
    async def __aexit__(self, *_: object) -> None: ...

FakeClient = object
path = Path("a.txt")
documents: Any = ()
missing: Any = None

def from_v1(payload: Any, version: int) -> Any: ...
"""
"""What the blocks of a page take for granted."""
SETTINGS = """
class Settings(LiveSettings):
    greeting: Annotated[str, Live] = "Hello"
    max_concurrent: Annotated[int, Live] = 2

service = Service("example", settings=Settings)
app = FastAPI()
"""
CONF = 'service = Service("example", settings=OvConf)\n'
PAGES = ["README.md", "examples/quickstart/README.md", "examples/fastapi/README.md", "examples/summaries/README.md"]
HANDLERS = {
    "count,": '@service.worker("count", limit=1)\nasync def count(job: Job[Text], conf: Settings) -> None: ...\n',
    "summarise.": '@service.worker("s", limit=1)\nasync def summarise(job: Job[Document], conf: OvConf) -> str: ...\n',
}


def program(page: str) -> str:
    """Return a module with every block of a page, each in a function of its own."""
    parts = [GIVEN]
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)):
        given = CONF if "OvConf" in block else "" if "class Settings" in block else SETTINGS
        given += "".join(handler for name, handler in HANDLERS.items() if name in block)
        body = (given + block).replace('Client("summaries")', 'HotreloadClient("summaries")')
        body = re.sub(r": \.\.\.(?= |$)", ": raise NotImplementedError", body, flags=re.MULTILINE)
        parts.append(f"async def block_{number}() -> None:\n{textwrap.indent(body, '    ')}")
    return "\n\n".join(parts)


SAMPLE = ROOT / "tests/typed/handles.py"
CHECKERS = {
    "mypy": ["--strict", "--output", "json"],
    "basedpyright": ["--outputjson", "--level", "error", "--pythonpath", sys.executable],
}


def found(checker: str, said: str) -> list[tuple[str, int, str]]:
    """Return file, line and text of each error."""
    if checker == "mypy":
        told = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        return [(each["file"], each["line"], each["message"]) for each in told if each["severity"] == "error"]
    return [
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1, each["message"])
        for each in json.loads(said)["generalDiagnostics"]
    ]


@pytest.mark.parametrize("checker", CHECKERS)
def test_the_code_of_the_pages_is_typed_and_each_wrong_line_of_a_sample_is_found(tmp_path: Path, checker: str) -> None:
    """One run of each checker over both: it takes longest to read what they import."""
    names = [f"page_{number}.py" for number in range(len(PAGES))]
    for name, page in zip(names, PAGES, strict=True):
        (tmp_path / name).write_text(program(page))
    shutil.copy(SAMPLE, tmp_path)
    settings = f'[tool.basedpyright]\nextraPaths = ["{ROOT}"]\nreportUnusedFunction = false\n'
    (tmp_path / "pyproject.toml").write_text(settings)
    command = [sys.executable, "-m", checker, *CHECKERS[checker], *names, SAMPLE.name]
    where = {**os.environ, "MYPYPATH": str(ROOT), "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache")}
    done = subprocess.run(command, cwd=tmp_path, env=where, capture_output=True, text=True, check=False)
    wrong = {number for number, line in enumerate(SAMPLE.read_text().splitlines(), 1) if line.endswith("# wrong")}
    errors = found(checker, done.stdout)
    assert [error for error in errors if error[0] != SAMPLE.name] == [], done.stderr
    assert {line for _, line, _ in errors} == wrong
