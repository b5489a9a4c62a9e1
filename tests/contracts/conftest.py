"""A fresh store of every engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .stores import ENGINES, HandClock, Postgres, Store


@pytest.fixture(params=sorted(ENGINES))
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    found = Store(ENGINES[request.param], tmp_path / "state" / "queue.db", HandClock())
    yield found
    if found.opened is not None:
        assert found.opened.close()
        assert found.engine.sound(found.path)


@pytest.fixture
def queue(store: Store) -> Any:
    return store.open()


@pytest.fixture
def dsn(tmp_path: Path) -> str:
    """The address of an empty schema of the server that the tests share."""
    engine = ENGINES["postgres"]
    assert isinstance(engine, Postgres)
    return engine.address(tmp_path)
