"""A fresh box with the service in it, once for each systemd and where it matters for each manager."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator

import pytest

from tests.systemd import base
from tests.systemd.box import Box, booted
from tests.systemd.unit import Manager, Served, UserManager

BOTH_MANAGERS = pytest.mark.parametrize("manager", [Manager, UserManager], indirect=True, ids=["system", "user"])
"""For tests that hold under a user's own manager as well."""


@pytest.fixture(scope="session")
def python() -> Iterator[base.Python]:
    """This interpreter, made fit for boxes."""
    if os.geteuid() != 0:
        pytest.skip(base.NOT_ROOT)
    assert not base.lacking(), f"not installed: {', '.join(base.lacking())}"
    folder = base.scratch()
    yield base.build_python(folder / "hotreload")
    shutil.rmtree(folder)


@pytest.fixture(params=[pytest.param(release, id=f"systemd-{version}") for release, version in base.SYSTEMD.items()])
def box(request: pytest.FixtureRequest, python: base.Python) -> Iterator[Box]:
    """A machine just booted."""
    with booted(request.param, python) as made:
        yield made


@pytest.fixture
def manager(request: pytest.FixtureRequest, box: Box) -> Manager:
    """The system's manager, or where a test asks for both a user's."""
    kind: type[Manager] = getattr(request, "param", Manager)
    return kind(box)


@pytest.fixture
def served(manager: Manager) -> Served:
    """The service, not installed yet."""
    return Served(manager)
