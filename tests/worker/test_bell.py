"""Bells between processes: whoever rings is never harmed by what became of the listener."""

from __future__ import annotations

from pathlib import Path

import pytest

from cis.worker import bell as bells
from cis.worker.bell import FifoBell, bell_path, ring


def test_a_ring_is_heard_once_and_nobody_hears_it_after_the_listener_is_gone(tmp_path: Path) -> None:
    bell = FifoBell(bell_path(tmp_path, "w"))

    assert ring(tmp_path, "w")
    assert bell.drain()
    assert not bell.drain()
    bell.close()
    assert not ring(tmp_path, "w")


def test_a_listener_that_goes_away_while_it_is_rung_is_not_there_and_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bell, write = FifoBell(bell_path(tmp_path, "w")), bells._write

    def go_first(descriptor: int) -> None:
        bell.close()
        write(descriptor)

    monkeypatch.setattr(bells, "_write", go_first)

    assert not ring(tmp_path, "w")
