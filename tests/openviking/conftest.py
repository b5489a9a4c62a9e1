"""A model endpoint on loopback and a home for servers that use it."""

import importlib.util
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ov_forked import warm_interpreter
from ov_home import REPOSITORY, UNWATCHED, Home
from ov_process import Server, running, wait_until

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


@pytest.fixture(scope="module")
async def shared_model() -> AsyncIterator[Any]:
    """One model endpoint for the tests of a module that share a server."""
    async with load_example("endpoint").serving() as (endpoint, url):
        endpoint.url = url
        yield endpoint


@pytest.fixture(scope="module")
async def running_server(
    shared_model: Any, warm: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Server]:
    """One server for the tests of a module that need no start or end of their own."""
    home = Home(tmp_path_factory.mktemp("shared"), shared_model.url, warm)
    home.write()
    async with running(home, home.ours) as server:
        yield server


@pytest.fixture
async def server(running_server: Server, shared_model: Any) -> AsyncIterator[Server]:
    """That server at rest: with the settings it began with, unwatched, and, afterwards, with nothing to do."""
    running_server.home.write(UNWATCHED)
    (await running_server.admin("POST", "config/reload")).raise_for_status()
    shared_model.reset()
    yield running_server
    shared_model.recover()
    await wait_until(running_server.idle, 60, "empty queues")
