"""Small private files are whole or not there, also where there is no room for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from cis.node.identity import replace_file, write_once

WRITER = """
import resource, sys
from pathlib import Path
from cis.node.identity import replace_file
resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
try:
    replace_file(Path(sys.argv[1]), b"x" * 44)
except OSError as error:
    print(error)
"""


def test_a_file_that_finds_room_for_a_part_of_it_alone_leaves_the_old_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "token"
    assert write_once(path, b"old")
    said = subprocess.run([sys.executable, "-c", WRITER, str(path)], capture_output=True, text=True, check=True).stdout

    assert str(path) in said
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_private_file_is_replaced_whole_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "token"
    replace_file(path, b"one")
    replace_file(path, b"two")

    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert not write_once(path, b"three")
    assert list(tmp_path.iterdir()) == [path]
