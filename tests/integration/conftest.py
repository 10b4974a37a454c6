"""Fixtures of the integration tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.serving import NodeUnderTest, node_under_test
from tests.migrated import new_database


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeUnderTest]:
    """Give the test a node without workers, behind the real API."""
    with node_under_test(tmp_path) as node:
        yield node


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Where the writer's store is."""
    return new_database(tmp_path)
