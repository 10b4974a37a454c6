"""Ends what an attempt left behind when its worker died, before the task may be tried again.

Three ways lead to an orphan. Its number: the group *pid* is killed if the process of that number is still the one that
started then, so a reused number harms nobody. Its stamp (``cis.executors.stamps``) and its environment: every process, in
whatever session it hides, that wears or carries the marks of the attempt (Linux only). New ones may be forked while we
look, so we look until none is left.

A copy of a home has the same runs and the same numbers, so whoever looks says for which home: that is part of the stamp, and what has
its ``CIS_OUTPUT`` below another one belongs to that, and is let be.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from typing import NamedTuple

from cis.engine.ports import StrPath
from cis.errors import OrphanError
from cis.executors.platform import (
    all_pids,
    ancestry,
    environment_of,
    group_is_alive,
    is_dead,
    kill_if_still,
    process_started,
    signal_group,
)
from cis.executors.stamps import stamp_of, stamp_on

PATIENCE_S = 10.0
_LOOK_AGAIN_S = 0.01
_LOOKS = 10
_UNCLEAR_S = 2.0
_OUTPUT = (
    b"CIS_OUTPUT="  # a file below the home; scripts do not change it, as they do CIS_HOME, and it was always there
)


class Wanted(NamedTuple):
    """What marks the processes of an attempt in *home*: entries of the environment, all of them, or a stamp."""

    entries: frozenset[bytes]
    stamp: int | None
    home: StrPath | None

    def has(self, pid: int) -> bool | None:
        """Whether a process is marked; None while it is in the middle of ``exec``, and nothing can be told."""
        if self.stamp is not None and stamp_on(pid) == self.stamp and not is_dead(pid):
            return True
        environment = environment_of(pid)
        if environment is None:
            return None
        return self.entries <= environment and not _of_another(self.home, environment)


def kill_orphan(
    *,
    pid: int | None,
    pid_started: str | None,
    marks: Mapping[str, str],
    home: StrPath | None = None,
    portable: bool = False,
    patience_s: float = PATIENCE_S,
) -> None:
    """Kill the group *pid*, if it is still that one, and every process with the *marks*; return when they are gone.

    Never this process or one above it, nor what says that it is of another *home*. ``portable`` does without ``/proc``,
    and so without the marks.

    Raises:
        OrphanError: some are still there after *patience_s*.
    """
    spared = ancestry()
    group = None if pid in {*spared, os.getpgrp()} else _group_to_kill(pid, pid_started, home=home, portable=portable)
    entries = frozenset() if portable else frozenset(os.fsencode(f"{name}={value}") for name, value in marks.items())
    wanted = Wanted(entries, stamp_of(marks, home=home) if entries else None, home)
    began_s = time.monotonic()
    while True:
        left, unclear = _kill_once(group, wanted, spared)
        waited_s = time.monotonic() - began_s
        if not left and (not unclear or waited_s >= _UNCLEAR_S):
            return
        if left and waited_s >= patience_s:
            raise OrphanError(left, patience_s=patience_s)
        time.sleep(_LOOK_AGAIN_S)


def _group_to_kill(pid: int | None, pid_started: str | None, *, home: StrPath | None, portable: bool) -> int | None:
    if pid is None or pid_started is None or process_started(pid, portable=portable) != pid_started:
        return None
    return None if not portable and _of_another(home, environment_of(pid) or frozenset()) else pid


def _of_another(home: StrPath | None, environment: frozenset[bytes]) -> bool:
    """Whether a process says that it is of another home than *home*; one that says nothing is not."""
    if home is None:
        return False
    inside = os.fsencode(os.path.join(os.path.realpath(home), ""))
    outputs = [entry.removeprefix(_OUTPUT) for entry in environment if entry.startswith(_OUTPUT)]
    return any(not os.path.realpath(path).startswith(inside) for path in outputs)


def _kill_once(group: int | None, wanted: Wanted, spared: frozenset[int]) -> tuple[list[int], frozenset[int]]:
    """Send KILL to whatever is there; return it, and the processes of which it cannot be told yet."""
    # A group keeps its number as long as it has members, so one that was ours at first is ours to the end.
    found = [group] if group is not None and group_is_alive(group) else []
    for number in found:
        signal_group(number, signal.SIGKILL)
    if not wanted.entries:
        return found, frozenset()
    marked, unclear = _marked(wanted, spared)
    for pid in marked:
        kill_if_still(pid, lambda pid: wanted.has(pid) is True)
    return [*found, *(pid for pid in marked if pid not in found)], unclear


def _marked(wanted: Wanted, spared: frozenset[int]) -> tuple[list[int], frozenset[int]]:
    """Return the processes that are *wanted*, also those that were forked while the others were looked at.

    Every look takes only what is new since the last, so the last ones are too quick to slip away from; on a machine
    that never stops forking the number of looks is bounded. Also returned: processes in the middle of ``exec``.
    """
    found: list[int] = []
    unclear: set[int] = set()
    seen = set(spared)
    for _ in range(_LOOKS):
        new = set(all_pids()) - seen
        if not new:
            break
        seen |= new
        for pid in new:
            has = wanted.has(pid)
            if has is None:
                unclear.add(pid)
            elif has:
                found.append(pid)
    return found, frozenset(unclear)
