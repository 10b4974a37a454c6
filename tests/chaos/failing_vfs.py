"""A VFS whose disk fails when it is told to: full, broken or refusing to be written, at a seeded share of what is asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

import apsw

NAME = "failing"
SYSTEM = "unix"
FAULTS = (apsw.FullError, apsw.IOError, apsw.ReadOnlyError)


class FailingDisk(apsw.VFS):
    """Does as the system's VFS does, but for a share *odds* of all calls, which raise *fault* instead."""

    def __init__(self, random: Random) -> None:
        super().__init__(NAME, SYSTEM)
        self._random = random
        self.odds = 0.0
        self.fault: type[apsw.Error] = apsw.IOError
        self.failures = 0

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        self.maybe_fail(apsw.CantOpenError)
        return _FailingFile(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802, FBT001 - SQLite's names
        self.maybe_fail(apsw.IOError)
        super().xDelete(filename, syncdir)

    def maybe_fail(self, fault: type[apsw.Error] | None = None) -> None:
        """Raise what fails now, if the seed says so."""
        if self._random.random() < self.odds:
            self.failures += 1
            raise (fault or self.fault)("as the test wants it")


class _FailingFile(apsw.VFSFile):
    def __init__(self, disk: FailingDisk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__(SYSTEM, name, flags)
        self._disk = disk

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        self._disk.maybe_fail(apsw.IOError)
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes | bytearray | memoryview, offset: int) -> None:  # noqa: N802
        self._disk.maybe_fail()
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        self._disk.maybe_fail(apsw.IOError)
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.maybe_fail(apsw.IOError)
        super().xSync(flags)


@contextmanager
def failing_disk(random: Random) -> Iterator[FailingDisk]:
    """Have every database that this process opens lie on a failing disk, until the block ends."""
    disk = FailingDisk(random)
    apsw.set_default_vfs(NAME)
    try:
        yield disk
    finally:
        disk.odds = 0.0
        apsw.set_default_vfs(SYSTEM)
        disk.unregister()
