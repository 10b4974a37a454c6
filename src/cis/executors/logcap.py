"""The log file of one stream: made when there is something to keep, holds its first bytes, counts all that came.

When what came is remembered too, so that the lines of two streams can be read in the order in which they were written
(``write_times``, ``cis.engine.observe.growing``).

Used by a process that has to start fast as well (``cis.executors.log_keeper``), so nothing heavy is imported here.
"""

from __future__ import annotations

import errno
import os
import time

NOTHING = -1
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CONTINUATION = bytes(range(0x80, 0xC0))
MOST_MARKS = 256  # of when a stream was read; of more, every other one is forgotten
_APART_NS = 10_000_000

StrPath = str | os.PathLike[str]


class CappedLog:
    """A file of mode 0600 that keeps at most ``cap`` bytes of what is appended, and what CIS-DAG says about the rest.

    Whoever appends is never told of a full disk: what cannot be stored is ``lost``, ``trouble`` says why, and a line in
    the file says where. The end of the text, up to ``tail_bytes``, is kept in memory. The folder is made, mode 0700,
    with the file.
    """

    __slots__ = (
        "_cap",
        "_descriptor",
        "_dropped",
        "_last",
        "_noted",
        "_size",
        "_tail_bytes",
        "lost",
        "marks",
        "path",
        "trouble",
        "written",
    )

    def __init__(self, path: StrPath, *, cap: int, tail_bytes: int) -> None:
        self.path = path
        self._cap = cap
        self._tail_bytes = tail_bytes
        self._descriptor = NOTHING
        self._size = 0  # of the file
        self._last = b""
        self._dropped = 0
        self._noted = 0  # of what is lost, the bytes that the file tells of
        self.marks: list[tuple[int, int]] = []  # nanoseconds of the monotonic clock, and the file's size by then
        self.written = 0
        self.lost = 0
        self.trouble: OSError | None = None

    def make_sure(self) -> None:
        """Have the file open. Raises OSError, of which ``SHORTAGES`` pass."""
        if self._descriptor == NOTHING:
            self._descriptor = _made(self.path)

    def append(self, data: bytes | memoryview) -> None:
        """Keep what the cap leaves room for, and count the rest."""
        self.written += len(data)
        room = max(0, self._cap - self._size)
        if len(data) > room:
            self._dropped += len(data) - room
            data = data[:room]
        if data:
            end = bytes(data[-self._tail_bytes :])
            self._last = end if len(end) == self._tail_bytes else (self._last + end)[-self._tail_bytes :]
            self._store(data)
            self._mark(time.monotonic_ns())

    def finish(self) -> tuple[str, int]:
        """Return the tail of the text and the bytes that came, and close the file."""
        told = self.sum_up()
        self.close()
        return told

    def sum_up(self) -> tuple[str, int]:
        """Say in the file what was dropped so far, once; return the tail of the text and the bytes that came."""
        if self._dropped:
            note = f"\n[cis: cut at {self._cap} bytes (max_log); {self._dropped} more bytes were dropped]\n".encode()
            self._last = (self._last + note)[-self._tail_bytes :]
            self._write_note(note)
        elif self.lost > self._noted:
            self._write_note(self._gap())
        return tail_text(self._last, size=max(self._size, len(self._last))), self.written

    def close(self) -> None:
        """Close the file and leave it as it is."""
        if self._descriptor != NOTHING:
            os.close(self._descriptor)
            self._descriptor = NOTHING

    def _store(self, data: bytes | memoryview) -> None:
        left = memoryview(data)
        try:
            self.make_sure()
            if self.lost > self._noted:
                self._size += os.write(self._descriptor, self._gap())
                self._noted = self.lost
            while left:
                count = os.write(self._descriptor, left)
                self._size += count
                left = left[count:]
        except OSError as error:
            self.lost += len(left)
            self.trouble = error

    def _mark(self, now_ns: int) -> None:
        marks = self.marks
        if marks and now_ns - marks[-1][0] < _APART_NS:
            marks[-1] = (marks[-1][0], self._size)
            return
        marks.append((now_ns, self._size))
        if len(marks) > MOST_MARKS:
            del marks[:-1:2]  # the one that follows stands for it, too

    def _gap(self) -> bytes:
        why = self.trouble.strerror if self.trouble is not None else ""
        return f"\n[cis: {self.lost - self._noted} bytes are missing here: {why}]\n".encode()

    def _write_note(self, note: bytes) -> None:
        if self._descriptor == NOTHING:
            return
        try:
            self._size += os.write(self._descriptor, note)
            self._noted = self.lost
        except OSError:  # a full disk: the row still has both numbers
            return


def write_times(out: CappedLog, err: CappedLog) -> None:
    """Write beside the logs of an attempt when they were read, where their files' own times do not tell it.

    A line for each time, oldest first: the stream (``o``, ``e``), microseconds since 1970, the size of its file by then.
    """
    if len(out.marks) < 2 and len(err.marks) < 2:
        return
    ahead_ns = time.time_ns() - time.monotonic_ns()
    marks = sorted([(at, "o", size) for at, size in out.marks] + [(at, "e", size) for at, size in err.marks])
    text = "".join(f"{stream} {(at + ahead_ns) // 1000} {size}\n" for at, stream, size in marks)
    try:
        descriptor = _made(f"{os.path.splitext(out.path)[0]}.times")
    except OSError:  # the order of two streams is nothing to fail for
        return
    try:
        os.write(descriptor, text.encode())
    except OSError:
        pass
    finally:
        os.close(descriptor)


def tail_text(data: bytes, *, size: int) -> str:
    """Return *data*, the end of a text of *size* bytes, as text that says how much is before it."""
    if size <= len(data):
        return data.decode("utf-8", "replace")
    whole = data[:3].lstrip(_CONTINUATION) + data[3:]  # not from the middle of a character
    return f"[cis: {size - len(whole)} earlier bytes are in the log file]\n" + whole.decode("utf-8", "replace")


def tail_of_file(path: StrPath, *, tail_bytes: int) -> tuple[str, int]:
    """Return the tail of a log file that somebody else writes, and its size; nothing if it cannot be read."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - tail_bytes))
            return tail_text(file.read(tail_bytes), size=size), size
    except OSError:
        return "", 0


def _made(path: StrPath) -> int:
    """Return a new file at *path*, in place of what may lie there, and make its folder if that is what is missing."""
    try:
        return os.open(path, _FLAGS, 0o600)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path) or ".", 0o700, exist_ok=True)
    except FileExistsError:
        os.unlink(path)
    return os.open(path, _FLAGS, 0o600)
