"""The homeserver of these tests: one for each worker of pytest-xdist."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.homeserver import Homeserver, running_homeserver


@pytest.fixture(scope="session")
def homeserver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Homeserver]:
    """Give the tests a running homeserver without limits; who restarts it leaves it running."""
    with running_homeserver(tmp_path_factory.mktemp("homeserver")) as homeserver:
        yield homeserver
