"""A command at a pseudo-terminal of a given size, and what it draws there."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Mapping
from contextlib import suppress

CLEAR = "\x1b[2J"
HOME = "\x1b[H"
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class Terminal:
    """Runs ``cis`` with a terminal as its three streams; a thread takes what it writes there."""

    def __init__(self, *arguments: str, env: Mapping[str, str], columns: int, lines: int = 24) -> None:
        self.columns, self.lines = columns, lines
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cis", *arguments],
            env={**env, "TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self._data = b""
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    @property
    def raw(self) -> str:
        """What was written so far."""
        return self._data.decode()

    def frames(self) -> list[list[str]]:
        """Return the lines of each screen that was drawn so far, without colours; the last may not be whole."""
        return [text_lines(frame) for frame in self.raw.split(HOME)[1:]]

    def finished(self) -> list[str]:
        """Wait for the end, and return the lines of the last page, without colours."""
        self.process.wait(60)
        self._thread.join(10)
        os.close(self._ours)
        return text_lines(self.raw.rpartition(CLEAR)[2])

    def _take(self) -> None:
        with suppress(OSError):  # nobody has the terminal any more
            while data := os.read(self._ours, 1 << 16):
                self._data += data


def text_lines(text: str) -> list[str]:
    """Return lines as they look, without what moves or colours."""
    return _CONTROL.sub("", text).replace("\r", "").rstrip("\n").split("\n")
