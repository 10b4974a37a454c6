"""The attempts whose processes live now: their time limits, and how each is brought to its end.

Ending takes two steps: TERM to the process group, then, after a grace period, KILL. Why an attempt was ended decides
what its exit means (``cis.engine.run.ends``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import StrEnum

from cis.engine.ports import Executor, Exit
from cis.engine.shortage import shortage_of
from cis.store.records import AttemptRecord

_NEVER = float("inf")
PID_AGAIN_S = 1.0


class Ending(StrEnum):
    """Why a process is being ended."""

    TIMEOUT = "timeout"
    CANCEL = "cancel"
    STOP = "stop"


@dataclass(slots=True, kw_only=True)
class Live:
    """A started attempt. Times are monotonic seconds; ``outputs`` is its ``CIS_OUTPUT``, ``mask`` what not to show.

    ``script`` is the file that holds its command, where it has one. ``good_codes`` are the exit statuses that are no
    failure (empty: 0 alone). ``captured`` is the output that its standard output is, and where that is kept.

    ``started_up_us`` and ``ended_up_us`` are how long the machine had been up, awake or asleep. One that is ``lasting``
    is held to its time limit by the executor, and goes on when this worker stops.
    """

    attempt: AttemptRecord
    started_s: float
    started_up_us: int
    timeout_s: float | None
    outputs: str
    mask: Sequence[bytes] = ()
    ending: Ending | None = None
    kill_at_s: float = _NEVER
    pid_stored: bool = False
    pid_asked_s: float = 0.0
    ended_up_us: int = 0
    lasting: bool = False
    script: str | None = None
    good_codes: Sequence[int] = ()
    captured: tuple[str, str] | None = None

    def is_of(self, run_ids: AbstractSet[str], tasks: AbstractSet[tuple[str, int]]) -> bool:
        """Whether it is of one of these runs, or of these tasks, by run and number."""
        attempt = self.attempt
        return attempt.run_id in run_ids or (attempt.run_id, attempt.task_no) in tasks

    @property
    def due_s(self) -> float:
        """When something has to be done about it: its time limit, or KILL."""
        if self.ending is not None:
            return self.kill_at_s
        return _NEVER if self.timeout_s is None or self.lasting else self.started_s + self.timeout_s


class LiveAttempts:
    """All live attempts of one worker, by the executor's handle."""

    def __init__(self, executor: Executor, *, grace_s: float) -> None:
        self._executor = executor
        self._grace_s = grace_s
        self._by_handle: dict[str, Live] = {}

    def __len__(self) -> int:
        return len(self._by_handle)

    def __iter__(self) -> Iterator[Live]:
        return iter(self._by_handle.values())

    def add(self, handle: str, live: Live) -> None:
        """Take in a process that was just started."""
        self._by_handle[handle] = live

    def get(self, handle: str) -> Live:
        """Return an attempt by its handle."""
        return self._by_handle[handle]

    def pop(self, handle: str) -> Live:
        """Give up a process that has ended."""
        return self._by_handle.pop(handle)

    def note_ends(self, exits: Sequence[Exit], *, up_us: int) -> None:
        """Note when attempts ended, by the machine's uptime; of a lasting one its executor says how long it took."""
        for ended in exits:
            live = self._by_handle[ended.handle]
            live.ended_up_us = up_us if ended.took_us is None else live.started_up_us + ended.took_us

    def let_lasting_go(self) -> None:
        """Leave the lasting attempts that run to whoever takes them up next."""
        for handle in [handle for handle, live in self._by_handle.items() if live.lasting]:
            if self._executor.let_go(handle):
                del self._by_handle[handle]

    def has(self, attempt: AttemptRecord) -> bool:
        """Whether the process of this attempt is one of ours."""
        key = (attempt.run_id, attempt.task_no, attempt.attempt)
        return any((a.run_id, a.task_no, a.attempt) == key for a in (live.attempt for live in self))

    def end_where(self, chosen: Callable[[Live], bool], why: Ending, *, now_s: float) -> None:
        """Begin to end each chosen attempt that is not being ended yet."""
        for handle, live in self._by_handle.items():
            if live.ending is None and chosen(live):
                self._begin(handle, live, why, now_s=now_s)

    def end(self, handle: str, why: Ending, *, now_s: float) -> None:
        """Begin to end one attempt."""
        self._begin(handle, self._by_handle[handle], why, now_s=now_s)

    def kill_where(self, chosen: Callable[[Live], bool]) -> None:
        """Have the next ``tick`` send KILL to each chosen attempt; each is lost unless it was being ended."""
        for live in self:
            if chosen(live):
                live.ending = live.ending or Ending.STOP
                live.kill_at_s = min(live.kill_at_s, 0.0)  # at the next tick, and then once a second

    def kill_all(self) -> None:
        """Send KILL to every process at once; each counts as lost unless it was being ended already."""
        for handle, live in self._by_handle.items():
            live.ending = live.ending or Ending.STOP
            live.kill_at_s = _NEVER
            self._executor.end(handle, force=True)

    def tick(self, now_s: float) -> None:
        """Act on time limits and grace periods that are over."""
        for handle, live in self._by_handle.items():
            if live.due_s > now_s:
                continue
            if live.ending is None:
                self._begin(handle, live, Ending.TIMEOUT, now_s=now_s)
            else:
                self._executor.end(handle, force=True)
                live.kill_at_s = now_s + 1.0

    def next_due_s(self) -> float:
        """Return when ``tick`` has something to do; infinity when never."""
        return min((live.due_s for live in self), default=_NEVER)

    def take_pids(self, *, older_than_s: float) -> list[AttemptRecord]:
        """Return attempts that have lived for a moment, with pid and start time, once for each.

        Most tasks end sooner and spare the database this write; an orphan of that first moment is found by the
        variables in its environment. One whose start time cannot be read for a shortage is asked for again.
        """
        found = []
        for handle, live in self._by_handle.items():
            if not live.pid_stored and live.pid_asked_s <= older_than_s and live.started_s <= older_than_s:
                try:
                    identity = self._executor.identity(handle)
                except OSError as error:
                    if shortage_of(error) is None:
                        raise
                    live.pid_asked_s = older_than_s + PID_AGAIN_S
                    continue
                if identity is None and live.lasting:  # it has not said yet
                    live.pid_asked_s = older_than_s + PID_AGAIN_S
                    continue
                if identity is not None:
                    live.attempt = live.attempt._replace(pid=identity.pid, pid_started=identity.started)
                live.pid_stored = True
                found.append(live.attempt)
        return found

    def oldest_without_pid_s(self) -> float:
        """Return when the oldest attempt whose pid is not stored was started, or asked for; infinity when none is."""
        return min((max(live.started_s, live.pid_asked_s) for live in self if not live.pid_stored), default=_NEVER)

    def _begin(self, handle: str, live: Live, why: Ending, *, now_s: float) -> None:
        live.ending = why
        live.kill_at_s = now_s + self._grace_s
        self._executor.end(handle, force=False)
