"""What a task leaves at ``CIS_OUTPUT`` is read without waiting, without going elsewhere, and is nobody else's to read."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from cis.engine.outputs import read_outputs
from cis.errors import LaunchError


def test_outputs_are_read_and_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "0.1.outputs"
    path.write_text("token=s3cret\n")
    path.chmod(0o644)

    assert read_outputs(str(path)) == {"token": "s3cret"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.timeout(20)
def test_a_fifo_that_nobody_writes_to_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(LaunchError, match="no file any more"):
        read_outputs(str(tmp_path / "pipe"))


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="no file any more"):
        read_outputs(str(tmp_path))


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("a=b\n")
    victim.chmod(0o644)
    (tmp_path / "link").symlink_to(victim)

    with pytest.raises(LaunchError, match="cannot be read"):
        read_outputs(str(tmp_path / "link"))
    assert stat.S_IMODE(victim.stat().st_mode) == 0o644
