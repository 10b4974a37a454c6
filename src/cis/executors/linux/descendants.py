"""Everything that descends from an attempt, in whatever group or session it hides, as long as this process lives.

On Linux a worker is a *child subreaper* (prctl(2)): a process below it whose parent ends becomes its own child, and not
init's. So nothing that a task starts gets out from under the worker, and one short read of the list of its children
tells, after each process that ended, whether that one left anything. Which attempt a stray child belongs to its stamp
tells (``cis.executors.linux.stamps``), its group, or its environment; one that shed all three is ended with the last
attempt that runs, at the latest.

Elsewhere, and in a process that starts other things than tasks, there are groups, and what ``ps`` shows while parents
are still there (``cis.executors.groups``).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from cis.engine.shortage import shortage_of
from cis.executors.linux.stamps import stamp_on
from cis.executors.platform import environment_of, signal_group
from cis.executors.processes import Seen, children_of, see, signal_if_still

log = logging.getLogger(__name__)

_SET_CHILD_SUBREAPER = 36  # prctl(2)
_LIST_BYTES = 1 << 20
_WHOLE_BYTES = 4096 - 16  # the kernel gives whole numbers, up to a page at a time: a shorter answer is all there is
_LOOKS = 10


class Descendants(Protocol):
    """Knows what is left of attempts, by the pids of their first processes, their *leaders*."""

    look_every_s: float

    def begin(self, leader: int, *, stamp: int | None, marks: Mapping[str, str]) -> None:
        """Take in an attempt whose leader was just started."""
        ...

    def look(self) -> None:
        """See what is there now; cheap, and to be done before ``left_by`` is asked."""
        ...

    def left_by(self, leader: int) -> bool:
        """Whether anything of an attempt is left whose leader has ended and was reaped."""
        ...

    def signal(self, leader: int, number: int, *, reaped: bool) -> None:
        """Send a signal to the leader, unless it was *reaped*, and to all that descends from it."""
        ...

    def forget(self, leader: int) -> tuple[int, ...]:
        """Let an attempt go; what is left of it may stay, and is returned."""
        ...

    def close(self) -> None: ...


@dataclass(slots=True)
class _Line:
    """An attempt: its leader, what marks its processes, and strays that are known to be its own."""

    leader: int
    stamps: set[int]
    entries: frozenset[bytes]
    strays: set[int] = field(default_factory=set)
    claimed: set[int] = field(default_factory=set)
    told: set[tuple[int, str]] = field(default_factory=set)
    all_told: bool = False


class Adopted:
    """Linux: this process is the subreaper of all that it starts.

    ``is_awaited`` says whether somebody here waits for a child of that number; every other child is a stray, which is
    reaped when it has ended. What was a child before, and what an attempt was allowed to leave, is let be.
    """

    look_every_s = 0.02

    def __init__(self, is_awaited: Callable[[int], bool]) -> None:
        self._is_awaited = is_awaited
        self._list = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)
        self._lines: dict[int, _Line] = {}
        self._by_stamp: dict[int, _Line] = {}
        self._let_be: dict[int, int | None] = dict.fromkeys(self._children())
        self._unclaimed: set[int] = set()
        self._unread: set[int] = set()  # strays of which nothing can be told for want of a descriptor
        self._is_init = os.getpid() == 1  # who also gets what others left, such as a ``docker exec``

    def begin(self, leader: int, *, stamp: int | None, marks: Mapping[str, str]) -> None:
        """Take in an attempt whose leader was just started."""
        entries = (
            frozenset(os.fsencode(f"{name}={value}") for name, value in marks.items()) if stamp is None else frozenset()
        )
        line = _Line(leader, {stamp} if stamp is not None else set(), entries)
        self._lines[leader] = line
        if stamp is not None:
            self._by_stamp[stamp] = line

    def look(self) -> None:
        """Find the strays among the children of this process, and reap those that have ended."""
        children = self._children()
        if all(map(self._is_awaited, children)):
            if self._unclaimed or self._unread or self._let_be:
                self._unclaimed.clear()
                self._unread.clear()
                self._let_be.clear()
            for line in self._lines.values():
                if line.strays or line.claimed:
                    line.strays.clear()
                    line.claimed.clear()
            return
        self._sort(pid for pid in children if not self._is_awaited(pid) and not _reaped(pid))

    def left_by(self, leader: int) -> bool:
        """Whether a stray is left of an attempt, or one is there that may be its own and cannot be looked at now.

        The last one that runs answers for those that nothing tells of.
        """
        line = self._lines[leader]
        if self._unclaimed and len(self._lines) == 1 and not self._is_init:
            line.claimed |= self._unclaimed
            self._unclaimed.clear()
        return bool(line.strays or line.claimed or self._unread)

    def signal(self, leader: int, number: int, *, reaped: bool) -> None:
        """Send TERM to all of an attempt, once to each, or KILL, also to what is forked while it is gone through.

        After the first TERM only what has lost its parent since is told: a program that ends in good order may start
        others. What cannot be looked at for want of a descriptor is told the next time; what is a child of this process
        gets KILL all the same.
        """
        line = self._lines[leader]
        for _ in range(_LOOKS if number == signal.SIGKILL else 1):
            self.look()
            roots = [*line.strays, *line.claimed]
            seen, unseen = _below(
                roots if reaped else [leader, *roots]
            )  # before any of them ends, and its children are elsewhere
            if number != signal.SIGKILL and line.told and line.all_told:
                seen = [one for one in seen if one.pid in roots]
            new = [one for one in seen if number == signal.SIGKILL or (one.pid, one.started) not in line.told]
            if not reaped:
                signal_group(leader, number)
                signal_group(leader, signal.SIGCONT)  # a stopped process would never see TERM
            for one in new:
                try:
                    self._note_stamp(line, one.pid)
                    if reaped or one.group != leader:
                        self._tell(line, one, number)
                    line.told.add((one.pid, one.started))
                except OSError:
                    unseen.add(one.pid)
            line.all_told = line.all_told or not unseen
            if number == signal.SIGKILL:
                for pid in unseen.intersection(roots):  # no other process has the number of a child before it is reaped
                    with suppress(PermissionError):
                        os.kill(pid, number)
            if not new:
                return

    def forget(self, leader: int) -> tuple[int, ...]:
        """Let an attempt go; what is left of it is let be, with what that starts later."""
        line = self._lines.pop(leader)
        for stamp in line.stamps:
            if self._by_stamp.get(stamp) is line:
                del self._by_stamp[stamp]
        if not (line.strays or line.claimed):
            return ()
        left = tuple(sorted(line.strays | line.claimed))
        self._let_be.update(dict.fromkeys(left, next(iter(line.stamps), None)))
        return left

    def close(self) -> None:
        """Give the descriptor back, and inherit nothing more."""
        os.close(self._list)
        adopt_descendants(on=False)

    def _children(self) -> list[int]:
        found = data = os.pread(self._list, _LIST_BYTES, 0)
        while len(data) > _WHOLE_BYTES:
            data = os.pread(self._list, _LIST_BYTES, len(found))
            found += data
        return [int(pid) for pid in found.split()]

    def _sort(self, alive: Iterable[int]) -> None:
        claims = {pid: line for line in self._lines.values() for pid in line.claimed}
        owners = {pid: line for line in self._lines.values() for pid in line.strays}
        let_be, self._let_be = self._let_be, {}
        left_stamps = set(let_be.values()) - {None}
        for line in self._lines.values():
            line.strays.clear()
            line.claimed.clear()
        self._unclaimed.clear()
        self._unread.clear()
        for pid in alive:
            stamp, owner = None, owners.get(pid)
            try:
                stamp = None if pid in let_be else stamp_on(pid)
                owner = (
                    None if pid in let_be else self._line_of(pid, stamp) or owner
                )  # one that ends shows nothing more
            except OSError:  # there is no descriptor to read it with now: what was known of it holds
                if owner is None and pid not in claims:
                    self._unread.add(pid)
                    continue
            if owner is not None:
                owner.strays.add(pid)
            elif pid in let_be or stamp in left_stamps:
                self._let_be[pid] = let_be.get(pid, stamp)
            elif pid in claims:
                claims[pid].claimed.add(pid)
            else:
                self._unclaimed.add(pid)

    def _line_of(self, pid: int, stamp: int | None) -> _Line | None:
        if stamp is not None and stamp in self._by_stamp:
            return self._by_stamp[stamp]
        with suppress(ProcessLookupError, PermissionError):
            leader = os.getpgid(pid)
            if leader in self._lines:
                return self._lines[leader]
        marked = [line for line in self._lines.values() if line.entries]
        environment = environment_of(pid) if marked and stamp is None else None
        return next((line for line in marked if environment and line.entries <= environment), None)

    def _note_stamp(self, line: _Line, pid: int) -> None:
        """A task may itself be a worker: what its tasks wear tells of this one, too, should their parents end."""
        stamp = stamp_on(pid)
        if stamp is not None and stamp not in self._by_stamp:
            line.stamps.add(stamp)
            self._by_stamp[stamp] = line

    def _tell(self, line: _Line, seen: Seen, number: int) -> None:
        if signal_if_still(seen, number):
            return
        log.warning("a process of a task cannot be ended: it is another user's", extra={"pid": seen.pid})
        for mine in (line.strays, line.claimed):
            if seen.pid in mine:
                mine.discard(seen.pid)
                self._let_be[seen.pid] = None


def adopt_descendants(*, on: bool = True) -> bool:
    """Make this process the heir of its descendants; return whether it is, and can tell its children."""
    if sys.platform != "linux" or not os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
        return False
    try:
        import ctypes  # noqa: PLC0415 - Python has no prctl, and a worker alone wants it

        return bool(ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, int(on), 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError) as error:
        if shortage_of(error) is not None:
            raise
        return False


def _reaped(pid: int) -> bool:
    """Take the status of a child that nobody waits for; whether it has ended."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True


def _below(roots: Iterable[int]) -> tuple[list[Seen], set[int]]:
    """Return *roots* and all below them that can still do something, and those that cannot be looked at now."""
    found: dict[int, Seen] = {}
    unseen: set[int] = set()
    todo = list(roots)
    while todo:
        pid = todo.pop()
        if pid in found:
            continue
        try:
            seen = see(pid)
            if seen is None:
                continue
            found[pid] = seen
            todo += children_of(pid)
        except OSError:
            unseen.add(pid)
    return [seen for seen in found.values() if not seen.dead], unseen
