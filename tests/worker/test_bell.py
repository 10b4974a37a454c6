"""Bells between processes: whoever rings is never harmed by what became of the listener."""

from __future__ import annotations

from pathlib import Path

import pytest

from cis.worker import bell as bells
from cis.worker.bell import WATCHING, FifoBell, WatchBell, bell_path, ring, ring_watchers


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


def test_who_watches_is_woken_by_what_is_stored_and_what_a_killed_one_left_is_removed(tmp_path: Path) -> None:
    left = FifoBell(bell_path(tmp_path, "left"))
    left.close()
    with WatchBell(tmp_path, "me") as bell:
        bell_path(tmp_path, "left").rename(bell_path(tmp_path / WATCHING, "left"))
        ring_watchers(tmp_path)
        bell.wait(60)

        assert [path.name for path in (tmp_path / WATCHING).iterdir()] == ["me.wake"]
    assert list((tmp_path / WATCHING).iterdir()) == []


def test_who_can_make_no_bell_only_waits_a_moment(tmp_path: Path) -> None:
    with WatchBell(tmp_path / "nowhere", "me") as bell:
        bell.wait(60)

        ring_watchers(tmp_path / "nowhere")
