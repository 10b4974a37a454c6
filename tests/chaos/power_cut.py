"""A disk that forgets what was not synced: what a power cut at a moment of a recorded trace may leave behind.

The work is done once (``tests.chaos.cutting_vfs``); from its trace, cuts are made as often as one likes. What was
synced is there. Of what was not: nothing, all of it, any part of it in any order, or pieces of pages (sectors of 512 bytes)
with noise where a sector was being written. Names are no better: a file made or deleted since its folder
was synced may be there or not. The shared memory (``-shm``) is memory, and gone. The model of SQLite's own crash
tests (https://sqlite.org/testing.html, 4.2) and of "Atomic Commit In SQLite".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from random import Random

from tests.chaos.cutting_vfs import Kind, Operation

SECTOR = 512


class Fate(StrEnum):
    """What becomes of the writes that were not synced."""

    LOST = "lost"
    KEPT = "kept"
    SOME = "some"
    TORN = "torn"


@dataclass(slots=True)
class _File:
    durable: bytearray = field(default_factory=bytearray)
    pending: list[Operation] = field(default_factory=list)
    named: bool = False  # its name is on disk, too


class Disk:
    """Takes in a trace, operation by operation. One that *lies* says that it has synced, and has not."""

    def __init__(self, *, lies: bool = False) -> None:
        self._lies = lies
        self._files: dict[str, _File] = {}
        self._deleted: dict[str, _File] = {}  # whose deletion is not on disk yet

    def take(self, operation: Operation) -> None:
        """Do to this disk what was done to the real one."""
        file = self._files.setdefault(operation.file, _File())
        match operation.kind:
            case Kind.CREATE:
                self._files[operation.file] = file
            case Kind.WRITE | Kind.TRUNCATE:
                file.pending.append(operation)
            case Kind.SYNC if not self._lies:
                _apply(file.durable, file.pending)
                file.pending.clear()
            case Kind.SYNC_FOLDER:
                self._deleted.clear()
                for each in self._files.values():
                    each.named = True
            case Kind.DELETE:
                del self._files[operation.file]
                if file.named:
                    self._deleted[operation.file] = file

    def after_cut(self, random: Random, fate: Fate) -> dict[str, bytes]:
        """Return the files, by name, that are there when the power is back."""
        found = {}
        for name, file in self._files.items():
            if file.named or _happens(random, fate):
                found[name] = _survivor(file, random, fate)
        for name, file in self._deleted.items():
            if name not in found and not _happens(random, fate):
                found[name] = _survivor(file, random, fate)
        return found


def write_image(folder: Path, image: dict[str, bytes]) -> None:
    """Put the files of an image into a folder, in place of what is there."""
    for old in folder.glob("cis.db*"):
        old.unlink()
    for name, content in image.items():
        (folder / name).write_bytes(content)


def _happens(random: Random, fate: Fate) -> bool:
    """Whether a change of a name that was not synced is on disk."""
    return fate is Fate.KEPT or (fate is not Fate.LOST and random.random() < 0.5)


def _survivor(file: _File, random: Random, fate: Fate) -> bytes:
    content = bytearray(file.durable)
    match fate:
        case Fate.LOST:
            pass
        case Fate.KEPT:
            _apply(content, file.pending)
        case Fate.SOME:
            odds = random.random()
            _apply(content, (one for one in file.pending if random.random() < odds))
        case Fate.TORN:
            odds = random.random()
            for one in file.pending:
                _apply(content, [one] if random.random() < odds else _torn(one, random))
    return bytes(content)


def _torn(one: Operation, random: Random) -> Iterable[Operation]:
    """Yield the sectors of a write that came to the disk; one of them may be noise."""
    if one.kind is not Kind.WRITE:
        return
    noisy = random.random() < 0.1
    start = 0
    while start < len(one.data):
        end = min(len(one.data), start + SECTOR - (one.at + start) % SECTOR)
        if random.random() < 0.5:
            piece = random.randbytes(end - start) if noisy and random.random() < 0.2 else one.data[start:end]
            yield Operation(Kind.WRITE, one.file, one.at + start, piece)
        start = end


def _apply(content: bytearray, operations: Iterable[Operation]) -> None:
    for one in operations:
        if one.kind is Kind.TRUNCATE:
            del content[one.at :]
            content.extend(bytes(one.at - len(content)))
        else:
            content.extend(bytes(max(0, one.at - len(content))))
            content[one.at : one.at + len(one.data)] = one.data
