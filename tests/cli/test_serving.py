"""A node that cannot listen says why, and how it could."""

from __future__ import annotations

import pytest

from cis.cli.node_start import listen
from cis.errors import ConflictError


def test_a_port_that_is_taken_is_said_to_be_and_not_that_a_lock_is_held() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(ConflictError, match=r"another process listens on .*--port"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_an_address_of_another_machine_is_named_with_the_mend() -> None:
    with pytest.raises(ConflictError, match=r"cannot listen on 192\.0\.2\.1:6767: .*--host"):
        listen("192.0.2.1", 6767)
