"""Ends that may be the doing of a signal that everybody got, judged a moment later than others.

A service manager that stops a node may send TERM to all of its processes at once (``KillMode=control-group``, ``podman kill --all``, a
shutdown). A task that ends by it has not failed, it was cut short with its worker; but its end may be seen before the worker
knows. So an end by such a signal, unasked, waits for a moment: if the worker was told to stop as well by then, the attempt is lost, and
tried again. A task may also catch the signal and end with any status; so, once a worker with a supervisor was told to
stop, every end waits for a second: if it is told once more, by the supervisor beside whoever tells everybody, all of them were cut short.
"""

from __future__ import annotations

from collections.abc import Iterator
from signal import SIGHUP, SIGINT, SIGTERM
from typing import NamedTuple

from cis.engine.instant import Instant
from cis.engine.live import Ending, Live
from cis.engine.ports import Exit

MOMENT_S = 0.25
TOLD_AGAIN_WITHIN_S = 1.0
_SHELL = 128  # what a shell adds to the signal that ended its command
_TOLD = frozenset(code for number in (SIGHUP, SIGINT, SIGTERM) for code in (-number, _SHELL + number))
_NEVER = float("inf")


class _Doubt(NamedTuple):
    live: Live
    ended: Exit
    at_us: int
    due_s: float


class Doubts:
    """The ends that are not judged yet; their attempts count as running."""

    def __init__(self) -> None:
        self._open: list[_Doubt] = []
        self._all_until_s = 0.0

    def doubt_all(self, *, until_s: float) -> None:
        """Hold every end until then."""
        self._all_until_s = until_s

    def hold(self, live: Live, ended: Exit, now: Instant) -> bool:
        """Take an end that nobody asked for, if it is one to doubt; return whether it was taken."""
        if live.ending is not None or not (ended.exit_code in _TOLD or now.mono_s < self._all_until_s):
            return False
        live.pid_stored = True  # its number may be somebody else's from now on
        due_s = max(self._all_until_s, now.mono_s + MOMENT_S if ended.exit_code in _TOLD else 0.0)
        self._open.append(_Doubt(live, ended, now.wall_us, due_s))
        return True

    def settled(self, now_s: float, *, stopping: bool) -> Iterator[tuple[Exit, int]]:
        """Give up the ends that can be judged, each with the moment of it; one by a signal is lost while the worker stops."""
        if not self._open:
            return
        still = []
        for doubt in self._open:
            told = stopping and doubt.ended.exit_code in _TOLD
            if doubt.live.ending is None and not told and now_s < doubt.due_s:
                still.append(doubt)
                continue
            if told:
                doubt.live.ending = doubt.live.ending or Ending.STOP
            yield doubt.ended, doubt.at_us
        self._open = still

    def next_due_s(self) -> float:
        """Return when there is something to judge; infinity when never."""
        return min((doubt.due_s for doubt in self._open), default=_NEVER)
