"""A log file as it grows, and when what was written: the file that lies beside an attempt's logs once it is over."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from cis.engine.observe.logtext import LogStream

MAX_TIMES_BYTES = 2**16
_MAX_HELD = 8192
_STREAMS = {"o": LogStream.OUTPUT, "e": LogStream.ERROR}


class Written(NamedTuple):
    """Up to its byte *end*, a log was there at a time."""

    stream: LogStream
    at_us: int
    end: int


def read_times(path: Path) -> Sequence[Written]:
    """Return what was written when, oldest first; nothing where that was not noted, or cannot be read."""
    try:
        with path.open("rb") as file:
            lines = file.read(MAX_TIMES_BYTES).decode("ascii").splitlines()
        return [Written(_STREAMS[name], int(at_us), int(end)) for name, at_us, end in (line.split() for line in lines)]
    except (OSError, ValueError, KeyError):
        return ()


class GrowingText:
    """A file that is read as it grows; ``written_us`` is when it was written last, when that was looked for last."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.written_us = 0
        self.found = False
        self.removed = False
        self.finished = False

    def look(self) -> int:
        """Return when the file was written last; a file that is not there was not."""
        with suppress(OSError):
            self.written_us = self._path.stat().st_mtime_ns // 1000
        return self.written_us

    def read(self, at_most: int, *, last: bool) -> tuple[int, str]:
        """Return how many bytes were read, and the text to tell: whole lines, until one gets too long or rests."""
        data = self._bytes(at_most)
        text = self._held + self._decoder.decode(data, last and not data)
        self._held = ""
        if last and not data:
            self.finished = True
        if data:
            cut = text.rfind("\n") + 1
            if len(text) - cut <= _MAX_HELD:
                text, self._held = text[:cut], text[cut:]
        return len(data), text

    def _bytes(self, at_most: int) -> bytes:
        try:
            with self._path.open("rb", buffering=0) as file:
                size = file.seek(0, 2)
                self.found |= size > 0
                file.seek(self.offset)
                data = file.read(at_most)
        except OSError:
            self.removed = self.found
            return b""
        self.offset += len(data)
        return data
