"""Ends what an attempt left behind when its worker died, before the task may be tried again.

Two ways lead to an orphan. Its number: the group *pid* is killed if the process of that number is still the one that
started then, so a reused number harms nobody. Its environment: every process, in whatever session it hides, that
carries the marks of the attempt (Linux only). New ones may be forked while we look, so we look until none is left.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping

from cis.errors import OrphanError
from cis.executors.platform import (
    all_pids,
    ancestry,
    environment_of,
    group_is_alive,
    kill_if_still,
    process_started,
    signal_group,
)

PATIENCE_S = 10.0
_LOOK_AGAIN_S = 0.01


def kill_orphan(
    *,
    pid: int | None,
    pid_started: str | None,
    marks: Mapping[str, str],
    portable: bool = False,
    patience_s: float = PATIENCE_S,
) -> None:
    """Kill the group *pid*, if it is still that one, and every process with all *marks*; return when they are gone.

    Never this process or one above it. ``portable`` does without ``/proc``, and so without the marks.

    Raises:
        OrphanError: some are still there after *patience_s*.
    """
    spared = ancestry()
    group = None if pid in {*spared, os.getpgrp()} else _group_to_kill(pid, pid_started, portable=portable)
    entries = frozenset() if portable else frozenset(os.fsencode(f"{name}={value}") for name, value in marks.items())
    deadline_s = time.monotonic() + patience_s
    while True:
        left = _kill_once(group, entries, spared)
        if not left:
            return
        if time.monotonic() >= deadline_s:
            raise OrphanError(left, patience_s=patience_s)
        time.sleep(_LOOK_AGAIN_S)


def _group_to_kill(pid: int | None, pid_started: str | None, *, portable: bool) -> int | None:
    if pid is None or pid_started is None:
        return None
    return pid if process_started(pid, portable=portable) == pid_started else None


def _kill_once(group: int | None, entries: frozenset[bytes], spared: frozenset[int]) -> list[int]:
    """Send KILL to whatever is there, and return it."""
    found = []
    # A group keeps its number as long as it has members, so one that was ours at first is ours to the end.
    if group is not None and group_is_alive(group):
        signal_group(group, signal.SIGKILL)
        found.append(group)
    if entries:
        marked = [pid for pid in all_pids() if pid not in spared and entries <= environment_of(pid)]
        for pid in marked:
            kill_if_still(pid, entries)
        found += [pid for pid in marked if pid != group]
    return found
