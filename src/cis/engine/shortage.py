"""What becomes of tasks when the machine has no process, descriptor or memory left to start them with.

That is no failure of a task: what runs goes on, and what cannot start is put back as if it had never been tried, and
waits. So many as ran when something was short may run at once from then on. One more is tried after a pause, first of
``FIRST_PAUSE_S``, doubled up to ``LONGEST_PAUSE_S`` each time that something is short again; each that starts lets
another one be tried soon. The bound is gone when the worker's slots are full, or nothing waits.
"""

from __future__ import annotations

import errno

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
SHORTAGES = {
    errno.EMFILE: "too many open files; use fewer slots, or raise the limit (ulimit -n)",
    errno.ENFILE: "too many open files on this machine; use fewer slots",
    errno.EAGAIN: "too many processes; use fewer slots, or raise the limit (ulimit -u)",
    errno.ENOMEM: "not enough memory for another process; use fewer slots",
}


def shortage_of(error: BaseException | None) -> str | None:
    """Return what the machine is short of, with the mend, if that led to *error*; None: it is no shortage."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in SHORTAGES:
            return SHORTAGES[error.errno]
        error = error.__cause__
    return None


class Shortage:
    """What the machine was short of when the last start failed, and how many attempts may run until that has passed."""

    __slots__ = ("due_s", "most", "pause_s", "words")

    def __init__(self, words: str, most: int, due_s: float, pause_s: float = FIRST_PAUSE_S) -> None:
        self.words = words
        self.most = most
        self.due_s = due_s
        self.pause_s = pause_s

    def room(self, now_s: float) -> int:
        """Return how many attempts may run now: one more than ran at last when the pause is over."""
        return self.most + (now_s >= self.due_s)

    def again(self, words: str, *, running: int, now_s: float) -> None:
        """Take in that something is still short."""
        self.words, self.most = words, running
        self.pause_s = min(2 * self.pause_s, LONGEST_PAUSE_S)
        self.due_s = now_s + self.pause_s

    def started(self, *, running: int, now_s: float) -> None:
        """Take in that an attempt was started."""
        if running > self.most:
            self.most = running
            self.pause_s = FIRST_PAUSE_S
            self.due_s = now_s + FIRST_PAUSE_S
