"""What a task leaves at ``CIS_OUTPUT`` is taken without waiting and without going elsewhere, and does not stay."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cis.engine.outputs import take_outputs
from cis.errors import LaunchError


def test_outputs_are_taken_and_their_file_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "0.1.outputs"
    path.write_text("token=s3cret\n")

    assert take_outputs(str(path)) == {"token": "s3cret"}
    assert not path.exists()
    assert take_outputs(str(path)) == {}


def test_outputs_that_are_refused_do_not_stay_either(tmp_path: Path) -> None:
    path = tmp_path / "0.1.outputs"
    path.write_text("no value\n")

    with pytest.raises(LaunchError, match="line 1 is not name=value"):
        take_outputs(str(path))
    assert not path.exists()


@pytest.mark.timeout(20)
def test_a_fifo_that_nobody_writes_to_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(LaunchError, match="not a file any more"):
        take_outputs(str(tmp_path / "pipe"))
    assert not (tmp_path / "pipe").exists()


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="not a file any more"):
        take_outputs(str(tmp_path))


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("a=b\n")
    (tmp_path / "link").symlink_to(victim)

    with pytest.raises(LaunchError, match="cannot be read"):
        take_outputs(str(tmp_path / "link"))
    assert not (tmp_path / "link").is_symlink()
    assert victim.read_text() == "a=b\n"
