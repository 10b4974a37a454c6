"""The process between a task and its two log files, where the task was given secrets or may outlive its attempt.

    standard input    what to show as ``***`` (``cis.model.secret_forms``), a line each, then an empty line: never in arguments or environment
    arguments         the descriptors of two pipes, which the task writes to; the most that a log may keep, and a tail; the two log files
    standard output   at the end, or as soon as standard input ends, once: what the task wrote so far (``told``)

It ends when nobody can write into the pipes any more; until then it masks, and keeps to the cap. Run by its path,
without ``site`` and the packages that are installed, so that it starts in some 15 ms.
"""

from __future__ import annotations

import os
import select
import sys

# At the end: nothing that lies beside this package may stand in for the standard library.
sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from cis.executors.logcap import CappedLog, write_times
from cis.model.masking import Masker

PIECE_BYTES = 1 << 16
MOST_AT_ONCE = 16
IDLE_MS = 200
_ASKED = 0
_ANSWER = 1


class _Stream:
    """One stream of the task, on its way from a pipe into a log."""

    def __init__(self, pipe: int, log: CappedLog, needles: list[bytes]) -> None:
        self.pipe = pipe
        self._over = False
        self.log = log
        self._masker = Masker(needles)
        os.set_blocking(pipe, False)

    def over(self) -> bool:
        """Whether nobody can write any more."""
        return self._over

    def restless(self) -> bool:
        """Whether ``idle`` would let go of something."""
        return self._masker.restless

    def idle(self) -> None:
        """Let go of a single character that was held back."""
        self.log.append(self._masker.idle())

    def pass_on(self) -> bool:
        """Pass on a piece; return whether there may be more now."""
        try:
            data = os.read(self.pipe, PIECE_BYTES)
        except BlockingIOError:
            return False
        if data:
            self.log.append(self._masker.feed(data))
            return True
        self._over = True
        os.close(self.pipe)
        self.log.append(self._masker.close())
        return False

    def sum_up(self) -> tuple[bytes, int]:
        """Return the tail of what was passed on, and its size."""
        tail, size = self.log.sum_up()
        return tail.encode(), size


def main() -> int:
    """Pass on what comes until both pipes are at their end; return the exit status."""
    needles = _needles()
    if needles is None:
        return 1
    pipes, cap, tail_bytes, paths = sys.argv[1:3], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:7]
    streams = [
        _Stream(int(pipe), CappedLog(path, cap=cap, tail_bytes=tail_bytes), needles)
        for pipe, path in zip(pipes, paths, strict=True)
    ]
    poll = select.poll()
    for descriptor in (_ASKED, *(stream.pipe for stream in streams)):
        poll.register(descriptor, select.POLLIN)
    answered = False
    while not all(stream.over() for stream in streams):
        restless = any(stream.restless() for stream in streams)
        ready = [descriptor for descriptor, _ in poll.poll(IDLE_MS if restless else None)]
        for stream in streams:
            if not ready:
                stream.idle()
            if stream.pipe in ready:
                _pass_on(stream, poll, pieces=1)
        if _ASKED in ready:
            poll.unregister(_ASKED)
            for stream in streams:
                _pass_on(stream, poll, pieces=MOST_AT_ONCE)
            _answer(streams)
            answered = True
    if not answered:
        _answer(streams)
    return 0


def _pass_on(stream: _Stream, poll: select.poll, *, pieces: int) -> None:
    """Pass on what is in the pipe now, which is bounded though somebody may write on."""
    if stream.over():
        return
    for _ in range(pieces):
        if not stream.pass_on():
            break
    if stream.over():
        poll.unregister(stream.pipe)


def _needles() -> list[bytes] | None:
    """Return what to mask; None if whoever started this process is gone before all was said."""
    needles: list[bytes] = []
    for line in sys.stdin.buffer:
        if line == b"\n":
            return needles
        needles.append(line.removesuffix(b"\n"))
    return None


def told(tails: list[tuple[bytes, int]]) -> bytes:
    """Return the answer: the size and the length of the tail of each stream, then the tails."""
    numbers = [number for tail, size in tails for number in (size, len(tail))]
    return b"%d %d %d %d\n" % tuple(numbers) + b"".join(tail for tail, _ in tails)


def _answer(streams: list[_Stream]) -> None:
    answer = told([stream.sum_up() for stream in streams])
    write_times(*(stream.log for stream in streams))
    try:
        while answer:
            answer = answer[os.write(_ANSWER, answer) :]
    except OSError:  # whoever asked is gone
        pass
    os.close(_ANSWER)


if __name__ == "__main__":
    sys.exit(main())
