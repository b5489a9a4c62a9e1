"""A fresh box with the service in it, once for each systemd and where it matters for each manager.

HOTRELOAD_ALL_MANAGERS=1 runs what holds for both managers under both on each systemd; without it, the user's is that of
the newest one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.systemd import base
from tests.systemd.box import Box, booted
from tests.systemd.unit import Manager, Served, UserManager

NEWEST = max(base.SYSTEMD, key=base.SYSTEMD.__getitem__)
BOXES = [pytest.param(release, id=f"systemd-{version}") for release, version in base.SYSTEMD.items()]
ALL_MANAGERS = bool(os.environ.get("HOTRELOAD_ALL_MANAGERS"))
BOTH_MANAGERS = pytest.mark.parametrize(
    ("box", "manager"),
    [
        pytest.param(release, kind, id=f"systemd-{version}-{name}")
        for release, version in base.SYSTEMD.items()
        for kind, name in ((Manager, "system"), (UserManager, "user"))
        if kind is Manager or release == NEWEST or ALL_MANAGERS
    ],
    indirect=True,
)
"""For tests that hold under a user's own manager as well."""


GUARD_S = 300
"""When a test is taken for one that hangs, unless it says so itself: machines in a machine take their time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests of this folder take longer than others."""
    for item in items:
        if item.path.parent == Path(__file__).parent and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(GUARD_S))


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> base.Python:
    """This interpreter, made fit for boxes; once for all processes of a test run."""
    if os.geteuid() != 0:
        pytest.skip(base.NOT_ROOT)
    assert not base.lacking(), f"not installed: {', '.join(base.lacking())}"
    own = tmp_path_factory.getbasetemp()
    return base.shared_python(own.parent if "PYTEST_XDIST_WORKER" in os.environ else own)


@pytest.fixture(params=BOXES)
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
