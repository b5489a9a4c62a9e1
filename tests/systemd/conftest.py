"""A fresh box with the service in it, once for each systemd."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.systemd import base
from tests.systemd.box import Box, booted
from tests.systemd.unit import Served

FULL = os.environ.get("SYSTEMD_TESTS", "") == "full"
"""Long times as an operator has them, and many repetitions; else the same in short."""


@pytest.fixture(scope="session")
def python() -> Iterator[base.Python]:
    """This interpreter, made fit for boxes."""
    if reason := base.missing():
        pytest.skip(reason)
    folder = base.scratch()
    yield base.build_python(folder / "hotreload")
    shutil.rmtree(folder)


@pytest.fixture(params=[pytest.param(release, id=f"systemd-{version}") for release, version in base.SYSTEMD.items()])
def box(request: pytest.FixtureRequest, python: base.Python) -> Iterator[Box]:
    """A machine just booted."""
    with booted(request.param, python) as made:
        yield made


@pytest.fixture
def served(box: Box) -> Served:
    """The service, not installed yet."""
    return Served(box)
