"""A VFS between SQLite and the system that writes down all that is done to files, for ``tests.chaos.power_cut``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from random import Random

import apsw

NAME = "recording"
SYSTEM = "unix"
_JOURNALS = apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL


class Kind(StrEnum):
    """What may be done to a file."""

    CREATE = "create"
    WRITE = "write"
    TRUNCATE = "truncate"
    SYNC = "sync"
    SYNC_FOLDER = "sync folder"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that was done to a file; *at* is an offset, or a new size."""

    kind: Kind
    file: str
    at: int = 0
    data: bytes = b""


class Recorder(apsw.VFS):
    """A VFS that does as the system's does, and writes down what it did."""

    def __init__(self, random: Random) -> None:
        super().__init__(NAME, SYSTEM)
        self.operations: list[Operation] = []
        self._random = random

    def xRandomness(self, numbytes: int) -> bytes:  # noqa: N802 - SQLite's name
        """Give SQLite what a seed says, so that the same work makes the same trace."""
        return self._random.randbytes(numbytes)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        return _RecordedFile(self, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802, FBT001 - SQLite's names
        super().xDelete(filename, syncdir)
        self.note(Kind.DELETE, filename)
        if syncdir:
            self.note(Kind.SYNC_FOLDER, filename)

    def note(self, kind: Kind, path: str, at: int = 0, data: bytes = b"") -> None:
        """Write down what was just done."""
        self.operations.append(Operation(kind, Path(path).name, at, data))


class _RecordedFile(apsw.VFSFile):
    """A file of the system's; what has no name is gone with its process, and is not written down."""

    def __init__(self, recorder: Recorder, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._recorder = recorder
        self._path = name.filename() if isinstance(name, apsw.URIFilename) else name
        fresh = self._path is not None and not (Path(self._path).exists() and Path(self._path).stat().st_size)
        super().__init__(SYSTEM, name, flags)
        # SQLite's own VFS syncs the folder with the first sync of a journal that this handle may have made.
        self._syncs_folder = bool(flags[0] & _JOURNALS and flags[0] & apsw.SQLITE_OPEN_CREATE)
        if fresh:
            self._note(Kind.CREATE)

    def xWrite(self, data: bytes | bytearray | memoryview, offset: int) -> None:  # noqa: N802
        super().xWrite(data, offset)
        self._note(Kind.WRITE, offset, bytes(data))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        super().xTruncate(newsize)
        self._note(Kind.TRUNCATE, newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        super().xSync(flags)
        self._note(Kind.SYNC)
        if self._syncs_folder:
            self._note(Kind.SYNC_FOLDER)
            self._syncs_folder = False

    def _note(self, kind: Kind, at: int = 0, data: bytes = b"") -> None:
        if self._path is not None:
            self._recorder.note(kind, self._path, at, data)


@contextmanager
def recording(random: Random) -> Iterator[Recorder]:
    """Have every database that this process opens written down, until the block ends."""
    recorder = Recorder(random)
    apsw.set_default_vfs(NAME)
    apsw.randomness(0)  # ask the VFS again
    try:
        yield recorder
    finally:
        apsw.set_default_vfs(SYSTEM)
        recorder.unregister()
        apsw.randomness(0)
