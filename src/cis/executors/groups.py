"""What descends from an attempt where nobody can be made its heir: its process group, and what ``ps`` shows below it.

A look costs a process of its own, so there is one only when an attempt is being ended, or when its group outlives its
leader. What left the group *and* lost its parent before that look is not found.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from signal import SIGCONT, SIGKILL

from cis.executors.platform import group_is_alive, signal_group
from cis.executors.processes import Seen, processes, signal_if_still


@dataclass(slots=True)
class _Line:
    """An attempt: its leader, and which processes were seen to be of it, by pid."""

    leader: int
    known: dict[int, Seen] = field(default_factory=dict)
    told: bool = False
    all_told: bool = False


class Groups:
    """Anywhere. ``portable`` keeps off ``/proc``."""

    look_every_s = 0.1

    def __init__(self, *, portable: bool) -> None:
        self._portable = portable
        self._lines: dict[int, _Line] = {}

    def begin(self, leader: int, *, stamp: int | None, marks: Mapping[str, str]) -> None:  # noqa: ARG002 - see Descendants
        """Take in an attempt whose leader was just started."""
        self._lines[leader] = _Line(leader)

    def look(self) -> None:
        """Do nothing: only ``left_by`` costs anything here."""

    def left_by(self, leader: int) -> bool:
        """Whether the group is not empty, or anything is left of what was seen, or neither can be told now."""
        line = self._lines[leader]
        if not line.known and not group_is_alive(leader):
            return False
        return not self._see(line) or any(not seen.dead for seen in line.known.values())

    def signal(self, leader: int, number: int, *, reaped: bool) -> None:
        """Send TERM, once, or KILL to the group, and to what is seen beside it, as soon as that can be looked for."""
        line = self._lines[leader]
        if number != SIGKILL and line.all_told:
            return
        line.all_told = self._see(line)
        if number == SIGKILL or not line.told:
            signal_group(leader, number)
            signal_group(leader, SIGCONT)  # a stopped process would never see TERM
        line.told = True
        for seen in list(line.known.values()):
            if seen.dead or seen.group == leader or (reaped and seen.pid == leader):
                continue
            try:
                if not signal_if_still(seen, number, portable=self._portable):
                    del line.known[seen.pid]
            except OSError:  # there is no descriptor to make sure that it is the same
                line.all_told = False

    def forget(self, leader: int) -> tuple[int, ...]:
        """Let an attempt go; return what is left of it."""
        line = self._lines.pop(leader)
        return tuple(sorted(pid for pid, seen in line.known.items() if not seen.dead))

    def close(self) -> None:
        """Nothing is held here."""

    def _see(self, line: _Line) -> bool:
        """Look at all processes: those that were seen before, whoever is in their groups, and whoever is below them.

        False: the machine is short of what that takes, so nothing new is known.
        """
        try:
            table = {seen.pid: seen for seen in processes(portable=self._portable)}
        except OSError:
            return False
        found = {
            pid: table[pid] for pid, seen in line.known.items() if pid in table and table[pid].started == seen.started
        }
        if line.leader in table and table[line.leader].group == line.leader:
            found[line.leader] = table[line.leader]
        found |= {pid: seen for pid, seen in table.items() if seen.group == line.leader}
        line.known = _with_those_below(found, table.values())
        return True


def _with_those_below(found: dict[int, Seen], everybody: Iterable[Seen]) -> dict[int, Seen]:
    below: dict[int, list[Seen]] = {}
    for seen in everybody:
        below.setdefault(seen.parent, []).append(seen)
    todo = list(found)
    while todo:
        for seen in below.get(todo.pop(), ()):
            if seen.pid not in found:
                found[seen.pid] = seen
                todo.append(seen.pid)
    return found
