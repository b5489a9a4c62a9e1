"""What the tests of whole processes share."""

from __future__ import annotations

import pytest

from tests.contracts.postgres import Server


@pytest.fixture(scope="module")
def server(own_server: Server) -> Server:
    """A PostgreSQL of one module alone."""
    return own_server
