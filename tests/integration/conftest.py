"""Fixtures of the integration tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.serving import NodeUnderTest, node_under_test


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeUnderTest]:
    """Give the test a node without workers, behind the real API."""
    with node_under_test(tmp_path) as node:
        yield node
