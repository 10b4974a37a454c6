"""Fixtures of the integration tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cis.store.sqlite.store import open_sqlite
from tests.integration.serving import NodeUnderTest, node_under_test


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeUnderTest]:
    """Give the test a node without workers, behind the real API."""
    with node_under_test(tmp_path) as node:
        yield node


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Where the writer's store is."""
    open_sqlite(tmp_path / "cis.db").close()
    return tmp_path / "cis.db"
