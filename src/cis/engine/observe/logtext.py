"""Pieces of logs, and how people read them: in blocks, each under a heading that names its task.

The command line, the plain text of the API and the room all show logs in this one way.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class LogStream(StrEnum):
    """Where a piece of text comes from; a ``note`` is what CIS-DAG has to say about the attempt."""

    OUTPUT = "output"
    ERROR = "error"
    NOTE = "note"


class LogPiece(NamedTuple):
    """Some text of one attempt. It ends with a line where it can; a line may still come in several pieces.

    ``attempt`` is 0 for a task that had none. ``at_us`` is when the file was last written to before it was read: the
    text is no younger. ``several``: the task is known to have other attempts.
    """

    task_id: str
    attempt: int
    stream: LogStream
    text: str
    at_us: int = 0
    several: bool = False


def heading(task_id: str, attempt: int, stream: LogStream | None = None) -> str:
    """Return the line over a block of a log; 0 stands for an attempt that is not to be named."""
    parts = [task_id, f"attempt {attempt}" if attempt else "", str(stream or "")]
    return f"==> {', '.join(part for part in parts if part)} <=="


def stamp(at_us: int) -> str:
    """Return a time in this machine's zone, to the millisecond, as RFC 3339 has it."""
    from datetime import UTC, datetime  # noqa: PLC0415 - only for those who want times

    from cis.engine.times import local  # noqa: PLC0415 - as above

    text = local(datetime.fromtimestamp(at_us / 1e6, UTC)).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


class LogText:
    """Turns the pieces that one reader gets into text.

    A heading stands over each block of another task or attempt, and, with *streams*, of another stream; an attempt is
    named where there are several. Of *alone*, the only task that is asked for, the first block has none. With *stamps*
    each line begins with its time.
    """

    def __init__(self, *, alone: str | None, streams: bool = False, stamps: bool = False) -> None:
        self._alone = alone
        self._streams = streams
        self._stamps = stamps
        self._block: tuple[str, int, LogStream | None] | None = None
        self._at_line_start = True

    def text(self, piece: LogPiece) -> str:
        """Return a piece as it is to be written after those before it."""
        head = self._heading(piece)
        if head and not self._at_line_start:
            head = f"\n{head}"
        text = piece.text
        if self._stamps and text:
            text = self._stamped(text, stamp(piece.at_us), anew=bool(head) or self._at_line_start)
        if text:
            self._at_line_start = text.endswith("\n")
        return head + text

    def _heading(self, piece: LogPiece) -> str:
        block = (piece.task_id, piece.attempt, piece.stream if self._streams else None)
        first, self._block, before = self._block is None, block, self._block
        if block == before or (first and piece.task_id == self._alone and not piece.several):
            return ""
        named = piece.attempt if self._streams or piece.several else 0
        return heading(piece.task_id, named, block[2]) + "\n"

    def _stamped(self, text: str, at: str, *, anew: bool) -> str:
        whole, end = (text[:-1], "\n") if text.endswith("\n") else (text, "")
        return (f"{at} " if anew else "") + whole.replace("\n", f"\n{at} ") + end
