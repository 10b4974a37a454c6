"""Ends what attempts left behind when their worker died, before their tasks may be tried again.

Three ways lead to an orphan. Its number: the group *pid* is killed if the process of that number is still the one that
started then, so a reused number harms nobody. Its stamp (``cis.executors.linux.stamps``) and its environment: every
process, in whatever session it hides, that wears or carries the marks of the attempt (Linux only). New ones may be
forked while we look, so we look until none is left. A look goes once through all processes, however many attempts there
were.

A copy of a home has the same runs and the same numbers, so whoever looks says for which home. The home is part of the
stamp, and a process that has its ``CIS_OUTPUT`` below another home is let be.

``Inherited`` reaps children that others started: what tasks left, once their worker is gone, and, for PID 1 of a
container, anybody's.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from cis.engine.ports import Orphan, StrPath
from cis.errors import OrphanError
from cis.executors.attempt_folder import AttemptFolders
from cis.executors.linux.stamps import stamp_of, stamp_on
from cis.executors.platform import (
    all_pids,
    ancestry,
    environment_of,
    is_dead,
    kill_if_still,
    living_groups,
    process_started,
    signal_group,
)
from cis.executors.processes import children_of

TIMEOUT_S = 10.0
_LOOK_AGAIN_S = 0.01
_LOOKS = 10
_UNCLEAR_S = 2.0
_OUTPUT = (
    b"CIS_OUTPUT="  # a file below the home; scripts do not change it, as they do CIS_HOME, and it was always there
)


class Wanted(NamedTuple):
    """What marks the processes of attempts in *home*: all marks of one in their environment, or a stamp."""

    entries: tuple[frozenset[bytes], ...]
    stamps: frozenset[int]
    home: StrPath | None

    def has(self, pid: int) -> bool | None:
        """Whether a process is marked; None while it is in the middle of ``exec``, and nothing can be told."""
        if self.stamps and stamp_on(pid) in self.stamps and not is_dead(pid):
            return True
        environment = environment_of(pid)
        if environment is None:
            return None
        return any(entries <= environment for entries in self.entries) and not _of_another(self.home, environment)


def kill_orphans(
    orphans: Sequence[Orphan],
    *,
    home: StrPath | None = None,
    attempts: StrPath | None = None,
    portable: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> Collection[str]:
    """Kill the group of each, if it is still that one, and every process with its marks; return when all are gone.

    Never this process or one above it, nor what says that it is of another *home*. ``portable`` does without ``/proc``,
    and so without the marks. Lasting attempts whose guardian lives, as the folder *attempts* tells, are let be, and
    their handles returned.

    Raises:
        OrphanError: some are still there after *timeout_s*.
    """
    lasting = frozenset[str]()
    if attempts is not None:
        folders = AttemptFolders(attempts)
        lasting = frozenset(one.handle for one in orphans if one.handle and folders.lives(one.handle))
        orphans = [one for one in orphans if one.handle not in lasting]
    if not orphans:
        return lasting
    spared = ancestry()
    near = {*spared, os.getpgrp()}
    groups = [pid for one in orphans if (pid := _group_to_kill(one, home=home, portable=portable)) and pid not in near]
    wanted = _wanted([] if portable else [one.marks for one in orphans if one.marks], home)
    began_s = time.monotonic()
    while True:
        left, unclear = _kill_once(groups, wanted, spared)
        waited_s = time.monotonic() - began_s
        if not left and (not unclear or waited_s >= _UNCLEAR_S):
            return lasting
        if left and waited_s >= timeout_s:
            raise OrphanError(left, timeout_s=timeout_s)
        time.sleep(_LOOK_AGAIN_S)


def _wanted(marks: Iterable[Mapping[str, str]], home: StrPath | None) -> Wanted:
    entries, stamps = [], set()
    for some in marks:
        entries.append(frozenset(os.fsencode(f"{name}={value}") for name, value in some.items()))
        stamp = stamp_of(some, home=home)
        if stamp is not None:
            stamps.add(stamp)
    return Wanted(tuple(entries), frozenset(stamps), home)


def _group_to_kill(orphan: Orphan, *, home: StrPath | None, portable: bool) -> int | None:
    pid, pid_started = orphan.pid, orphan.pid_started
    if pid is None or pid_started is None or process_started(pid, portable=portable) != pid_started:
        return None
    return None if not portable and _of_another(home, _environment_after_exec(pid)) else pid


def _environment_after_exec(pid: int) -> frozenset[bytes]:
    """Return what a process has in its environment; one in the middle of an ``exec`` shows none, and is asked again."""
    began_s = time.monotonic()
    while (environment := environment_of(pid)) is None and time.monotonic() - began_s < _UNCLEAR_S:
        time.sleep(_LOOK_AGAIN_S)
    return environment or frozenset()


def _of_another(home: StrPath | None, environment: frozenset[bytes]) -> bool:
    """Whether a process says that it is of another home than *home*; one that says nothing is not."""
    if home is None:
        return False
    inside = os.fsencode(os.path.join(os.path.realpath(home), ""))
    outputs = [entry.removeprefix(_OUTPUT) for entry in environment if entry.startswith(_OUTPUT)]
    return any(not os.path.realpath(path).startswith(inside) for path in outputs)


def _kill_once(groups: Sequence[int], wanted: Wanted, spared: frozenset[int]) -> tuple[list[int], frozenset[int]]:
    """Send KILL to whatever is there; return it, and the processes of which it cannot be told yet."""
    # A group keeps its number as long as it has members, so one that was ours at first is ours to the end.
    found = living_groups(groups)
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


class Inherited:
    """Reaps children that others gave this process, once they have ended, so that no zombies pile up.

    What ended between two looks is let be until the next: whoever started it here takes its status at once.
    """

    def __init__(self) -> None:
        self._ended: set[int] = set()

    def reap(self, mine: Container[int]) -> None:
        """Reap the children that had ended by the last look already, but those in *mine*, for which somebody waits."""
        try:
            ended = {pid for pid in children_of(os.getpid()) if pid not in mine and is_dead(pid)}
        except OSError:  # there is no descriptor to look with: at the next look, perhaps
            return
        for pid in ended & self._ended:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self._ended = ended
