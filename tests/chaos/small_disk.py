"""A disk so small that it can be filled, and a real node's files kept from growing where there is none."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

FILLER = "filler"


@contextmanager
def small_disk(folder: Path, *, mib: int) -> Iterator[Path]:
    """Mount a disk in memory; where this user may not, skip the test loudly."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "cis-small-disk", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a small disk takes root: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path, *, leave: int = 0) -> None:
    """Fill a disk but for *leave* bytes."""
    with (disk / FILLER).open("wb", buffering=0) as file, suppress(OSError):
        while (free := _free(disk)) > leave or not leave:
            file.write(bytes(max(4096, (free - leave) // 2)))


def _free(disk: Path) -> int:
    room = os.statvfs(disk)
    return room.f_bavail * room.f_frsize


def make_room(disk: Path) -> None:
    """Give back what ``fill`` took."""
    (disk / FILLER).unlink()


def remount(disk: Path, how: str) -> None:
    """Make a disk read-only (``ro``) or writable again (``rw``)."""
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def limit_files(pid: int, limit: int) -> None:
    """Keep the files of a process and all that it started from growing beyond *limit* bytes; -1 is no limit."""
    if sys.platform != "linux":
        pytest.skip("only Linux sets the limits of another process")
    for each in family(pid):
        with suppress(ProcessLookupError):
            _, hard = resource.prlimit(each, resource.RLIMIT_FSIZE)
            resource.prlimit(each, resource.RLIMIT_FSIZE, (limit, hard))


def family(pid: int) -> list[int]:
    """Return a process and all that came from it and is still under it."""
    found = [pid]
    for each in found:
        with suppress(OSError):
            for children in Path(f"/proc/{each}/task").glob("*/children"):
                found += [int(child) for child in children.read_text().split()]
    return found
