"""Fixtures of the acceptance tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.worlds.harness import Sandbox, make_sandbox


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """A home of its own, and the ``cis`` command that uses it."""
    return make_sandbox(tmp_path)
