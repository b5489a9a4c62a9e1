"""A model endpoint on loopback and a home for servers that use it."""

import importlib.util
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ov_forked import warm_interpreter
from ov_home import REPOSITORY, Home

EXAMPLES = REPOSITORY / "examples" / "openviking"


def load_example(name: str) -> ModuleType:
    """Import a script of the example folder as a module."""
    full = f"openviking_example_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The address of the interpreter that forks servers."""
    with warm_interpreter(tmp_path_factory.mktemp("warm")) as address:
        yield address


@pytest.fixture
async def model() -> AsyncIterator[Any]:
    """A model endpoint in this event loop: `.set(...)`, `.reset()`, `.gauges`; `.url` is its address."""
    async with load_example("endpoint").serving() as (endpoint, url):
        endpoint.url = url
        yield endpoint


@pytest.fixture
def home(tmp_path: Path, model: Any, warm: Path) -> Home:
    """A folder with an ov.conf whose models are the endpoint's."""
    made = Home(tmp_path, model.url, warm)
    made.write()
    return made
