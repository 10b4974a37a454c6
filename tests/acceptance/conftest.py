"""Fixtures of the acceptance tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.harness import Sandbox, make_sandbox
from tests.homeserver import Homeserver, running_homeserver


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    """A home of its own, and the ``cis`` command that uses it."""
    return make_sandbox(tmp_path)


@pytest.fixture(scope="module")
def homeserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Homeserver]:
    """Give the tests of a file a homeserver."""
    with running_homeserver(tmp_path_factory.mktemp("homeserver")) as homeserver:
        yield homeserver
